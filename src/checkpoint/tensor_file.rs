//! One safetensors file, memory-mapped, its header checked before any byte of a tensor is touched.
//!
//! The format is that of <https://github.com/huggingface/safetensors>: eight bytes of header length, a JSON
//! header, then the tensors' bytes without gap or overlap. The checks are those of the reference
//! implementation; they are made here so that an error can name the tensor.
//!
//! Boundary: knows what a file may claim about itself, not what a model needs.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::CheckpointError;
use crate::DType;

/// The reference implementation's bound of the header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// Elements that one thread converts at a time.
const CONVERSION: usize = 1 << 20;

/// What a header says of one tensor, found to be consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The format's name in the header, whether this program reads it or not.
    pub dtype_name: String,
    /// Sizes, outermost first; a scalar has none.
    pub shape: Vec<usize>,
    /// Where the bytes lie in the file.
    pub bytes: Range<usize>,
}

impl TensorInfo {
    /// The format, if it is one this program reads.
    pub fn dtype(&self) -> Option<DType> {
        DType::from_safetensors_name(&self.dtype_name)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A mapped safetensors file.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    tensors: HashMap<String, TensorInfo>,
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorFile").field("path", &self.path).field("tensors", &self.tensors.len()).finish()
    }
}

impl TensorFile {
    /// Maps a file and checks its header against its length.
    ///
    /// The file must not be changed in place while the map lives; this program replaces files by renaming.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        // SAFETY: the map is only read, and no program that replaces files by renaming, as this one and the
        // reference implementation do, changes a mapped file in place. If somebody truncates it all the same,
        // the system ends the process (SIGBUS); no value is made up from it.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io("map", path))?;
        let tensors = read_header(&map, path)?;
        Ok(TensorFile { path: path.to_owned(), map, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's description, or an error naming the file.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::tensor(&self.path, name, "is not in the file"))
    }

    /// A tensor's bytes as stored, little-endian and row-major, not necessarily aligned.
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        Ok(&self.map[self.info(name)?.bytes.clone()])
    }

    /// Converts a tensor to f32, row-major.
    pub fn read(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        let info = self.info(name)?;
        let Some(dtype) = info.dtype() else {
            let problem = format!("format {} cannot be read; F32, F16 and BF16 can", info.dtype_name);
            return Err(CheckpointError::tensor(&self.path, name, problem));
        };
        if info.elements() != out.len() {
            let problem = format!("has shape {:?}, but {} elements were asked for", info.shape, out.len());
            return Err(CheckpointError::tensor(&self.path, name, problem));
        }
        let bytes = &self.map[info.bytes.clone()];
        let parts = bytes.par_chunks(CONVERSION * dtype.size()).zip(out.par_chunks_mut(CONVERSION));
        parts.for_each(|(bytes, out)| dtype.decode(bytes, out));
        self.release(info.bytes.clone());
        Ok(())
    }

    /// Gives the memory of the whole file back to the system; what is read again comes from the file again.
    pub fn release_all(&self) {
        self.release(0..self.map.len());
    }

    /// Mapped pages count as the process's memory as long as the system has no other use for them. A model that has been
    /// copied to where it is trained would count twice.
    fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is a shared one of a file and only read, so no byte of it is lost or changed: a page that is
            // touched again, also through a slice handed out before, is read from the file again.
            let released = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len())
            };
            if let Err(error) = released {
                tracing::debug!("{}: memory cannot be given back: {error}", self.path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

/// A tensor's entry in the header. The reference implementation writes exactly these fields.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (usize, usize),
}

/// Reads the header of a file and checks everything it claims. `file` is the whole file's bytes, `path` only names it in
/// errors.
///
/// # Errors
/// A [`CheckpointError`] that names the tensor whose description is wrong, if it is one tensor's.
pub fn read_header(file: &[u8], path: &Path) -> Result<HashMap<String, TensorInfo>, CheckpointError> {
    let wrong = |problem: String| CheckpointError::file(path, format!("not a safetensors file: {problem}"));
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(wrong(format!("it is {} bytes long; fetch it again", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let hint = if file.starts_with(b"version https://git-lfs") {
            "it is a git-lfs pointer: fetch the file itself with `git lfs pull`".to_owned()
        } else {
            format!("it claims a header of {length} bytes, and {MAX_HEADER} is the limit")
        };
        return Err(wrong(hint));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        let problem = format!("its header should be {length} bytes, but the file ends after {}", rest.len());
        return Err(CheckpointError::file(path, format!("truncated: {problem}; fetch it again")));
    };
    if header.first() != Some(&b'{') {
        return Err(wrong("its header does not start with '{'".into()));
    }
    let header = std::str::from_utf8(header)
        .map_err(|error| wrong(format!("its header is not UTF-8 at byte {}", 8 + error.valid_up_to())))?;
    let Header(mut entries) =
        serde_json::from_str(header).map_err(|error| wrong(format!("its header is damaged: {error}")))?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);

    let data_start = file.len() - data.len();
    let mut tensors = HashMap::with_capacity(entries.len());
    let mut covered = 0;
    for (name, entry) in entries {
        let info = check_entry(&name, &entry, covered, data, path)?;
        covered = entry.data_offsets.1;
        let bytes = data_start + info.start..data_start + info.end;
        let info = TensorInfo { dtype_name: entry.dtype, shape: entry.shape, bytes };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(CheckpointError::tensor(path, &name, "is described twice in the header"));
        }
    }
    if covered != data.len() {
        let problem = format!("{} bytes after the last tensor belong to none", data.len() - covered);
        return Err(CheckpointError::file(path, problem));
    }
    Ok(tensors)
}

/// Checks one entry, the next in order of offsets after `covered` bytes of `data`; returns its range in `data`.
fn check_entry(
    name: &str,
    entry: &Entry,
    covered: usize,
    data: &[u8],
    path: &Path,
) -> Result<Range<usize>, CheckpointError> {
    let wrong = |problem: String| Err(CheckpointError::tensor(path, name, problem));
    let (start, end) = entry.data_offsets;
    if end < start {
        return wrong(format!("its offsets run backwards, from {start} to {end}"));
    }
    if end > data.len() {
        return wrong(format!(
            "it should end at byte {end} of the data, but the file holds {}: truncated; fetch it again",
            data.len()
        ));
    }
    if start != covered {
        let what = if start > covered { "leave a gap after" } else { "overlap" };
        return wrong(format!("its offsets [{start}, {end}] {what} the tensors that end at byte {covered}"));
    }
    let Some(bits) = bits_of(&entry.dtype) else {
        return wrong(format!("format {:?} is unknown; F32, F16 and BF16 can be read", entry.dtype));
    };
    let elements = entry.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let expected = elements.and_then(|elements| elements.checked_mul(bits));
    if expected.is_none_or(|bits| !bits.is_multiple_of(8) || bits / 8 != end - start) {
        let shape = &entry.shape;
        return wrong(format!(
            "shape {shape:?} of {} does not take the {} bytes it has",
            entry.dtype,
            end - start
        ));
    }
    Ok(start..end)
}

/// Bits of one element of every format that safetensors 0.8 defines.
fn bits_of(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// The header as a list, so that a name given twice is seen.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(de::Error::duplicate_field("__metadata__"));
                }
                map.next_value::<Option<HashMap<String, String>>>()?;
                continue;
            }
            let entry = map
                .next_value::<Entry>()
                .map_err(|error| de::Error::custom(format_args!("tensor {name:?}: {error}")))?;
            entries.push((name, entry));
        }
        Ok(Header(entries))
    }
}
