//! How GGUF stores numbers: F32, F16, BF16, and Q8_0, which is blocks of 32 signed bytes with one F16 scale.
//!
//! Boundary: f32 values -> bytes. Rounding is that of llama.cpp's Python package `gguf`: to nearest even for F16 and
//! BF16, half away from zero for Q8_0's codes (d = max |x| / 127, q = round(x / d)).

use std::fmt;

use half::f16;

use crate::DType;

/// Values that share a scale in [`Encoding::Q8_0`].
pub const BLOCK: usize = 32;

/// A storage format of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8 bits and a scale for every [`BLOCK`] values: 8.5 bits each.
    Q8_0,
}

impl From<DType> for Encoding {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Encoding::F32,
            DType::F16 => Encoding::F16,
            DType::BF16 => Encoding::BF16,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Encoding {
    /// Every format, in the order of listings.
    pub const ALL: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::BF16, Encoding::Q8_0];

    /// The name: of flags, and of llama.cpp's tools.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::BF16 => "bf16",
            Encoding::Q8_0 => "q8_0",
        }
    }

    /// `ggml_type` of a tensor.
    pub(super) const fn tensor_type(self) -> u32 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::BF16 => 30,
            Encoding::Q8_0 => 8,
        }
    }

    /// `general.file_type` of a file whose matrices are stored so.
    pub(super) const fn file_type(self) -> u32 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::BF16 => 32,
            Encoding::Q8_0 => 7,
        }
    }

    /// Bytes of so many values; whole blocks for [`Encoding::Q8_0`].
    pub const fn bytes(self, values: usize) -> u64 {
        match self {
            Encoding::F32 => values as u64 * 4,
            Encoding::F16 | Encoding::BF16 => values as u64 * 2,
            Encoding::Q8_0 => (values / BLOCK * (BLOCK + 2)) as u64,
        }
    }

    /// A finite value that would become infinite, if there is one.
    pub fn beyond_range(self, values: &[f32]) -> Option<f32> {
        // f16's largest is 65504; what is below 65520 still rounds to it. Q8_0's scale is 1/127 of a value.
        let limit = match self {
            Encoding::F32 | Encoding::BF16 => return None,
            Encoding::F16 => 65520.0,
            Encoding::Q8_0 => 65520.0 * 127.0,
        };
        values.iter().copied().find(|value| value.is_finite() && value.abs() >= limit)
    }

    /// Appends the bytes of the values; whole blocks for [`Encoding::Q8_0`].
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        let dtype = match self {
            Encoding::F32 => DType::F32,
            Encoding::F16 => DType::F16,
            Encoding::BF16 => DType::BF16,
            Encoding::Q8_0 => return values.chunks_exact(BLOCK).for_each(|block| encode_q8_0(block, out)),
        };
        let start = out.len();
        out.resize(start + values.len() * dtype.size(), 0);
        dtype.encode(values, &mut out[start..]);
    }
}

fn encode_q8_0(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend_from_slice(&f16::from_f32(scale).to_le_bytes());
    // f32::round goes half away from zero, as llama.cpp's roundf.
    out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
}
