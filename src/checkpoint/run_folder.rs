//! Whether a run may write where it was told to: nothing is overwritten unless that was asked for, and then
//! only what an earlier run made.
//!
//! Boundary: decides and clears; creates no file of a run but `run.toml`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{CheckpointError, atomic};

/// The resolved configuration of a run, in its folder.
pub const RUN_FILE: &str = "run.toml";
/// How a [`RUN_FILE`] begins, which tells it from another program's.
const RUN_FILE_MARK: &str = "# asft run configuration";

/// What was asked for about a folder that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingRun {
    /// Refuse it.
    #[default]
    Refuse,
    /// Continue the run in it.
    Resume,
    /// Delete the run in it.
    Overwrite,
}

/// Makes a run's folder ready: creates it, or checks what is there as [`check`] does, deletes a run that is to be
/// overwritten, and clears what a dead run left half written.
///
/// `inputs` are the model folder, data files and the like: a folder that holds one of them is not deleted.
pub fn prepare(
    dir: &Path,
    existing: ExistingRun,
    inputs: &[&Path],
    command: &[String],
) -> Result<(), CheckpointError> {
    check(dir, existing, command)?;
    fs::create_dir_all(dir).map_err(CheckpointError::io("create", dir))?;
    if is_empty(dir)? {
        return Ok(());
    }
    match existing {
        ExistingRun::Resume => atomic::recover(dir),
        ExistingRun::Overwrite => {
            if let Some(input) = inputs.iter().find(|input| lies_in(input, dir)) {
                return Err(CheckpointError::RunFolder {
                    path: dir.to_owned(),
                    problem: format!(
                        "--overwrite-output-dir would delete {}, which this run reads; choose another --output",
                        input.display()
                    ),
                });
            }
            delete_run(dir)
        }
        ExistingRun::Refuse => Ok(()),
    }
}

/// Whether a run may go where it was told to, before anything is loaded: nothing is created, and nothing deleted.
///
/// `command` is the command line as typed, for the error that says how to go on.
pub fn check(dir: &Path, existing: ExistingRun, command: &[String]) -> Result<(), CheckpointError> {
    let refuse = |problem: String| Err(CheckpointError::RunFolder { path: dir.to_owned(), problem });
    let shown = dir.display();
    if !dir.exists() {
        return check_creatable(dir);
    }
    if !dir.is_dir() {
        return refuse(format!("{shown} is a file, not a folder; choose another --output"));
    }
    check_writable(dir)?;
    if is_empty(dir)? {
        return Ok(());
    }
    if !is_run(dir)? {
        return refuse(format!(
            "{shown} exists, is not empty and holds no {RUN_FILE} of an asft run, so it is left alone; \
             choose another --output, or empty it yourself"
        ));
    }
    match existing {
        ExistingRun::Resume | ExistingRun::Overwrite => Ok(()),
        ExistingRun::Refuse => refuse(format!(
            "{shown} holds a run already. To continue it:\n  {}\nTo delete it and start again:\n  {}",
            command_line(command, "--resume"),
            command_line(command, "--overwrite-output-dir"),
        )),
    }
}

/// Writes a run's resolved configuration, which also marks the folder as a run's.
pub fn write_run_file(dir: &Path, toml: &str) -> Result<(), CheckpointError> {
    let program = env!("CARGO_PKG_VERSION");
    atomic::save_bytes(&dir.join(RUN_FILE), format!("{RUN_FILE_MARK}, version {program}\n{toml}").as_bytes())
}

/// Whether a folder holds an asft run.
pub fn is_run(dir: &Path) -> Result<bool, CheckpointError> {
    let path = dir.join(RUN_FILE);
    match fs::read(&path) {
        Ok(text) => Ok(text.starts_with(RUN_FILE_MARK.as_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CheckpointError::io("read", &path)(error)),
    }
}

/// Whether nothing is in a folder, save what a run left that was killed before it wrote its `run.toml`.
fn is_empty(dir: &Path) -> Result<bool, CheckpointError> {
    for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
        let path = entry.map_err(CheckpointError::io("list", dir))?.path();
        if !atomic::is_leftover(&path) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a folder that is not there could be: the nearest one above it that is there takes it in.
fn check_creatable(dir: &Path) -> Result<(), CheckpointError> {
    let above =
        dir.ancestors().skip(1).map(|above| if above == Path::new("") { Path::new(".") } else { above });
    match above.into_iter().find(|above| above.exists()) {
        Some(above) if above.is_dir() => check_writable(above),
        _ => Err(CheckpointError::io("create", dir)(io::ErrorKind::NotADirectory.into())),
    }
}

/// Better now than at the first save.
fn check_writable(dir: &Path) -> Result<(), CheckpointError> {
    let probe = dir.join(format!(".probe.tmp-{}", std::process::id()));
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(CheckpointError::io("write to", dir))
}

/// Deletes a folder's content, `run.toml` last: after a kill in between, the rest is still known for a run.
fn delete_run(dir: &Path) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
        let entry = entry.map_err(CheckpointError::io("list", dir))?;
        let path = entry.path();
        if entry.file_name() == RUN_FILE {
            continue;
        }
        let is_folder = entry.file_type().map_err(CheckpointError::io("read", &path))?.is_dir();
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(CheckpointError::io("remove", &path))?;
    }
    let run_file = dir.join(RUN_FILE);
    fs::remove_file(&run_file).map_err(CheckpointError::io("remove", &run_file))
}

/// Whether `path` is `dir` or something in it, links followed.
fn lies_in(path: &Path, dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    real(path).starts_with(real(dir))
}

/// A command line that a shell reads back as `arguments`, with one flag more.
fn command_line(arguments: &[String], flag: &str) -> String {
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c))
    };
    let quoted = arguments.iter().map(|argument| {
        if plain(argument) { argument.clone() } else { format!("'{}'", argument.replace('\'', r"'\''")) }
    });
    quoted.chain([flag.to_owned()]).collect::<Vec<_>>().join(" ")
}
