//! One safetensors file, written tensor by tensor from values that are asked for in pieces, so that saving a
//! model needs no second copy of it, nor even of its largest tensor.
//!
//! Boundary: bytes in the right order. Making the file appear whole or not at all is [`super::atomic`]'s.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::CheckpointError;
use super::tensor_file::Entry;
use crate::DType;

/// Elements asked for at a time: 4 MiB of f32.
const PIECE: usize = 1 << 20;

/// Whatever keeps the owner of a tensor from giving its values.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// The owner of tensors that are to be saved.
///
/// Closures `FnMut(name, start, out) -> Result<(), SourceError>` are sources.
pub trait TensorSource {
    /// Fills `out` with the elements `start..start + out.len()` of the tensor `name`, row-major.
    ///
    /// Each tensor is asked for once, from its first element to its last, and tensors follow one another in
    /// the order in which they were announced.
    fn fill(&mut self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError>;
}

impl<F: FnMut(&str, usize, &mut [f32]) -> Result<(), SourceError>> TensorSource for F {
    fn fill(&mut self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        self(name, start, out)
    }
}

/// A tensor as it will stand in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The format it is stored in.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// Writes a safetensors file with the tensors in the order given. Does not sync it.
pub fn write_tensors(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &[(&str, &str)],
    source: &mut dyn TensorSource,
) -> Result<(), CheckpointError> {
    let file = File::create(path).map_err(CheckpointError::io("create", path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let io = |error| CheckpointError::io("write", path)(error);
    write_header(&mut writer, tensors, metadata).map_err(io)?;
    let mut values = vec![0.0f32; PIECE.min(tensors.iter().map(TensorSpec::elements).max().unwrap_or(0))];
    let mut bytes = vec![0u8; values.len() * 4];
    for tensor in tensors {
        for start in (0..tensor.elements()).step_by(PIECE) {
            let piece = &mut values[..PIECE.min(tensor.elements() - start)];
            source
                .fill(&tensor.name, start, piece)
                .map_err(|source| CheckpointError::Source { tensor: tensor.name.clone(), source })?;
            let stored = &mut bytes[..piece.len() * tensor.dtype.size()];
            tensor.dtype.encode(piece, stored);
            writer.write_all(stored).map_err(io)?;
        }
    }
    writer.flush().map_err(io)
}

/// Bytes of the file that [`write_tensors`] would write.
pub fn file_bytes(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &[(&str, &str)],
) -> Result<u64, CheckpointError> {
    let mut header = Vec::new();
    write_header(&mut header, tensors, metadata).map_err(CheckpointError::io("write", path))?;
    Ok(tensors.iter().map(|tensor| tensor.bytes() as u64).sum::<u64>() + header.len() as u64)
}

fn write_header(out: &mut impl Write, tensors: &[TensorSpec], metadata: &[(&str, &str)]) -> io::Result<()> {
    let mut header = Map::new();
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    header.insert("__metadata__".into(), Value::Object(metadata));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let entry = Entry {
            dtype: tensor.dtype.safetensors_name().into(),
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        header.insert(tensor.name.clone(), serde_json::to_value(entry)?);
    }
    let mut header = serde_json::to_vec(&header)?;
    // The tensors start at a multiple of 8, so that readers can use them in place.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}
