//! Floating-point arithmetic as PTX defines it: rounding modes, flushing of subnormals, saturation, canonical NaNs.
//!
//! The host computes with round-to-nearest-even only. Everything else goes through [`Exact`], an unevaluated sum of two
//! f64 whose sign of the small part is enough to round correctly once into any narrower format.

use half::{bf16, f16};

/// Rounding to a floating-point format (`.rn`, `.rz`, `.rm`, `.rp`, `.rna`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    NearestEven,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A binary format of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bits of the significand after the point.
    pub fraction: u32,
    pub exponent_bits: u32,
    /// `e4m3` has no infinities: its largest exponent holds numbers, and all ones is NaN.
    pub finite_only: bool,
}

pub(crate) const F32: Format = Format { fraction: 23, exponent_bits: 8, finite_only: false };
pub(crate) const F16: Format = Format { fraction: 10, exponent_bits: 5, finite_only: false };
pub(crate) const BF16: Format = Format { fraction: 7, exponent_bits: 8, finite_only: false };
pub(crate) const TF32: Format = Format { fraction: 10, exponent_bits: 8, finite_only: false };
pub(crate) const E5M2: Format = Format { fraction: 2, exponent_bits: 5, finite_only: false };
pub(crate) const E4M3: Format = Format { fraction: 3, exponent_bits: 4, finite_only: true };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn sign_bit(self) -> u32 {
        1 << (self.fraction + self.exponent_bits)
    }

    /// Largest finite magnitude.
    pub fn largest(self) -> u32 {
        if self.finite_only { self.sign_bit() - 2 } else { self.infinity() - 1 }
    }

    /// Positive infinity; for a format without infinities, its NaN.
    pub fn infinity(self) -> u32 {
        if self.finite_only { self.sign_bit() - 1 } else { ((1 << self.exponent_bits) - 1) << self.fraction }
    }

    /// The value of a bit pattern.
    pub fn decode(self, bits: u32) -> f64 {
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let magnitude = bits & (self.sign_bit() - 1);
        let (exponent, fraction) = (magnitude >> self.fraction, magnitude & ((1 << self.fraction) - 1));
        let is_top = exponent == (1 << self.exponent_bits) - 1;
        if self.finite_only && magnitude == self.infinity() || !self.finite_only && is_top && fraction != 0 {
            return f64::NAN;
        }
        if !self.finite_only && is_top {
            return sign * f64::INFINITY;
        }
        let lowest = 1 - self.bias() - self.fraction as i32;
        let (significand, scale) = match exponent {
            0 => (fraction, lowest),
            _ => (fraction | 1 << self.fraction, lowest + exponent as i32 - 1),
        };
        sign * f64::from(significand) * power_of_two(scale)
    }
}

/// 2^n for |n| up to 1022.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// The exact value `value + rest`, where `value` is the f64 nearest to it; only the sign of `rest` is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact {
    pub value: f64,
    pub rest: f64,
}

impl Exact {
    pub fn sum(a: f64, b: f64) -> Exact {
        let value = a + b;
        let b_part = value - a;
        let rest = (a - (value - b_part)) + (b - b_part);
        Exact { value, rest: if value.is_finite() { rest } else { 0.0 } }
    }

    pub fn product(a: f64, b: f64) -> Exact {
        let value = a * b;
        Exact { value, rest: if value.is_finite() { a.mul_add(b, -value) } else { 0.0 } }
    }

    /// `a * b + c` (the error of an fma after Boldo and Muller, "Exact and approximated error of the FMA").
    pub fn fma(a: f64, b: f64, c: f64) -> Exact {
        let value = a.mul_add(b, c);
        if !value.is_finite() {
            return Exact { value, rest: 0.0 };
        }
        let product = Exact::product(a, b);
        let low = Exact::sum(c, product.rest);
        let high = Exact::sum(product.value, low.value);
        let middle = (high.value - value) + high.rest;
        Exact { value, rest: middle + low.rest }
    }

    pub fn quotient(a: f64, b: f64) -> Exact {
        let value = a / b;
        if !value.is_finite() || b.is_infinite() {
            return Exact { value, rest: 0.0 };
        }
        let remainder = (-value).mul_add(b, a);
        Exact { value, rest: if b < 0.0 { -remainder } else { remainder } }
    }

    pub fn root(a: f64) -> Exact {
        let value = a.sqrt();
        Exact { value, rest: if value.is_finite() { (-value).mul_add(value, a) } else { 0.0 } }
    }

    /// Rounds once to f64.
    pub fn to_f64(self, rounding: Rounding, overflowed: bool) -> f64 {
        let Exact { value, rest } = self;
        if value.is_nan() {
            return value;
        }
        if value.is_infinite() {
            let toward_zero = match rounding {
                Rounding::Zero => true,
                Rounding::Down => value > 0.0,
                Rounding::Up => value < 0.0,
                _ => false,
            };
            return if overflowed && toward_zero { f64::MAX.copysign(value) } else { value };
        }
        match rounding {
            Rounding::Zero if rest != 0.0 && value != 0.0 && (rest < 0.0) != (value < 0.0) => {
                if value > 0.0 {
                    value.next_down()
                } else {
                    value.next_up()
                }
            }
            Rounding::Down if rest < 0.0 => value.next_down(),
            Rounding::Up if rest > 0.0 => value.next_up(),
            // An exact zero from opposite signs is negative when rounding down.
            _ => value,
        }
    }

    /// Rounds once into a narrower format; returns its bits. A NaN becomes the format's canonical one.
    pub fn round(self, format: Format, rounding: Rounding) -> u32 {
        let Exact { value, rest } = self;
        if value.is_nan() {
            return format.sign_bit() - 1;
        }
        let negative = value.is_sign_negative();
        let sign = if negative { format.sign_bit() } else { 0 };
        if value.is_infinite() {
            return sign | format.infinity();
        }
        if value == 0.0 {
            return sign;
        }
        let bits = value.to_bits();
        let biased = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        // The common case: a normal result, and either no rest or one too far from a tie to matter.
        let dropped = 52 - format.fraction;
        let (half, low) = (1u64 << (dropped - 1), bits & ((1 << dropped) - 1));
        let is_normal = biased > 1023 - format.bias() && biased <= 1023 + format.bias();
        if rounding == Rounding::NearestEven && is_normal && (rest == 0.0 || low != 0 && low != half) {
            let rounded = ((bits & (u64::MAX >> 1)) + half - 1 + (bits >> dropped & 1)) >> dropped;
            let magnitude = (rounded - (((1023 - format.bias()) as u64) << format.fraction)) as u32;
            return sign | if magnitude > format.largest() { format.infinity() } else { magnitude };
        }
        // value = significand * 2^exponent, with ten bits of room for the rest's sign.
        let (significand, exponent) = match biased {
            0 => (fraction, -1074),
            _ => (fraction | 1 << 52, biased - 1075),
        };
        let outward = if rest == 0.0 { 0i64 } else { if (rest < 0.0) == negative { 1 } else { -1 } };
        let wide = ((significand << 10) as i64 + outward) as u64;
        let top = 63 - wide.leading_zeros() as i32 + exponent - 10;
        let lowest = 1 - format.bias() - format.fraction as i32;
        let unit = (top - format.fraction as i32).max(lowest);
        let shift = unit - (exponent - 10);
        let rounded = round_shifted(wide, shift as u32, rounding, negative);
        // `rounded` units of 2^unit: adding it to the biased exponent lets a carry walk into the exponent field.
        let field = (unit - lowest) as u32;
        let magnitude = (u64::from(field) << format.fraction) + rounded;
        if magnitude > u64::from(format.largest()) {
            let toward_zero = match rounding {
                Rounding::Zero => true,
                Rounding::Down => !negative,
                Rounding::Up => negative,
                _ => false,
            };
            return sign | if toward_zero { format.largest() } else { format.infinity() };
        }
        sign | magnitude as u32
    }

    pub fn to_f32(self, rounding: Rounding) -> f32 {
        f32::from_bits(self.round(F32, rounding))
    }
}

/// `value / 2^shift`, rounded to an integer.
fn round_shifted(value: u64, shift: u32, rounding: Rounding, negative: bool) -> u64 {
    if shift == 0 {
        return value;
    }
    let (quotient, rest, half) = match shift {
        1..=63 => (value >> shift, value & ((1 << shift) - 1), 1 << (shift - 1)),
        64 => (0, value, 1 << 63),
        _ => (0, u64::from(value != 0), u64::MAX),
    };
    let up = match rounding {
        Rounding::NearestEven => rest > half || rest == half && quotient & 1 == 1,
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    quotient + u64::from(up)
}

/// Arithmetic of one floating-point type: what `add`, `mul`, `fma` and so on do to it before modifiers.
pub(crate) trait Float: Copy {
    /// The NaN that arithmetic gives.
    const CANONICAL_NAN: Self;
    fn to_f64(self) -> f64;
    /// One rounding from an exact result.
    fn from_exact(exact: Exact, rounding: Rounding) -> Self;
    fn is_nan(self) -> bool;
    /// A subnormal becomes a zero of its sign.
    fn flush(self) -> Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn fma(self, b: Self, c: Self) -> Self;
    fn negate(self) -> Self;
    fn magnitude(self) -> Self;
    fn is_negative(self) -> bool;
    fn zero() -> Self;
    fn one() -> Self;

    #[inline(always)]
    fn canonical(self) -> Self {
        if self.is_nan() { Self::CANONICAL_NAN } else { self }
    }

    /// Clamped to [0, 1]; a NaN becomes +0.
    #[inline(always)]
    fn saturate(self) -> Self {
        let value = self.to_f64();
        if value > 0.0 { if value < 1.0 { self } else { Self::one() } } else { Self::zero() }
    }

    /// Negative numbers become +0; a NaN stays the canonical one.
    fn relu(self) -> Self {
        if self.is_nan() {
            Self::CANONICAL_NAN
        } else if self.is_negative() {
            Self::zero()
        } else {
            self
        }
    }
}

impl Float for f32 {
    const CANONICAL_NAN: f32 = f32::from_bits(0x7fff_ffff);
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_exact(exact: Exact, rounding: Rounding) -> f32 {
        exact.to_f32(rounding)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
    #[inline(always)]
    fn flush(self) -> f32 {
        let bits = self.to_bits();
        f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
    }
    #[inline(always)]
    fn add(self, other: f32) -> f32 {
        self + other
    }
    #[inline(always)]
    fn mul(self, other: f32) -> f32 {
        self * other
    }
    #[inline(always)]
    fn fma(self, b: f32, c: f32) -> f32 {
        self.mul_add(b, c)
    }
    #[inline(always)]
    fn negate(self) -> f32 {
        -self
    }
    #[inline(always)]
    fn magnitude(self) -> f32 {
        self.abs()
    }
    fn is_negative(self) -> bool {
        self.is_sign_negative()
    }
    fn zero() -> f32 {
        0.0
    }
    fn one() -> f32 {
        1.0
    }
}

impl Float for f64 {
    const CANONICAL_NAN: f64 = f64::from_bits(0x7fff_ffff_ffff_ffff);
    fn to_f64(self) -> f64 {
        self
    }
    fn from_exact(exact: Exact, rounding: Rounding) -> f64 {
        exact.to_f64(rounding, true)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
    fn flush(self) -> f64 {
        self
    }
    #[inline(always)]
    fn add(self, other: f64) -> f64 {
        self + other
    }
    #[inline(always)]
    fn mul(self, other: f64) -> f64 {
        self * other
    }
    #[inline(always)]
    fn fma(self, b: f64, c: f64) -> f64 {
        self.mul_add(b, c)
    }
    #[inline(always)]
    fn negate(self) -> f64 {
        -self
    }
    #[inline(always)]
    fn magnitude(self) -> f64 {
        self.abs()
    }
    fn is_negative(self) -> bool {
        self.is_sign_negative()
    }
    fn zero() -> f64 {
        0.0
    }
    fn one() -> f64 {
        1.0
    }
    /// f64 operations hand on NaN payloads (ISA section 9.7.3).
    #[inline(always)]
    fn canonical(self) -> f64 {
        self
    }
}

macro_rules! half_float {
    ($ty:ty, $format:expr) => {
        impl Float for $ty {
            const CANONICAL_NAN: $ty = <$ty>::from_bits(0x7fff);
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self.to_f32())
            }
            fn from_exact(exact: Exact, rounding: Rounding) -> $ty {
                <$ty>::from_bits(exact.round($format, rounding) as u16)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$ty>::is_nan(self)
            }
            fn flush(self) -> $ty {
                if self.is_normal() || !self.is_finite() { self } else { <$ty>::ZERO.copysign(self) }
            }
            fn add(self, other: $ty) -> $ty {
                // Sum and product of two such numbers round the same through f64 as exactly: one rounding is left.
                Self::from_exact(Exact::sum(self.to_f64(), other.to_f64()), Rounding::NearestEven)
            }
            fn mul(self, other: $ty) -> $ty {
                Self::from_exact(
                    Exact { value: self.to_f64() * other.to_f64(), rest: 0.0 },
                    Rounding::NearestEven,
                )
            }
            fn fma(self, b: $ty, c: $ty) -> $ty {
                Self::from_exact(Exact::sum(self.to_f64() * b.to_f64(), c.to_f64()), Rounding::NearestEven)
            }
            fn negate(self) -> $ty {
                <$ty>::from_bits(self.to_bits() ^ 0x8000)
            }
            fn magnitude(self) -> $ty {
                <$ty>::from_bits(self.to_bits() & 0x7fff)
            }
            fn is_negative(self) -> bool {
                self.is_sign_negative()
            }
            fn zero() -> $ty {
                <$ty>::ZERO
            }
            fn one() -> $ty {
                <$ty>::ONE
            }
        }
    };
}
half_float!(f16, F16);
half_float!(bf16, BF16);

/// `min` or `max` (ISA 9.7.3.11 and .12): a NaN loses, or wins with `.NaN`; -0 is below +0.
#[inline(always)]
pub(crate) fn extremum<T: Float>(a: T, b: T, maximum: bool, propagate_nan: bool) -> T {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => return T::CANONICAL_NAN,
        (true, false) => return if propagate_nan { T::CANONICAL_NAN } else { b },
        (false, true) => return if propagate_nan { T::CANONICAL_NAN } else { a },
        (false, false) => {}
    }
    let (x, y) = (a.to_f64(), b.to_f64());
    let a_is_less = x < y || x == y && a.is_negative() && !b.is_negative();
    if a_is_less != maximum { a } else { b }
}

/// Round half to even without changing the type: what `cvt.rni` does.
pub(crate) fn round_integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_formats_decode_and_round_back() {
        for format in [F16, BF16, E5M2, E4M3] {
            for bits in 0..=(format.sign_bit() * 2 - 1) {
                let value = format.decode(bits);
                if value.is_nan() {
                    continue;
                }
                for rounding in [Rounding::NearestEven, Rounding::Zero, Rounding::Up, Rounding::Down] {
                    assert_eq!(
                        Exact { value, rest: 0.0 }.round(format, rounding),
                        bits,
                        "{format:?} {bits:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate_and_the_host() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f32::from_bits((state >> 32) as u32);
            if value.is_nan() {
                continue;
            }
            let exact = Exact { value: f64::from(value), rest: 0.0 };
            assert_eq!(
                exact.round(BF16, Rounding::NearestEven) as u16,
                bf16::from_f32(value).to_bits(),
                "{value:e}"
            );
            assert_eq!(
                exact.round(F16, Rounding::NearestEven) as u16,
                f16::from_f32(value).to_bits(),
                "{value:e}"
            );
            let wide = f64::from_bits(state ^ state << 13);
            if !wide.is_nan() {
                let exact = Exact { value: wide, rest: 0.0 };
                assert_eq!(
                    exact.to_f32(Rounding::NearestEven).to_bits(),
                    (wide as f32).to_bits(),
                    "{wide:e}"
                );
            }
        }
    }

    #[test]
    fn directed_rounding_brackets_the_exact_sum() {
        let (a, b) = (1.0f32, f32::from_bits(0x3000_0001));
        let exact = Exact::sum(f64::from(a), f64::from(b));
        assert_eq!(exact.to_f32(Rounding::Down), 1.0);
        assert_eq!(exact.to_f32(Rounding::Up), 1.0f32.next_up());
        assert_eq!(exact.to_f32(Rounding::Zero), 1.0);
        let tiny = Exact { value: 1.0, rest: -1e-300 };
        assert_eq!(tiny.to_f32(Rounding::Zero), 1.0f32.next_down());
        assert_eq!(tiny.to_f32(Rounding::Up), 1.0);
        assert_eq!(tiny.to_f32(Rounding::NearestEven), 1.0);
        let overflow = Exact { value: 1e39, rest: 0.0 };
        assert_eq!(overflow.to_f32(Rounding::Zero), f32::MAX);
        assert_eq!(overflow.to_f32(Rounding::NearestEven), f32::INFINITY);
    }
}
