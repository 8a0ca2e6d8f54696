//! Which instruction set this machine has, and arithmetic written so that the compiler vectorises it for each.
//!
//! [`Simd::run`] compiles a closure for every level and takes the best one the machine has. Element-wise arithmetic
//! gives the same bits at every level (nothing is contracted or reordered); matrix products do not, because their
//! kernels use fused multiply-add where there is one.

/// An instruction-set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the architecture has.
    Portable,
    /// x86-64-v3: AVX2 and FMA.
    Avx2,
    /// x86-64-v4: AVX-512.
    Avx512,
    /// x86-64-v4 and AVX512-BF16, products of bf16 pairs; the same bits as [`Level::Avx512`] in f32.
    Avx512Bf16,
}

/// The level in use.
#[derive(Clone, Copy, Debug)]
pub struct Simd {
    arch: pulp::Arch,
    level: Level,
}

/// Lowers the level for tests and measurements: `avx512` (without bf16 products), `avx2` or `portable`.
pub const LEVEL_VARIABLE: &str = "ASFT_CPU_ISA";

impl Simd {
    /// The machine's best level, or the one named by [`LEVEL_VARIABLE`] if that is lower.
    pub fn detect() -> Self {
        let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
        Self::at_most(match wanted.as_str() {
            "portable" => Level::Portable,
            "avx2" => Level::Avx2,
            "avx512" => Level::Avx512,
            _ => Level::Avx512Bf16,
        })
    }

    /// The machine's best level that is not above `limit`.
    pub fn at_most(limit: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if limit >= Level::Avx512
                && let Some(v4) = pulp::x86::V4::try_new()
            {
                let level = if limit == Level::Avx512Bf16 && std::arch::is_x86_feature_detected!("avx512bf16")
                {
                    Level::Avx512Bf16
                } else {
                    Level::Avx512
                };
                return Self { arch: pulp::Arch::V4(v4), level };
            }
            if limit >= Level::Avx2
                && let Some(v3) = pulp::x86::V3::try_new()
            {
                return Self { arch: pulp::Arch::V3(v3), level: Level::Avx2 };
            }
        }
        let _ = limit;
        Self { arch: pulp::Arch::Scalar, level: Level::Portable }
    }

    /// The level in use.
    pub fn level(self) -> Level {
        self.level
    }

    /// Runs a closure compiled for this level.
    #[inline(always)]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        self.arch.dispatch(body)
    }
}

/// Lanes of the partial sums in reductions; fixed, so that every level adds in the same order.
pub const LANES: usize = 16;

/// e^x within 1.5 units in the last place; 0 below -87.336, infinity above 88.7, NaN for NaN.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf` (Moshier 1989); no branch, so loops over
/// it vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // exact: 355/512
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which is also what its last bits hold meanwhile.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // Within the bounds below, p * 2^n is a normal number: its exponent is p's plus n.
    let result = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    let result = if x < -87.336 { 0.0 } else { result };
    // Infinity, or NaN for NaN.
    if x <= 88.722_84 { result } else { x + f32::INFINITY }
}

/// The nearest bf16, as f32; of two equally near the even one.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// Elements whose sum is formed in f32.
const SUM_BLOCK: usize = 1024;

/// Sum of `term(i)` over `0..len`: lanes of f32 within blocks of 1,024, f64 across blocks.
#[inline(always)]
pub fn sum(len: usize, term: impl Fn(usize) -> f32) -> f64 {
    let mut total = 0.0;
    let mut start = 0;
    while start < len {
        let end = (start + SUM_BLOCK).min(len);
        let mut lanes = [0.0f32; LANES];
        let whole = start + (end - start) / LANES * LANES;
        let mut i = start;
        while i < whole {
            for (lane, slot) in lanes.iter_mut().enumerate() {
                *slot += term(i + lane);
            }
            i += LANES;
        }
        for i in whole..end {
            lanes[i - whole] += term(i);
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        start = end;
    }
    total
}

/// Sum of `term` of every element, in the order of [`sum`].
#[inline(always)]
pub fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(SUM_BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let (whole, tail) = block.as_chunks::<LANES>();
        for chunk in whole {
            for (slot, &value) in lanes.iter_mut().zip(chunk) {
                *slot += term(value);
            }
        }
        for (slot, &value) in lanes.iter_mut().zip(tail) {
            *slot += term(value);
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}

/// Replaces every element z by e^(z - shift) and gives their sum, in the order of [`sum`].
#[inline(always)]
pub fn exponentials(values: &mut [f32], shift: f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks_mut(SUM_BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let (whole, tail) = block.as_chunks_mut::<LANES>();
        for chunk in whole {
            for (slot, value) in lanes.iter_mut().zip(chunk) {
                *value = exp(*value - shift);
                *slot += *value;
            }
        }
        for (slot, value) in lanes.iter_mut().zip(tail) {
            *value = exp(*value - shift);
            *slot += *value;
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}

/// Largest element; negative infinity of none. NaN elements are passed over: whoever sums afterwards meets them.
#[inline(always)]
pub fn maximum(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, tail) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (slot, &value) in lanes.iter_mut().zip(chunk) {
            *slot = larger(*slot, value);
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |largest, &value| larger(largest, value))
}

/// The first place where a value stands.
#[inline(always)]
pub fn position(values: &[f32], wanted: f32) -> Option<usize> {
    const BLOCK: usize = 128;
    let holds = |block: &[f32]| block.iter().fold(false, |found, &value| found | (value == wanted));
    let block = values.chunks(BLOCK).position(holds)?;
    let within = values[block * BLOCK..].iter().position(|&value| value == wanted)?;
    Some(block * BLOCK + within)
}

/// Inner product in the order of [`sum`].
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let len = a.len().min(b.len());
    let mut total = 0.0;
    for (a, b) in a[..len].chunks(SUM_BLOCK).zip(b[..len].chunks(SUM_BLOCK)) {
        let mut lanes = [0.0f32; LANES];
        let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for (slot, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *slot += a * b;
            }
        }
        for (slot, (&a, &b)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
            *slot += a * b;
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Vec<Simd> {
        [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16].into_iter().map(Simd::at_most).collect()
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for simd in levels() {
            simd.run(|| {
                for i in -870_000..887_000 {
                    let x = i as f32 * 1e-4;
                    let exact = f64::from(x).exp();
                    let error = (f64::from(exp(x)) - exact).abs() / exact;
                    assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:e}");
                }
            });
        }
    }

    #[test]
    fn rounds_to_bf16_as_half_does() {
        let mut bits = 0x0080_0000u32;
        while bits < 0x7f80_0000 {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                assert_eq!(round_to_bf16(x).to_bits(), half::bf16::from_f32(x).to_f32().to_bits(), "{x:e}");
            }
            bits += 4_099;
        }
        assert_eq!(round_to_bf16(f32::from_bits(0x3f80_8000)), 1.0, "halfway goes to the even one");
        assert_eq!(round_to_bf16(f32::from_bits(0x3f81_8000)).to_bits(), 0x3f82_0000);
        assert!(round_to_bf16(f32::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::INFINITY), f32::INFINITY);
    }

    #[test]
    fn exponentials_and_positions() {
        for simd in levels() {
            simd.run(|| {
                let values: Vec<f32> = (0..1500).map(|i| ((i * 7919) % 1000) as f32 * 1e-2 - 5.0).collect();
                let mut replaced = values.clone();
                let total = exponentials(&mut replaced, 1.5);
                assert_eq!(total.to_bits(), sum_of(&values, |x| exp(x - 1.5)).to_bits());
                assert!(replaced.iter().zip(&values).all(|(&e, &x)| e == exp(x - 1.5)));
                for wanted in [0, 1, 127, 128, 999] {
                    let first = values.iter().position(|&x| x == values[wanted]);
                    assert_eq!(position(&values, values[wanted]), first);
                }
                assert_eq!(position(&values, 77.0), None);
            });
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.3361), 0.0);
        assert!(exp(-87.3359) >= f32::MIN_POSITIVE);
        assert!(exp(88.72283).is_finite());
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_have_the_same_bits_at_every_level() {
        let values: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect();
        let all: Vec<u64> =
            levels().iter().map(|simd| simd.run(|| dot(&values, &values)).to_bits()).collect();
        assert!(all.iter().all(|&bits| bits == all[0]));
        let squares = |simd: &Simd| simd.run(|| sum_of(&values, |x| x * x)).to_bits();
        assert!(levels().iter().all(|simd| squares(simd) == all[0]), "another order");
        assert_eq!(sum(values.len(), |i| values[i] * values[i]).to_bits(), all[0], "another order");
        let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((f64::from_bits(all[0]) - exact).abs() < 1e-5 * exact);
        assert_eq!(maximum(&values[..37]), values[..37].iter().copied().fold(f32::MIN, f32::max));
    }
}
