//! The number formats of matrices: their bytes and their values in f32.

use half::{bf16, f16};

/// The type of a matrix's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

/// What is done to f32 operands before they are multiplied: the tensor cores' formats that a compute type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Exact,
    Tf32,
    F16,
    Bf16,
}

impl Element {
    /// From a `cudaDataType_t`; others are not implemented.
    pub(super) fn from_number(number: u32) -> Option<Element> {
        match number {
            0 => Some(Element::F32),
            2 => Some(Element::F16),
            14 => Some(Element::Bf16),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
        }
    }

    /// Values of `from`, which has `to.len()` elements.
    pub(super) fn decode(self, from: &[u8], to: &mut [f32]) {
        match self {
            Element::F32 => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                    *to = f32::from_ne_bytes(*from);
                }
            }
            Element::F16 => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *to = f16::from_ne_bytes(*from).to_f32();
                }
            }
            Element::Bf16 => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *to = bf16::from_ne_bytes(*from).to_f32();
                }
            }
        }
    }

    /// Appends `values`, rounded to nearest even.
    pub(super) fn encode(self, values: &[f32], to: &mut Vec<u8>) {
        match self {
            Element::F32 => to.extend(values.iter().flat_map(|value| value.to_ne_bytes())),
            Element::F16 => to.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes())),
            Element::Bf16 => to.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes())),
        }
    }
}

impl Rounding {
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Rounding::Exact => {}
            Rounding::Tf32 => values.iter_mut().for_each(|value| *value = to_tf32(*value)),
            Rounding::F16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
            Rounding::Bf16 => values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
        }
    }
}

/// Ten bits of mantissa, to nearest with ties away from zero (`cvt.rna.tf32.f32` of the PTX ISA).
fn to_tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_keeps_ten_bits() {
        let step = 2f32.powi(-10);
        assert_eq!(to_tf32(1.0 + step), 1.0 + step);
        assert_eq!(to_tf32(1.0 + 0.49 * step), 1.0);
        assert_eq!(to_tf32(1.0 + 0.5 * step), 1.0 + step, "a tie goes away from zero");
        assert_eq!(to_tf32(-1.0 - 0.5 * step), -1.0 - step);
        assert_eq!(to_tf32(f32::INFINITY), f32::INFINITY);
        assert!(to_tf32(f32::NAN).is_nan());
        assert_eq!(to_tf32(2.0 - 2f32.powi(-23)), 2.0, "the carry goes into the exponent");
    }

    #[test]
    fn formats_round_trip() {
        let values = [0.0, -1.5, 3.140_625, 65_504.0];
        for element in [Element::F32, Element::F16, Element::Bf16] {
            let mut bytes = Vec::new();
            element.encode(&values[..3], &mut bytes);
            assert_eq!(bytes.len(), 3 * element.bytes());
            let mut back = [0.0; 3];
            element.decode(&bytes, &mut back);
            assert_eq!(back, values[..3], "{element:?}");
        }
        let mut bytes = Vec::new();
        Element::Bf16.encode(&[1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8)], &mut bytes);
        let mut back = [0.0; 2];
        Element::Bf16.decode(&bytes, &mut back);
        assert_eq!(back, [1.0, 1.0 + 2f32.powi(-6)], "ties go to even");
    }
}
