//! The GGUF container, version 3, little-endian: magic, counts, typed keys, tensor descriptions, then the tensors'
//! bytes, each at a multiple of 32 (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! Boundary: bytes in the right order; what keys and tensors mean is [`super`]'s.

use std::io::{self, Write};

use super::encoding::Encoding;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Tensors begin at multiples of it; the format's default, which needs no key.
const ALIGNMENT: u64 = 32;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count or an id.
    U32(u32),
    /// A number.
    F32(f32),
    /// A switch.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// A list of numbers.
    I32s(Vec<i32>),
    /// A list of texts.
    Texts(Vec<String>),
}

impl Value {
    /// A text.
    pub fn text(text: &str) -> Self {
        Value::Text(text.to_owned())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        const ARRAY: u32 = 9;
        let kind = |out: &mut dyn Write, kind: u32| out.write_all(&kind.to_le_bytes());
        match self {
            Value::U32(value) => kind(out, 4).and_then(|()| out.write_all(&value.to_le_bytes())),
            Value::F32(value) => kind(out, 6).and_then(|()| out.write_all(&value.to_le_bytes())),
            Value::Bool(value) => kind(out, 7).and_then(|()| out.write_all(&[u8::from(*value)])),
            Value::Text(text) => kind(out, 8).and_then(|()| write_text(out, text)),
            Value::I32s(values) => {
                kind(out, ARRAY)?;
                kind(out, 5)?;
                write_length(out, values.len())?;
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
            Value::Texts(texts) => {
                kind(out, ARRAY)?;
                kind(out, 8)?;
                write_length(out, texts.len())?;
                texts.iter().try_for_each(|text| write_text(out, text))
            }
        }
    }
}

/// A tensor as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// llama.cpp's name.
    pub name: String,
    /// Sizes, outermost first; the file has them the other way round.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: Encoding,
}

impl TensorInfo {
    /// Bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        self.encoding.bytes(self.shape.iter().product())
    }
}

/// All that stands before the tensors' bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    keys: Vec<(String, Value)>,
    /// In the order in which their bytes follow.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Adds a key.
    pub fn add(&mut self, key: &str, value: Value) {
        self.keys.push((key.to_owned(), value));
    }

    /// Writes it, padded to where the first tensor begins, and returns its bytes.
    pub fn write(&self, out: &mut impl Write) -> io::Result<u64> {
        let mut header = Vec::new();
        header.write_all(MAGIC)?;
        header.write_all(&VERSION.to_le_bytes())?;
        write_length(&mut header, self.tensors.len())?;
        write_length(&mut header, self.keys.len())?;
        for (key, value) in &self.keys {
            write_text(&mut header, key)?;
            value.write(&mut header)?;
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            write_text(&mut header, &tensor.name)?;
            header.write_all(&(tensor.shape.len() as u32).to_le_bytes())?;
            tensor.shape.iter().rev().try_for_each(|size| write_length(&mut header, *size))?;
            header.write_all(&tensor.encoding.tensor_type().to_le_bytes())?;
            header.write_all(&offset.to_le_bytes())?;
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        let written = header.len() as u64;
        let padding = pad(&mut header, written)?;
        out.write_all(&header)?;
        Ok(written + padding)
    }
}

/// Writes zeros up to the next multiple of the alignment, and returns how many.
pub fn pad(out: &mut impl Write, written: u64) -> io::Result<u64> {
    let padding = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
    Ok(padding)
}

fn write_length(out: &mut (impl Write + ?Sized), length: usize) -> io::Result<()> {
    out.write_all(&(length as u64).to_le_bytes())
}

fn write_text(out: &mut (impl Write + ?Sized), text: &str) -> io::Result<()> {
    write_length(out, text.len())?;
    out.write_all(text.as_bytes())
}
