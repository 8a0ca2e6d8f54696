//! 8-bit codes of optimizer state: the dynamic maps of "8-bit Optimizers via Block-wise Quantization" (Dettmers et al.,
//! arXiv 2110.02861, section 2.1), as bitsandbytes' `create_dynamic_map` makes them, and blocks of values in and out.
//!
//! Boundary: host arithmetic on slices. `kernels/lib/codes.cuh` does the same on a GPU; a checkpoint's moments pass
//! through here.
//!
//! Two rules beside the paper's. A block's scale is its element of largest magnitude *with its sign*: the signed map has 1
//! but not -1, so only then is that element exact, and what has been dequantised gets the same codes and the same scale
//! again. And no second moment but zero gets the code of zero, which beside a first moment that is not zero would make an
//! update without bound (Li et al., "Memory Efficient Optimizers with 4-bit States", arXiv 2309.01507, section 4.2).

use std::array;

/// Decades of a map, from 1e-6 up to 1.
const DECADES: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Which moments a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// First moments, in -1..=1.
    Signed,
    /// Second moments, in 0..=1.
    Unsigned,
}

/// A map: what each code stands for, and which code stands for a value.
#[derive(Clone, Debug)]
pub struct Codes {
    sign: Sign,
    /// Ascending, by code, for a scale of 1.
    values: [f32; 256],
    /// Between each value and the next.
    thresholds: [f32; 255],
}

impl Codes {
    /// The map for such moments.
    pub fn new(sign: Sign) -> Self {
        let values: [f32; 256] = array::from_fn(|code| match sign {
            Sign::Unsigned => magnitude(code + 1, 1),
            Sign::Signed if code < 127 => -magnitude(127 - code, 0),
            Sign::Signed => magnitude(code - 127, 0),
        });
        let thresholds = array::from_fn(|code| 0.5 * (values[code] + values[code + 1]));
        Self { sign, values, thresholds }
    }

    /// What the codes stand for, ascending, for a scale of 1.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// The code of a value that has been divided by its block's scale.
    fn code(&self, value: f32) -> u8 {
        let nearest = self.thresholds.partition_point(|&threshold| threshold < value);
        let least = usize::from(self.sign == Sign::Unsigned && value > 0.0);
        nearest.max(least) as u8
    }

    /// Writes the codes of one block and gives its scale: 0 if its largest magnitude is below the normal numbers, the largest
    /// number if it is infinite, NaN if there is one.
    ///
    /// # Panics
    /// If there are not as many codes as values.
    pub fn quantise(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        assert_eq!(values.len(), codes.len());
        // Ordered by magnitude, the positive one of two first.
        let order = |value: &f32| value.to_bits().rotate_left(1) ^ 1;
        let largest = values.iter().map(order).max().unwrap_or(0);
        let scale = match f32::from_bits((largest ^ 1).rotate_right(1)) {
            scale if scale.abs() < f32::MIN_POSITIVE => 0.0,
            scale if scale.is_infinite() => f32::MAX.copysign(scale),
            scale => scale,
        };
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.code(value * inverse);
        }
        scale
    }

    /// The value of a code in a block of that scale.
    pub fn dequantise(&self, code: u8, scale: f32) -> f32 {
        self.values[usize::from(code)] * scale
    }
}

/// An entry by its place: decade d holds `2^(d + skipped)` evenly spaced entries from place `2^(d + skipped)` on. Before the
/// lowest decade is 0, after the highest 1. `skipped` decades are missing at the lower end.
fn magnitude(place: usize, skipped: u32) -> f32 {
    if place < 1 << skipped {
        return 0.0;
    }
    let level = place.ilog2();
    let entries = 1usize << level;
    let Some(decade) = DECADES.get((level - skipped) as usize) else { return 1.0 };
    let share = 0.9 * ((place - entries) as f64 + 0.5) / entries as f64;
    (decade * (0.1 + share)) as f32
}
