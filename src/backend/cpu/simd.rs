//! Which instruction set this machine has, and arithmetic written so that the compiler vectorises it for each.
//!
//! [`Simd::run`] compiles a closure for every level and takes the best one the machine has. Element-wise arithmetic
//! gives the same bits at every level (nothing is contracted or reordered); matrix products do not, because their
//! kernels use fused multiply-add where there is one.

/// An instruction-set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What every machine of the architecture has.
    Portable,
    /// x86-64-v3: AVX2 and FMA.
    Avx2,
    /// x86-64-v4: AVX-512.
    Avx512,
}

/// The level in use.
#[derive(Clone, Copy, Debug)]
pub struct Simd {
    arch: pulp::Arch,
    level: Level,
}

/// Lowers the level for tests and measurements: `avx2` or `portable`.
pub const LEVEL_VARIABLE: &str = "ASFT_CPU_ISA";

impl Simd {
    /// The machine's best level, or the one named by [`LEVEL_VARIABLE`] if that is lower.
    pub fn detect() -> Self {
        let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
        Self::at_most(match wanted.as_str() {
            "portable" => Level::Portable,
            "avx2" => Level::Avx2,
            _ => Level::Avx512,
        })
    }

    /// The machine's best level that is not above `limit`.
    pub fn at_most(limit: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if limit == Level::Avx512
                && let Some(v4) = pulp::x86::V4::try_new()
            {
                return Self { arch: pulp::Arch::V4(v4), level: Level::Avx512 };
            }
            if limit != Level::Portable
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

/// e^x within 1.5 units in the last place; 0 below -87.3, infinity above 88.7, NaN for NaN.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf` (Moshier 1989); no branch, so loops over
/// it vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // exact: 355/512
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-88.0, 89.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // 2^n in two halves, so that n = 128 does not overflow before the product does.
    let half = (n * 0.5) as i32;
    let rest = n as i32 - half;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let result = p * power(half) * power(rest);
    let result = if x < -87.336_54 { 0.0 } else { result };
    if x > 88.722_84 {
        f32::INFINITY
    } else if x.is_nan() {
        x
    } else {
        result
    }
}

/// Sum of `term(i)` over `0..len`: lanes of f32 within blocks of 1,024, f64 across blocks.
#[inline(always)]
pub fn sum(len: usize, term: impl Fn(usize) -> f32) -> f64 {
    const BLOCK: usize = 1024;
    let mut total = 0.0;
    let mut start = 0;
    while start < len {
        let end = (start + BLOCK).min(len);
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

/// Largest element; negative infinity of none. NaN elements are passed over: whoever sums afterwards meets them.
#[inline(always)]
pub fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (slot, &value) in lanes.iter_mut().zip(chunk) {
            *slot = if value > *slot { value } else { *slot };
        }
    }
    let tail = chunks.remainder().iter();
    lanes
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |largest, &value| if value > largest { value } else { largest })
}

/// Inner product in the order of [`sum`].
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    sum(len, |i| a[i] * b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Vec<Simd> {
        [Level::Portable, Level::Avx2, Level::Avx512].into_iter().map(Simd::at_most).collect()
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
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
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
        let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((f64::from_bits(all[0]) - exact).abs() < 1e-5 * exact);
        assert_eq!(maximum(&values[..37]), values[..37].iter().copied().fold(f32::MIN, f32::max));
    }
}
