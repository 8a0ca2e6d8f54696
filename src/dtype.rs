//! The three number formats of checkpoints and devices, their names in other people's files, and the
//! conversion of stored bytes to f32 and back.
//!
//! Boundary: knows nothing about tensors, files or devices; shapes are the caller's business.

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Elements converted at a time: the block lives on the stack, so that source and target need no
/// alignment (a safetensors file promises none).
const BLOCK: usize = 1024;

/// A floating-point storage format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    #[serde(rename = "f32", alias = "float32")]
    F32,
    /// IEEE 754 binary16.
    #[serde(rename = "f16", alias = "float16")]
    F16,
    /// bfloat16: the upper half of a binary32.
    #[serde(rename = "bf16", alias = "bfloat16")]
    BF16,
}

/// A name that is none of the three formats.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown number format {0:?}: use f32, f16 or bf16")]
pub struct UnknownDType(pub String);

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The short name: of flags, logs and `run.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }

    /// The name in `config.json` (`torch_dtype`, and `dtype` since transformers 5).
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
        }
    }

    /// The name in a safetensors header.
    pub const fn safetensors_name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        }
    }

    /// The inverse of [`DType::safetensors_name`]; `None` for the formats this program cannot read.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        [DType::F32, DType::F16, DType::BF16].into_iter().find(|dtype| dtype.safetensors_name() == name)
    }

    /// Converts stored little-endian elements to f32, which is exact for all three formats.
    ///
    /// # Panics
    /// If `bytes` does not hold exactly `out.len()` elements.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.size(), "{self}: byte length and element count disagree");
        match self {
            DType::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            DType::F16 => decode_half(bytes, out, f16::from_le_bytes),
            DType::BF16 => decode_half(bytes, out, bf16::from_le_bytes),
        }
    }

    /// Converts f32 to stored little-endian elements, rounding to nearest, ties to even; what is too large
    /// for f16 becomes infinite, as in every other program that converts.
    ///
    /// # Panics
    /// If `out` does not hold exactly `values.len()` elements.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * self.size(), "{self}: byte length and element count disagree");
        match self {
            DType::F32 => {
                for (raw, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *raw = value.to_le_bytes();
                }
            }
            DType::F16 => encode_half(values, out, f16::to_le_bytes),
            DType::BF16 => encode_half(values, out, bf16::to_le_bytes),
        }
    }
}

fn decode_half<H: Copy + Default>(bytes: &[u8], out: &mut [f32], from_bytes: impl Fn([u8; 2]) -> H)
where
    [H]: HalfFloatSliceExt,
{
    let mut block = [H::default(); BLOCK];
    for (raw, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
        for (element, raw) in block.iter_mut().zip(raw.as_chunks::<2>().0) {
            *element = from_bytes(*raw);
        }
        block[..out.len()].convert_to_f32_slice(out);
    }
}

fn encode_half<H: Copy + Default>(values: &[f32], out: &mut [u8], to_bytes: impl Fn(H) -> [u8; 2])
where
    [H]: HalfFloatSliceExt,
{
    let mut block = [H::default(); BLOCK];
    for (values, raw) in values.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
        block[..values.len()].convert_from_f32_slice(values);
        for (raw, element) in raw.as_chunks_mut::<2>().0.iter_mut().zip(block) {
            *raw = to_bytes(element);
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = UnknownDType;

    /// Accepts the short names, torch's (with or without `torch.`, as old configurations wrote it) and
    /// Hugging Face's flags (`fp16`, `fp32`).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "f32" | "fp32" | "float32" | "float" => Ok(DType::F32),
            "f16" | "fp16" | "float16" | "half" => Ok(DType::F16),
            "bf16" | "bfloat16" => Ok(DType::BF16),
            _ => Err(UnknownDType(name.to_owned())),
        }
    }
}
