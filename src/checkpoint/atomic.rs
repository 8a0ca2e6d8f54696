//! A folder or file appears whole or not at all, whatever ends the process in between.
//!
//! Everything is written under a temporary name beside its place, synced, and renamed; the parent folder is
//! synced last, so that a save that has returned survives a power failure. Three temporary names exist, all
//! hidden and all ending in the process id: `.NAME.tmp-PID` is being written, `.NAME.old-PID` is the folder
//! that NAME replaces (no system call swaps two folders portably), `.NAME.trash-PID` is being deleted. A kill
//! may leave any of them behind; [`recover`] puts an `old` back where its successor never arrived, and
//! removes the rest.
//!
//! Boundary: files and names only. What a checkpoint consists of is `resume`'s.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use super::CheckpointError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Temporary,
    Replaced,
    Trash,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Temporary, Kind::Replaced, Kind::Trash];

    const fn name(self) -> &'static str {
        match self {
            Kind::Temporary => "tmp",
            Kind::Replaced => "old",
            Kind::Trash => "trash",
        }
    }
}

/// Writes a folder: `fill` puts its files into the temporary folder it is given. If `fill` fails or panics,
/// nothing has happened to `path`; if it succeeds, `path` is the new folder, and one that was there is gone.
pub fn save_folder<T, E: From<CheckpointError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = Temporary::new(path)?;
    fs::create_dir(&temporary.path).map_err(CheckpointError::io("create", &temporary.path))?;
    let result = fill(&temporary.path)?;
    sync_tree(&temporary.path)?;
    replace_folder(&temporary.path, path)?;
    Ok(result)
}

/// Writes a set of files into a folder that may hold others, such as a run folder: `fill` puts them (files
/// only) into a temporary folder, and when all are written and synced each is renamed into `dir`, replacing
/// its namesake. What `belongs` recognises by name as a part of the set, and `fill` did not write, is removed:
/// the shards of a larger model, say.
///
/// Each file is whole at any moment. The set is not: a kill between two renames leaves new files beside old
/// ones, which writing it again repairs. The file named `mark`, one of the set, tells: an old one goes first and the new
/// one comes last, so where it is, the set is whole.
pub fn save_into<T, E: From<CheckpointError>>(
    dir: &Path,
    mark: &str,
    belongs: impl Fn(&str) -> bool,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = Temporary::new(&dir.join("files"))?;
    fs::create_dir(&temporary.path).map_err(CheckpointError::io("create", &temporary.path))?;
    let result = fill(&temporary.path)?;
    sync_tree(&temporary.path)?;
    let written = list(&temporary.path)?;
    let place = |file: &Path| {
        let target = dir.join(file.file_name().unwrap_or_default());
        fs::rename(file, &target).map_err(CheckpointError::io("replace", &target))
    };
    remove_any(&dir.join(mark))?;
    sync_folder(dir)?;
    for file in written.iter().filter(|file| !file.ends_with(mark)) {
        place(file)?;
    }
    for path in list(dir)? {
        let is_new = written.iter().any(|file| file.file_name() == path.file_name());
        if !is_new && path.file_name().and_then(|name| name.to_str()).is_some_and(&belongs) {
            remove_any(&path)?;
        }
    }
    sync_folder(dir)?;
    for file in written.iter().filter(|file| file.ends_with(mark)) {
        place(file)?;
    }
    sync_folder(dir)?;
    Ok(result)
}

/// Writes a file. If `fill` fails or panics, nothing has happened to `path`.
pub fn save_file<T, E: From<CheckpointError>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = Temporary::new(path)?;
    let io = |action| CheckpointError::io(action, path);
    let mut writer = BufWriter::new(File::create(&temporary.path).map_err(io("create"))?);
    let result = fill(&mut writer)?;
    writer.flush().map_err(io("write"))?;
    writer.get_ref().sync_all().map_err(io("sync"))?;
    fs::rename(&temporary.path, path).map_err(io("replace"))?;
    sync_folder(parent_of(path))?;
    Ok(result)
}

/// Writes a file that is already in memory.
pub fn save_bytes(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    save_file(path, |writer| writer.write_all(bytes).map_err(CheckpointError::io("write", path)))
}

/// Deletes a folder so that no part of it is ever found under its name.
pub fn remove_folder(path: &Path) -> Result<(), CheckpointError> {
    let trash = temporary_path(path, Kind::Trash);
    remove_any(&trash)?;
    fs::rename(path, &trash).map_err(CheckpointError::io("remove", path))?;
    remove_any(&trash)
}

/// Clears what dead runs left in `dir`: puts back a replaced folder whose successor never arrived, removes
/// the other temporaries. To be called before this process writes there. A folder that is not there is clean.
pub fn recover(dir: &Path) -> Result<(), CheckpointError> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut entries: Vec<(PathBuf, Leftover)> = Vec::new();
    for path in list(dir)? {
        if let Some(leftover) = Leftover::parse(&path) {
            entries.push((path, leftover));
        }
    }
    for (path, leftover) in entries {
        let target = dir.join(&leftover.name);
        if leftover.kind == Kind::Replaced && !target.exists() {
            tracing::warn!("{}: put back after an interrupted save", target.display());
            fs::rename(&path, &target).map_err(CheckpointError::io("put back", &target))?;
            sync_folder(dir)?;
        } else if !leftover.belongs_to_another_process() {
            remove_any(&path)?;
        }
    }
    Ok(())
}

/// Whether a path has one of the names this module gives to what it has not finished.
pub fn is_leftover(path: &Path) -> bool {
    Leftover::parse(path).is_some()
}

/// A temporary path that is removed again unless it was renamed away.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Makes sure that the parent exists and that nothing of that name is left, from a dead process that had
    /// the same id.
    fn new(target: &Path) -> Result<Self, CheckpointError> {
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))?;
        let path = temporary_path(target, Kind::Temporary);
        remove_any(&path)?;
        Ok(Temporary { path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing to remove after a rename; and if removing fails, `recover` tries again.
        let _ = remove_any(&self.path);
    }
}

/// What a temporary name says.
struct Leftover {
    name: String,
    kind: Kind,
    process: u32,
}

impl Leftover {
    fn parse(path: &Path) -> Option<Self> {
        let (rest, process) = path.file_name()?.to_str()?.strip_prefix('.')?.rsplit_once('-')?;
        let (name, kind) = rest.rsplit_once('.')?;
        let kind = Kind::ALL.into_iter().find(|candidate| candidate.name() == kind)?;
        Some(Leftover { name: name.to_owned(), kind, process: process.parse().ok()? })
    }

    /// Whether the process it names is alive and not this one. In containers a new run often has the id of
    /// the dead one; before it writes, nothing under its own id can be its own. Where processes cannot be
    /// looked up, the owner is taken for dead: a run folder belongs to one run.
    fn belongs_to_another_process(&self) -> bool {
        self.process != process::id() && Path::new("/proc").join(self.process.to_string()).exists()
    }
}

fn temporary_path(target: &Path, kind: Kind) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}-{}", kind.name(), process::id()))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn replace_folder(new: &Path, path: &Path) -> Result<(), CheckpointError> {
    let parent = parent_of(path);
    if !path.exists() {
        fs::rename(new, path).map_err(CheckpointError::io("create", path))?;
        return sync_folder(parent);
    }
    let old = temporary_path(path, Kind::Replaced);
    remove_any(&old)?;
    fs::rename(path, &old).map_err(CheckpointError::io("replace", path))?;
    if let Err(error) = fs::rename(new, path) {
        // The old folder back in its place is worth more than a second report of the same trouble.
        let _ = fs::rename(&old, path);
        return Err(CheckpointError::io("replace", path)(error));
    }
    sync_folder(parent)?;
    remove_any(&old)
}

/// Syncs every file below a folder, then the folders.
fn sync_tree(dir: &Path) -> Result<(), CheckpointError> {
    for path in list(dir)? {
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows syncs only what is open for writing.
            let file = File::options().read(true).write(cfg!(not(unix))).open(&path);
            file.and_then(|file| file.sync_all()).map_err(CheckpointError::io("sync", &path))?;
        }
    }
    sync_folder(dir)
}

/// Makes the names in a folder durable. Only Unix can and must.
fn sync_folder(dir: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(CheckpointError::io("sync", dir))?;
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = fs::read_dir(dir).map_err(CheckpointError::io("list", dir))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(CheckpointError::io("list", dir))
}

/// Removes a file, folder or link; what is not there is removed.
fn remove_any(path: &Path) -> Result<(), CheckpointError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
