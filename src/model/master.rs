//! Master weights: an f32 as a bf16 and the 16 bits that it lacks.
//!
//! The bf16 is the f32 rounded to nearest, halves up, so that adding the remainder back is exact for every number:
//! `f32 bits = (bf16 bits << 16) + remainder`, the remainder a signed 16-bit number (LLM training code calls this a
//! *split* master weight; it costs 4 bytes per parameter where a bf16 copy and an f32 copy cost 6). NaN is one NaN only,
//! because rounding up the bits of some would make a zero of them.

use half::bf16;

/// The stored value and its remainder.
pub fn split(value: f32) -> (bf16, u16) {
    if value.is_nan() {
        return (bf16::NAN, 0);
    }
    let bits = value.to_bits();
    (bf16::from_bits((bits.wrapping_add(0x8000) >> 16) as u16), bits as u16)
}

/// The master weight again.
pub fn join(stored: bf16, remainder: u16) -> f32 {
    let borrow = u32::from(remainder >= 0x8000) << 16;
    f32::from_bits(((u32::from(stored.to_bits()) << 16) | u32::from(remainder)).wrapping_sub(borrow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_loses_no_bit_of_any_number() {
        // Every exponent and sign with mantissas around every rounding boundary.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                let (stored, remainder) = split(value);
                let joined = join(stored, remainder);
                if value.is_nan() {
                    assert!(stored.is_nan() && joined.is_nan(), "{:x}", value.to_bits());
                } else {
                    assert_eq!(joined.to_bits(), value.to_bits());
                }
            }
        }
    }

    #[test]
    fn the_stored_value_is_the_nearest_one() {
        for bits in (0..0x7f70_0000u32).step_by(9973) {
            let value = f32::from_bits(bits);
            let (stored, _) = split(value);
            let nearest = bf16::from_f32(value);
            let tie = bits & 0xffff == 0x8000;
            assert!(stored == nearest || tie, "{value:e}: {stored} instead of {nearest}");
            assert_eq!(split(-value).0, -stored, "{value:e}");
        }
    }
}
