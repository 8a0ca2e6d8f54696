//! Which instruction set this machine has, and arithmetic written so that the compiler vectorises it for each.
//!
//! [`vectorised`] compiles a function for every level and takes the best one the machine has. Element-wise arithmetic
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
    /// AMX tiles of bf16 beside it; products in f32 are made of those too (`amx.rs`).
    Amx,
}

/// The level in use, which this machine has.
#[derive(Clone, Copy, Debug)]
pub struct Simd(Level);

/// Lowers the level for tests and measurements: `avx512bf16` (without AMX), `avx512` (without bf16 products either), `avx2`
/// or `portable`.
pub const LEVEL_VARIABLE: &str = "ASFT_CPU_ISA";

impl Simd {
    /// The machine's best level, or the one named by [`LEVEL_VARIABLE`] if that is lower.
    pub fn detect() -> Self {
        let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
        Self::at_most(match wanted.as_str() {
            "portable" => Level::Portable,
            "avx2" => Level::Avx2,
            "avx512" => Level::Avx512,
            "avx512bf16" => Level::Avx512Bf16,
            _ => Level::Amx,
        })
    }

    /// The machine's best level that is not above `limit`.
    pub fn at_most(limit: Level) -> Self {
        Self(limit.min(best_level()))
    }

    /// The level in use.
    pub fn level(self) -> Level {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn best_level() -> Level {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma");
    let avx512 =
        has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (avx2, avx512, has!("avx512bf16")) {
        (true, true, true) if super::amx::available() => Level::Amx,
        (true, true, true) => Level::Avx512Bf16,
        (true, true, false) => Level::Avx512,
        (true, false, _) => Level::Avx2,
        (false, ..) => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best_level() -> Level {
    Level::Portable
}

/// Compiles functions for every level; the one that is called takes a [`Simd`] before its own arguments.
///
/// The body is inlined into each version by force: a closure handed to such a function would be compiled once, for the
/// lowest level, whenever the compiler thinks it too long to inline.
macro_rules! vectorised {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $($(#[$attribute])*
        #[allow(clippy::too_many_arguments, reason = "plain functions take what a closure would capture")]
        fn $name(simd: $crate::backend::cpu::simd::Simd, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::backend::cpu::simd::Level;

                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }

                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }

                match simd.level() {
                    // SAFETY: a `Simd` has no level that the machine does not have.
                    Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    Level::Avx2 => unsafe { avx2($($argument),*) },
                    Level::Portable => body($($argument),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = simd;
                body($($argument),*)
            }
        })*
    };
}
pub(super) use vectorised;

/// Lanes of the partial sums in reductions; fixed, so that every level adds in the same order.
pub const LANES: usize = 16;

/// Elements of several vectors: what is computed step by step for all of them waits less for itself.
const WIDE: usize = 4 * LANES;

/// e^x within 1.5 units in the last place; 0 below -87.336, infinity above 88.7, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let mut one = [x];
    exp_each(&mut one);
    one[0]
}

/// [`exp`] of every element, each step for all of them before the next: no step waits for the one before it.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf` (Moshier 1989); no branch, so that all of it
/// is vectorised.
#[inline(always)]
fn exp_each<const N: usize>(x: &mut [f32; N]) {
    const LN2_HIGH: f32 = 0.693_359_4; // exact: 355/512
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which is also what its last bits hold meanwhile.
    const ROUND: f32 = 12_582_912.0;
    let (mut shifted, mut r, mut p) = ([0.0; N], [0.0; N], [1.987_569_1e-4; N]);
    for i in 0..N {
        shifted[i] = x[i] * std::f32::consts::LOG2_E + ROUND;
    }
    for i in 0..N {
        let n = shifted[i] - ROUND;
        r[i] = (x[i] - n * LN2_HIGH) - n * LN2_LOW;
    }
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        for i in 0..N {
            p[i] = p[i] * r[i] + coefficient;
        }
    }
    for i in 0..N {
        p[i] = p[i] * (r[i] * r[i]) + r[i] + 1.0;
    }
    for i in 0..N {
        // Within the bounds below, p * 2^n is a normal number: its exponent is p's plus n.
        let result = f32::from_bits(p[i].to_bits().wrapping_add(f32::to_bits(shifted[i]) << 23));
        let result = if x[i] < -87.336 { 0.0 } else { result };
        // Infinity, or NaN for NaN.
        x[i] = if x[i] <= 88.722_84 { result } else { x[i] + f32::INFINITY };
    }
}

/// 2^x of every element within two units in the last place, each step for all of them before the next: 0 below -126, infinity
/// above 127.5, NaN for NaN.
///
/// Attention's exponentials: with the scores scaled by log2(e) nothing is reduced by ln 2, a quarter less work than [`exp_each`].
///
/// The polynomial of Cephes' `exp2f` (Moshier 1989).
#[inline(always)]
fn exp2_each<const N: usize>(x: &mut [f32; N]) {
    const ROUND: f32 = 12_582_912.0;
    let (mut shifted, mut r, mut p) = ([0.0; N], [0.0; N], [1.535_336_2e-4; N]);
    for i in 0..N {
        // NaN stays.
        x[i] = if x[i] > 128.0 { 128.0 } else { x[i] };
        shifted[i] = x[i] + ROUND;
    }
    for i in 0..N {
        r[i] = x[i] - (shifted[i] - ROUND);
    }
    for coefficient in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        for i in 0..N {
            p[i] = p[i] * r[i] + coefficient;
        }
    }
    for i in 0..N {
        let power = f32::from_bits((f32::to_bits(shifted[i]) << 23).wrapping_add(1.0f32.to_bits()));
        x[i] = if x[i] < -126.0 { 0.0 } else { p[i] * power };
    }
}

/// Replaces every element x by 2^argument(x).
///
/// The loop of [`exp_all`] again: handed its function as an argument, one loop for both is no longer compiled for the level, and
/// attention's forward pass takes half as long again (measured).
#[inline(always)]
pub fn exp2_all(values: &mut [f32], argument: impl Fn(f32) -> f32) {
    let (wide, narrow) = values.as_chunks_mut::<WIDE>();
    for chunk in wide {
        for value in &mut *chunk {
            *value = argument(*value);
        }
        exp2_each(chunk);
    }
    for value in narrow {
        let mut one = [argument(*value)];
        exp2_each(&mut one);
        [*value] = one;
    }
}

/// Replaces every element x by e^argument(x).
#[inline(always)]
pub fn exp_all(values: &mut [f32], argument: impl Fn(f32) -> f32) {
    let (wide, narrow) = values.as_chunks_mut::<WIDE>();
    for chunk in wide {
        for value in &mut *chunk {
            *value = argument(*value);
        }
        exp_each(chunk);
    }
    for value in narrow {
        *value = exp(argument(*value));
    }
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

/// Replaces every element z by e^(z - shift) and gives their sum, in the order of [`sum`].
#[inline(always)]
pub fn exponentials(values: &mut [f32], shift: f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks_mut(SUM_BLOCK) {
        exp_all(block, |z| z - shift);
        total += sum_of_block(block);
    }
    total
}

/// Sum of e^(z - shift) over all elements, in the order of [`sum`].
#[inline(always)]
pub fn exponential_sum(values: &[f32], shift: f32) -> f64 {
    let mut total = 0.0;
    for values in values.chunks(SUM_BLOCK) {
        let mut block = [0.0; SUM_BLOCK];
        let block = &mut block[..values.len()];
        block.copy_from_slice(values);
        exp_all(block, |z| z - shift);
        total += sum_of_block(block);
    }
    total
}

/// Sum of at most [`SUM_BLOCK`] elements, in the order of [`sum`].
#[inline(always)]
fn sum_of_block(block: &[f32]) -> f64 {
    lane_sums(block).iter().map(|&lane| f64::from(lane)).sum()
}

/// Lane by lane the sum of vectors, the last of which need not be whole.
#[inline(always)]
fn lane_sums(values: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0f32; LANES];
    let (whole, tail) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (slot, &value) in lanes.iter_mut().zip(chunk) {
            *slot += value;
        }
    }
    for (slot, &value) in lanes.iter_mut().zip(tail) {
        *slot += value;
    }
    lanes
}

/// Replaces every element z by 2^(z * scale - shift) and gives the sum in f32, of whole vectors; lanes are added in
/// halves.
///
/// # Panics
/// If the last vector is not whole.
#[inline(always)]
pub fn scaled_powers(values: &mut [f32], scale: f32, shift: f32) -> f32 {
    assert!(values.len().is_multiple_of(LANES));
    exp2_all(values, |z| z * scale - shift);
    fold_lanes(lane_sums(values), |a, b| a + b)
}

/// All lanes in one: the upper half with the lower, until one is left.
#[inline(always)]
fn fold_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (lower, upper) = lanes.split_at_mut(half);
        for (a, &b) in lower.iter_mut().zip(&*upper) {
            *a = join(*a, b);
        }
        half /= 2;
    }
    lanes[0]
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
    tail.iter().fold(fold_lanes(lanes, larger), |largest, &value| larger(largest, value))
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
        [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx]
            .into_iter()
            .map(Simd::at_most)
            .collect()
    }

    vectorised! {
        fn exponentials_of(values: &mut [f32]) {
            values.iter_mut().for_each(|x| *x = exp(*x));
        }

        fn powers_of_two(values: &mut [f32]) {
            exp2_all(values, |x| x);
        }

        fn dot_of(a: &[f32], b: &[f32]) -> f64 {
            dot(a, b)
        }

        fn exponentials_and_sums(values: &mut [f32], shift: f32) -> [f64; 2] {
            let sum = exponential_sum(values, shift);
            [sum, exponentials(values, shift)]
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (-870_000..887_000).map(|i| i as f32 * 1e-4).collect();
        for simd in levels() {
            let mut values = inputs.clone();
            exponentials_of(simd, &mut values);
            for (&x, &got) in inputs.iter().zip(&values) {
                let exact = f64::from(x).exp();
                let error = (f64::from(got) - exact).abs() / exact;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:e}");
            }
        }
    }

    #[test]
    fn powers_of_two_are_within_two_units_in_the_last_place_and_the_same_at_every_level() {
        let inputs: Vec<f32> = (-1_260_000..1_275_000).map(|i| i as f32 * 1e-4).collect();
        let mut all = Vec::new();
        for simd in levels() {
            let mut values = inputs.clone();
            powers_of_two(simd, &mut values);
            for (&x, &got) in inputs.iter().zip(&values) {
                let exact = f64::from(x).exp2();
                let error = (f64::from(got) - exact).abs() / exact;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "2^{x} is off by {error:e}");
            }
            all.push(values);
        }
        assert!(all.iter().all(|values| *values == all[0]));
    }

    #[test]
    fn powers_of_two_at_the_ends() {
        let inputs = [f32::NEG_INFINITY, -1e30, -126.5, -126.0, 0.0, 127.0, 129.5, f32::INFINITY, f32::NAN];
        for simd in levels() {
            let mut values = inputs;
            powers_of_two(simd, &mut values);
            let (ends, nan) = values.split_at(8);
            let infinite = f32::INFINITY;
            assert_eq!(ends, [0.0, 0.0, 0.0, f32::MIN_POSITIVE, 1.0, 1.701_411_8e38, infinite, infinite]);
            assert!(nan[0].is_nan());
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
    fn sums_have_the_same_bits_at_every_level() {
        let values: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect();
        let all: Vec<u64> = levels().iter().map(|&simd| dot_of(simd, &values, &values).to_bits()).collect();
        assert!(all.iter().all(|&bits| bits == all[0]));
        assert_eq!(sum(values.len(), |i| values[i] * values[i]).to_bits(), all[0], "another order");
        let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((f64::from_bits(all[0]) - exact).abs() < 1e-5 * exact);
        assert_eq!(maximum(&values[..37]), values[..37].iter().copied().fold(f32::MIN, f32::max));
    }

    #[test]
    fn exponentials_and_their_sum() {
        let values: Vec<f32> = (0..1500).map(|i| ((i * 7919) % 1000) as f32 * 1e-2 - 5.0).collect();
        let expected = sum(values.len(), |i| exp(values[i] - 1.5)).to_bits();
        for simd in levels() {
            let mut replaced = values.clone();
            let sums = exponentials_and_sums(simd, &mut replaced, 1.5);
            assert_eq!(sums.map(f64::to_bits), [expected; 2]);
            assert!(replaced.iter().zip(&values).all(|(&e, &x)| e == exp(x - 1.5)));
        }
        let mut scaled = values[..96].to_vec();
        let sum = scaled_powers(&mut scaled, 0.5, 1.0);
        for (&power, &x) in scaled.iter().zip(&values) {
            assert!(
                (f64::from(power) / f64::from(x * 0.5 - 1.0).exp2() - 1.0).abs()
                    < 2.0 * f64::from(f32::EPSILON)
            );
        }
        let exact: f64 = scaled.iter().map(|&e| f64::from(e)).sum();
        assert!((f64::from(sum) - exact).abs() < 1e-6 * exact);
    }

    #[test]
    fn positions_are_the_first() {
        let values: Vec<f32> = (0..1500).map(|i| ((i * 7919) % 1000) as f32).collect();
        for wanted in [0, 1, 127, 128, 999] {
            let first = values.iter().position(|&x| x == values[wanted]);
            assert_eq!(position(&values, values[wanted]), first);
        }
        assert_eq!(position(&values, 7777.0), None);
    }
}
