//! Token ids of a data file, kept on disk from run to run.
//!
//! An entry is found by what decides it: the file's content, the encoder ([`Encoder::fingerprint`]), the number of rows
//! read, this program. It is one safetensors file: all ids in one tensor, lengths and masks in others, the load report as
//! JSON, what the rows say beside their answers as JSON, and a checksum over all of them. An entry that is damaged is made again; a folder that cannot be written to costs
//! a warning. Entries appear by renaming, so that two runs at once do no harm.
//!
//! Boundary: nothing here decides what a token is; a hit gives what reading the file would have given.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytemuck::cast_slice;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use xxhash_rust::xxh3::Xxh3;

use super::annotations::Annotations;
use super::encode::Encoder;
use super::files::FileData;
use super::group::{Answer, Group};
use super::report::LoadReport;
use super::role::Role;

/// Changes with the layout of an entry.
const FORMAT: &str = "asft tokens 2";
/// A smaller file is tokenised faster than anybody can notice.
const SMALLEST: u64 = 64 << 10;
/// Bytes of all entries; beyond it those go that were not used for the longest time.
const LARGEST: u64 = 16 << 30;
/// How the file that is being written is called, and when one is surely forgotten.
const TEMPORARY: &str = ".writing-";
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A data file's content, hashed when somebody asks.
#[derive(Debug)]
pub struct Content {
    path: PathBuf,
    hash: OnceCell<Option<u128>>,
}

impl Content {
    /// Of this file.
    pub fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), hash: OnceCell::new() }
    }

    /// xxh3 of its bytes; `None` where it cannot be read.
    pub fn hash(&self) -> Option<u128> {
        *self.hash.get_or_init(|| {
            let mut file = File::open(&self.path).ok()?;
            let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => return Some(hash.digest128()),
                    Ok(read) => hash.update(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return None,
                }
            }
        })
    }

    /// What tells cheaply whether the file has been written to.
    fn state(&self) -> Option<(u64, SystemTime)> {
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    }
}

/// A folder of entries.
#[derive(Clone, Copy, Debug)]
pub struct TokenCache<'a> {
    folder: &'a Path,
}

/// The place of one entry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    folder: &'a Path,
    path: PathBuf,
    content: &'a Content,
    state: Option<(u64, SystemTime)>,
}

impl<'a> TokenCache<'a> {
    /// The cache in this folder, which need not exist.
    pub fn new(folder: &'a Path) -> Self {
        Self { folder }
    }

    /// The entry of a file, whether it exists or not; none for what is not worth keeping.
    pub(super) fn entry(
        &self,
        content: &'a Content,
        encoder: &Encoder,
        max_rows: Option<usize>,
    ) -> Option<Entry<'a>> {
        let state = content.state();
        // Text for display is not kept.
        if state?.0 < SMALLEST || encoder.config().keep_text {
            return None;
        }
        let mut hash = Xxh3::new();
        hash.update(FORMAT.as_bytes());
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        hash.update(option_env!("ASFT_COMMIT").unwrap_or_default().as_bytes());
        hash.update(&content.hash()?.to_le_bytes());
        hash.update(&encoder.fingerprint().to_le_bytes());
        hash.update(&max_rows.map_or(u64::MAX, |rows| rows as u64).to_le_bytes());
        let path = self.folder.join(format!("{:032x}.safetensors", hash.digest128()));
        Some(Entry { folder: self.folder, path, content, state })
    }
}

impl Entry<'_> {
    /// What was kept, as if `source` had been read.
    pub fn read(&self, source: &Path) -> Option<FileData> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("cannot read kept tokens {}: {error}; tokenising", self.path.display());
                return None;
            }
        };
        match decode(&bytes) {
            Ok(mut data) => {
                data.report.files.iter_mut().for_each(|file| file.path = source.to_owned());
                // The age by which entries are removed; where it cannot be set the entry merely looks older.
                let _ = File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
                tracing::info!(
                    "{}: tokens kept by an earlier run ({})",
                    source.display(),
                    self.path.display()
                );
                Some(data)
            }
            Err(problem) => {
                tracing::warn!("kept tokens {} are damaged ({problem}); tokenising", self.path.display());
                None
            }
        }
    }

    /// Keeps what was read, if the file is still the one that was hashed.
    pub fn write(&self, data: &FileData) {
        if self.state != self.content.state() {
            return;
        }
        match encode(data).map_err(io::Error::other).and_then(|bytes| self.put(&bytes)) {
            Ok(()) => {
                tracing::debug!("tokens kept in {}", self.path.display());
                prune(self.folder, &self.path, LARGEST);
            }
            Err(error) => tracing::warn!(
                "cannot keep tokens in {}: {error}; --data-cache DIR chooses another folder, --no-cache none",
                self.folder.display()
            ),
        }
    }

    /// Appears whole or not at all. It is not synced: a checksum finds what a power failure leaves of it.
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(self.folder)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(self.folder)?;
        file.write_all(bytes)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Removes the entries that were not used for the longest time until the others fit, and what killed runs left half
/// written. `newest` stays.
fn prune(folder: &Path, newest: &Path, largest: u64) {
    let Ok(files) = std::fs::read_dir(folder) else { return };
    let mut entries = Vec::new();
    for file in files.flatten() {
        let (path, Ok(metadata)) = (file.path(), file.metadata()) else { continue };
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if file.file_name().to_string_lossy().starts_with(TEMPORARY) {
            if used.elapsed().is_ok_and(|age| age > FORGOTTEN) {
                let _ = std::fs::remove_file(path);
            }
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            entries.push((path != newest, used, metadata.len(), path));
        }
    }
    // The newest first, whatever the clock says of it.
    entries.sort_by_key(|(other, used, ..)| (*other, std::cmp::Reverse(*used)));
    let mut total = 0;
    for (other, _, bytes, path) in entries {
        total += bytes;
        if other && total > largest {
            // Another run may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The tensors of an entry, in the order of their checksum.
const TENSORS: [&str; 6] = ["ids", "shape", "scored", "lines", "report", "annotations"];

fn checksum(parts: [&[u8]; 6]) -> String {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{:032x}", hash.digest128())
}

/// Words of a group in the tensor `shape`: row, tokens of the prompt, answers; then of each answer its role, its tokens,
/// whether it has a mask.
fn encode(data: &FileData) -> Result<Vec<u8>, String> {
    let (mut ids, mut shape, mut scored) = (Vec::new(), Vec::new(), Vec::new());
    let word = |number: usize| u32::try_from(number).map_err(|_| "a file of 2^32 rows".to_owned());
    for group in &data.groups {
        shape.extend([word(group.row)?, word(group.prompt.len())?, word(group.answers.len())?]);
        ids.extend_from_slice(&group.prompt);
        for answer in &group.answers {
            shape.extend([answer.role as u32, word(answer.ids.len())?, u32::from(answer.scored.is_some())]);
            ids.extend_from_slice(&answer.ids);
            scored.extend(answer.scored.iter().flatten().map(|scored| u8::from(*scored)));
        }
    }
    let mut report = data.report.clone();
    let lines: Vec<u32> = report.files.iter_mut().flat_map(|file| std::mem::take(&mut file.lines)).collect();
    let report = serde_json::to_vec(&report).map_err(|error| error.to_string())?;
    let annotations: Vec<(usize, &Annotations)> = data
        .groups
        .iter()
        .enumerate()
        .filter_map(|(index, group)| Some((index, group.annotations.as_deref()?)))
        .collect();
    let annotations = serde_json::to_vec(&annotations).map_err(|error| error.to_string())?;
    let [ids, shape, lines] = [ids, shape, lines].map(little_endian);
    let parts = [cast_slice(&ids), cast_slice(&shape), &scored, cast_slice(&lines), &report, &annotations];
    let types = [Dtype::U32, Dtype::U32, Dtype::U8, Dtype::U32, Dtype::U8, Dtype::U8];
    // One entry: a map has no order, and the same tokens are to make the same file.
    let metadata = HashMap::from([("checksum".to_owned(), checksum(parts))]);
    let views = TENSORS.iter().zip(parts).zip(types).map(|((name, part), dtype)| {
        let length = if dtype == Dtype::U8 { part.len() } else { part.len() / 4 };
        TensorView::new(dtype, vec![length], part).map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

fn decode(bytes: &[u8]) -> Result<FileData, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut parts = [&[][..]; 6];
    for (part, name) in parts.iter_mut().zip(TENSORS) {
        *part = tensors.tensor(name).map_err(|error| error.to_string())?.data();
    }
    let written = header.metadata().as_ref().and_then(|metadata| metadata.get("checksum"));
    if written != Some(&checksum(parts)) {
        return Err("its checksum is wrong".to_owned());
    }
    let [ids, shape, scored, lines, report, annotations] = parts;
    let mut report: LoadReport = serde_json::from_slice(report).map_err(|error| error.to_string())?;
    if let [file] = &mut report.files[..] {
        file.lines = words(lines).collect();
    }
    let mut groups = groups(ids, shape, scored).ok_or("its lengths do not add up")?;
    let annotations: Vec<(usize, Annotations)> =
        serde_json::from_slice(annotations).map_err(|error| error.to_string())?;
    for (index, annotations) in annotations {
        let group = groups.get_mut(index).ok_or("its annotations are of more rows")?;
        group.annotations = Some(annotations.into());
    }
    Ok(FileData { groups, report })
}

fn groups(ids: &[u8], shape: &[u8], scored: &[u8]) -> Option<Vec<Group>> {
    let (mut ids, mut scored, mut shape) = (ids, scored, words(shape).map(|word| word as usize));
    let mut groups = Vec::new();
    while let Some(row) = shape.next() {
        let (prompt, answers) = (shape.next()?, shape.next()?);
        let prompt = words(ids.split_off(..prompt.checked_mul(4)?)?).collect();
        let answers = (0..answers).map(|_| {
            let (role, length, masked) = (*Role::ALL.get(shape.next()?)?, shape.next()?, shape.next()? == 1);
            let scored = if masked { Some(scored.split_off(..length)?) } else { None };
            Some(Answer {
                role,
                ids: words(ids.split_off(..length.checked_mul(4)?)?).collect(),
                scored: scored.map(|scored| scored.iter().map(|scored| *scored == 1).collect()),
                text: None,
            })
        });
        let answers = answers.collect::<Option<Vec<_>>>()?;
        groups.push(Group { row, prompt, answers, annotations: None });
    }
    (ids.is_empty() && scored.is_empty()).then_some(groups)
}

fn little_endian(words: Vec<u32>) -> Vec<u32> {
    words.into_iter().map(u32::to_le).collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(role: Role, ids: &[u32], scored: Option<Vec<bool>>) -> Answer {
        Answer { role, ids: ids.to_vec(), scored, text: None }
    }

    fn data() -> FileData {
        let masked = answer(Role::Chosen, &[4, u32::MAX, 5], Some(vec![false, true, true]));
        let all = answer(Role::Rejected, &[7], Some(vec![true]));
        let group =
            |row, prompt: &[u32], answers| Group { row, prompt: prompt.to_vec(), answers, annotations: None };
        let mut groups = vec![
            group(0, &[1, 2, 3], vec![masked, all]),
            group(2, &[9], vec![answer(Role::Completion, &[1, 2], None)]),
        ];
        groups[1].annotations_mut().label = Some(true);
        groups[1].annotations_mut().answers[Role::Completion].weights = Some([1.0 / 3.0, 1e-30].into());
        let file = super::super::report::FileRows { lines: vec![1, 4, 5], usable: 2, ..Default::default() };
        let report = LoadReport { files: vec![file], rows: 3, truncated_answers: 1, ..LoadReport::default() };
        FileData { groups, report }
    }

    #[test]
    fn entries_give_back_ids_masks_and_report() {
        let bytes = encode(&data()).expect("small data");
        assert_eq!(decode(&bytes), Ok(data()));
        let empty = FileData { groups: Vec::new(), report: LoadReport::default() };
        assert_eq!(decode(&encode(&empty).expect("no data")), Ok(empty));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = encode(&data()).expect("small data");
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x15;
            // What is not covered are the spaces and names that the header could do without.
            if let Ok(read) = decode(&damaged) {
                assert_eq!(read, data(), "byte {place}");
            }
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes of {}", bytes.len());
        }
    }

    #[test]
    fn the_longest_unused_entries_go() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let hours = |ago: u64| SystemTime::now() - Duration::from_secs(3600 * ago);
        let write = |name: &str, ago| {
            let path = folder.path().join(name);
            std::fs::write(&path, [0; 100]).expect("a writable folder");
            let file = File::options().append(true).open(&path).expect("the file");
            file.set_modified(hours(ago)).expect("the time of a file of ours");
            path
        };
        // The newest may look oldest, where a clock is wrong.
        let newest = write("e.safetensors", 90);
        for (name, ago) in
            [("a.safetensors", 4), ("b.safetensors", 2), ("c.safetensors", 3), ("notes.txt", 99)]
        {
            write(name, ago);
        }
        write(&format!("{TEMPORARY}old"), 25);
        write(&format!("{TEMPORARY}new"), 1);
        prune(folder.path(), &newest, 300);
        let names = std::fs::read_dir(folder.path()).expect("the folder").flatten();
        let mut names: Vec<String> =
            names.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let temporary = format!("{TEMPORARY}new");
        assert_eq!(names, [&temporary, "b.safetensors", "c.safetensors", "e.safetensors", "notes.txt"]);
    }
}
