//! `cvt` (ISA section 9.7.9.21): every conversion between integers and floating-point formats, one rounding each.

use super::{Decoded, Decoder};
use crate::engine::error::PtxError;
use crate::engine::float::{BF16, E4M3, E5M2, Exact, F16, Float, Format, Rounding, TF32, round_integral};
use crate::engine::ir::{Class, Operation};
use crate::engine::registers::{Action, Lane, Packed, Source, Target, binary, unary};
use crate::engine::types::Type;
use half::{bf16, f16};

/// Modifiers of a conversion.
#[derive(Clone, Copy, Debug, Default)]
struct Conversion {
    rounding: Option<Rounding>,
    /// `.rni` and its relatives: round to an integral value.
    integral: Option<Rounding>,
    flush: bool,
    saturate: bool,
    relu: bool,
    saturate_finite: bool,
}

impl Conversion {
    fn mode(self) -> Rounding {
        self.rounding.unwrap_or(Rounding::NearestEven)
    }
}

/// A value between source and destination.
trait Number: Lane {
    fn value(self) -> f64;
}
macro_rules! number {
    ($($ty:ty => $f:expr),*) => {$(impl Number for $ty {
        #[inline(always)]
        fn value(self) -> f64 { let f: fn($ty) -> f64 = $f; f(self) }
    })*};
}
number!(f32 => |a| f64::from(a), f64 => |a| a, f16 => |a| f64::from(a.to_f32()), bf16 => |a| f64::from(a.to_f32()));

/// Bounds of an integer type.
fn integer_range(ty: Type) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

impl Decoder<'_, '_> {
    fn conversion(&mut self) -> Conversion {
        let rounding = |name: &str| match name {
            "rn" => Some(Rounding::NearestEven),
            "rna" => Some(Rounding::NearestAway),
            "rz" => Some(Rounding::Zero),
            "rm" => Some(Rounding::Down),
            "rp" => Some(Rounding::Up),
            _ => None,
        };
        let integral = |name: &str| match name {
            "rni" => Some(Rounding::NearestEven),
            "rzi" => Some(Rounding::Zero),
            "rmi" => Some(Rounding::Down),
            "rpi" => Some(Rounding::Up),
            _ => None,
        };
        Conversion {
            rounding: self.modifiers.take_map(rounding),
            integral: self.modifiers.take_map(integral),
            flush: self.modifiers.take("ftz"),
            saturate: self.modifiers.take("sat"),
            relu: self.modifiers.take("relu"),
            saturate_finite: self.modifiers.take("satfinite"),
        }
    }

    pub(super) fn convert(&mut self) -> Decoded {
        if self.modifiers.take("pack") {
            return self.convert_pack();
        }
        let conversion = self.conversion();
        let (to, from) = (self.one_type()?, self.one_type()?);
        let action = match (to, from) {
            (Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2, Type::F32) => {
                self.convert_pair(to, conversion)?
            }
            (Type::E4m3x2 | Type::E5m2x2, Type::F16x2) => self.narrow_halves(to, conversion)?,
            (Type::F16x2, Type::E4m3x2 | Type::E5m2x2) => self.widen_eighths(from, conversion)?,
            _ => {
                self.expect_operands(2..=2)?;
                let (target, source) =
                    (self.loose_target(0, storage(to))?, self.loose_source(1, storage(from))?);
                match (to.is_integer(), from.is_integer()) {
                    (true, true) => self.integer_to_integer(to, from, target, source, conversion)?,
                    (true, false) => self.float_to_integer(to, from, target, source, conversion)?,
                    (false, true) => self.integer_to_float(to, from, target, source, conversion)?,
                    (false, false) => self.float_to_float(to, from, target, source, conversion)?,
                }
            }
        };
        Ok((Class::Conversion, Operation::Alu(action)))
    }

    fn integer_to_integer(
        &self,
        to: Type,
        from: Type,
        target: Target,
        source: Source,
        conversion: Conversion,
    ) -> Result<Action, PtxError> {
        fn build<A: Lane>(to: Type, target: Target, source: Source, saturate: bool) -> Option<Action> {
            // `bits` extends by the source's sign; `write` truncates, and re-extends by the destination's type.
            if saturate {
                let (low, high) = integer_range(to);
                return Some(unary(target, source, move |a: A| {
                    i128::from(a.bits() as i64).clamp(low, high) as i64
                }));
            }
            Some(match to {
                Type::U8 => unary(target, source, |a: A| a.bits() as u8),
                Type::S8 => unary(target, source, |a: A| a.bits() as i8),
                Type::U16 => unary(target, source, |a: A| a.bits() as u16),
                Type::S16 => unary(target, source, |a: A| a.bits() as i16),
                Type::U32 => unary(target, source, |a: A| a.bits() as u32),
                Type::S32 => unary(target, source, |a: A| a.bits() as i32),
                Type::U64 => unary(target, source, |a: A| a.bits()),
                Type::S64 => unary(target, source, |a: A| a.bits() as i64),
                _ => return None,
            })
        }
        let saturate = conversion.saturate;
        if saturate && from == Type::U64 {
            let (_, high) = integer_range(to);
            return Ok(unary(target, source, move |a: u64| i128::from(a).min(high) as u64));
        }
        let action = match from {
            Type::U8 => build::<u8>(to, target, source, saturate),
            Type::S8 => build::<i8>(to, target, source, saturate),
            Type::U16 => build::<u16>(to, target, source, saturate),
            Type::S16 => build::<i16>(to, target, source, saturate),
            Type::U32 => build::<u32>(to, target, source, saturate),
            Type::S32 => build::<i32>(to, target, source, saturate),
            Type::U64 => build::<u64>(to, target, source, saturate),
            Type::S64 => build::<i64>(to, target, source, saturate),
            _ => None,
        };
        action.ok_or_else(|| self.semantic("this conversion does not exist"))
    }

    /// Out of range gives the nearest bound. NaN gives 0, or the upper bit alone where a 64-bit type takes part.
    fn float_to_integer(
        &self,
        to: Type,
        from: Type,
        target: Target,
        source: Source,
        conversion: Conversion,
    ) -> Result<Action, PtxError> {
        let rounding =
            conversion.integral.ok_or_else(|| self.semantic("a rounding such as `.rzi` is missing"))?;
        let flush = conversion.flush;
        let (low, high) = integer_range(to);
        let wide = to.bytes() == 8;
        let signed = to.is_signed();
        let nan = if wide || from == Type::F64 { 1u64 << (to.bytes() * 8 - 1) } else { 0 };
        let convert = move |value: f64| -> u64 {
            if value.is_nan() {
                return nan;
            }
            let value = round_integral(value, rounding);
            if signed {
                (value as i64).clamp(low as i64, high as i64) as u64
            } else {
                (value as u64).min(high as u64)
            }
        };
        fn build<A: Number>(
            to: Type,
            target: Target,
            source: Source,
            f: impl Fn(A) -> u64 + Copy + Send + Sync + 'static,
        ) -> Action {
            match to {
                Type::S8 | Type::S16 => unary(target, source, move |a: A| f(a) as i64),
                _ => unary(target, source, f),
            }
        }
        match from {
            Type::F32 => Ok(build(to, target, source, move |a: f32| {
                convert(f64::from(if flush { a.flush() } else { a }))
            })),
            Type::F64 => Ok(build(to, target, source, move |a: f64| convert(a))),
            Type::F16 => Ok(build(to, target, source, move |a: f16| convert(a.value()))),
            Type::Bf16 => Ok(build(to, target, source, move |a: bf16| convert(a.value()))),
            _ => Err(self.semantic("this conversion does not exist")),
        }
    }

    fn integer_to_float(
        &self,
        to: Type,
        from: Type,
        target: Target,
        source: Source,
        conversion: Conversion,
    ) -> Result<Action, PtxError> {
        let (mode, saturate) = (conversion.mode(), conversion.saturate);
        let signed = from.is_signed();
        // An integer of 64 bits is the exact sum of two f64.
        let exact = move |bits: u64| {
            let value = if signed { i128::from(bits as i64) } else { i128::from(bits) };
            let near = value as f64;
            Exact { value: near, rest: (value - near as i128) as f64 }
        };
        fn build<T: Float + Lane>(
            from: Type,
            target: Target,
            source: Source,
            f: impl Fn(u64) -> T + Copy + Send + Sync + 'static,
        ) -> Option<Action> {
            Some(match from {
                Type::U8 => unary(target, source, move |a: u8| f(a.bits())),
                Type::S8 => unary(target, source, move |a: i8| f(a.bits())),
                Type::U16 => unary(target, source, move |a: u16| f(a.bits())),
                Type::S16 => unary(target, source, move |a: i16| f(a.bits())),
                Type::U32 => unary(target, source, move |a: u32| f(a.bits())),
                Type::S32 => unary(target, source, move |a: i32| f(a.bits())),
                Type::U64 => unary(target, source, move |a: u64| f(a.bits())),
                Type::S64 => unary(target, source, move |a: i64| f(a.bits())),
                _ => return None,
            })
        }
        let action = match to {
            Type::F32 if from == Type::S32 && mode == Rounding::NearestEven && !saturate => {
                Some(unary(target, source, |a: i32| a as f32))
            }
            Type::F32 if from == Type::U32 && mode == Rounding::NearestEven && !saturate => {
                Some(unary(target, source, |a: u32| a as f32))
            }
            Type::F32 => build(from, target, source, move |bits| {
                let value = f32::from_exact(exact(bits), mode);
                if saturate { value.saturate() } else { value }
            }),
            Type::F64 => build(from, target, source, move |bits| {
                let value = f64::from_exact(exact(bits), mode);
                if saturate { value.saturate() } else { value }
            }),
            Type::F16 => build(from, target, source, move |bits| {
                let value = f16::from_exact(exact(bits), mode);
                if saturate { value.saturate() } else { value }
            }),
            Type::Bf16 => build(from, target, source, move |bits| bf16::from_exact(exact(bits), mode)),
            _ => None,
        };
        action.ok_or_else(|| self.semantic("this conversion does not exist"))
    }

    fn float_to_float(
        &self,
        to: Type,
        from: Type,
        target: Target,
        source: Source,
        conversion: Conversion,
    ) -> Result<Action, PtxError> {
        let Conversion { integral, flush, saturate, relu, saturate_finite, .. } = conversion;
        let mode = conversion.mode();
        let plain = !flush && !saturate && !relu && !saturate_finite && integral.is_none();
        match (to, from, mode) {
            (Type::F32, Type::Bf16, _) if plain => {
                return Ok(unary(target, source, |a: u16| canonical_f32(f32::from_bits(u32::from(a) << 16))));
            }
            (Type::F32, Type::F16, _) if plain => {
                return Ok(unary(target, source, |a: f16| canonical_f32(a.to_f32())));
            }
            (Type::Bf16, Type::F32, Rounding::NearestEven) if plain => {
                return Ok(unary(target, source, bf16_nearest));
            }
            (Type::F64, Type::F32, _) if plain => return Ok(unary(target, source, |a: f32| f64::from(a))),
            _ => {}
        }
        let before = move |a: f64| match integral {
            Some(rounding) => round_integral(a, rounding),
            None => a,
        };
        // What happens between the exact value and the destination's bits.
        macro_rules! to_type {
            ($T:ty, $from:ty, $value:expr) => {{
                let value: fn($from) -> f64 = $value;
                unary(target, source, move |a: $from| {
                    let exact = Exact { value: before(value(a)), rest: 0.0 };
                    let result = <$T as Float>::from_exact(exact, mode);
                    let result = if flush { result.flush() } else { result };
                    let result = if relu { result.relu() } else { result };
                    let result = if saturate { result.saturate() } else { result };
                    if saturate_finite { finite(result, exact.value) } else { result.canonical() }
                })
            }};
        }
        macro_rules! from_any {
            ($T:ty) => {
                match from {
                    Type::F32 if flush => to_type!($T, f32, |a| f64::from(a.flush())),
                    Type::F32 => to_type!($T, f32, |a| f64::from(a)),
                    Type::F64 => to_type!($T, f64, |a| a),
                    Type::F16 => to_type!($T, f16, |a| a.value()),
                    Type::Bf16 => to_type!($T, bf16, |a| a.value()),
                    _ => return Err(self.semantic("this conversion does not exist")),
                }
            };
        }
        Ok(match to {
            Type::F32 => from_any!(f32),
            Type::F64 => from_any!(f64),
            Type::F16 => from_any!(f16),
            Type::Bf16 => from_any!(bf16),
            Type::Tf32 => unary(target, source, move |a: f32| {
                let exact = Exact { value: f64::from(a), rest: 0.0 };
                let bits =
                    if saturate_finite && a.is_infinite() { TF32.largest() } else { exact.round(TF32, mode) };
                // tf32 is an f32 whose 13 low bits are zero.
                let value = f32::from_bits(if a.is_nan() { 0x7fff_ffff } else { bits << 13 });
                if relu { value.relu().to_bits() } else { value.to_bits() }
            }),
            _ => return Err(self.semantic("this conversion does not exist")),
        })
    }

    /// Two f32 into one register: the first operand becomes the upper half.
    fn convert_pair(&self, to: Type, conversion: Conversion) -> Result<Action, PtxError> {
        self.expect_operands(3..=3)?;
        let sources = self.sources::<2>(1, Type::F32)?;
        let Conversion { relu, saturate_finite, .. } = conversion;
        let mode = conversion.mode();
        let target = self.target(0, storage(to))?;
        if to == Type::Bf16x2 && mode == Rounding::NearestEven && !relu && !saturate_finite {
            return Ok(binary(target, sources, |a: f32, b: f32| Packed(bf16_nearest(b), bf16_nearest(a))));
        }
        let (format, bits) = match to {
            Type::F16x2 => (F16, 16),
            Type::Bf16x2 => (BF16, 16),
            Type::E4m3x2 => (E4M3, 8),
            _ => (E5M2, 8),
        };
        let one = move |a: f32| narrow(f64::from(a), format, mode, relu, saturate_finite);
        Ok(binary(target, sources, move |a: f32, b: f32| one(a) << bits | one(b)))
    }

    fn narrow_halves(&self, to: Type, conversion: Conversion) -> Result<Action, PtxError> {
        self.expect_operands(2..=2)?;
        let format = if to == Type::E4m3x2 { E4M3 } else { E5M2 };
        let relu = conversion.relu;
        let one = move |a: f16| narrow(a.value(), format, Rounding::NearestEven, relu, true) as u16;
        let (target, source) = (self.target(0, Type::B16)?, self.source(1, Type::B32)?);
        Ok(unary(target, source, move |a: Packed<f16>| one(a.1) << 8 | one(a.0)))
    }

    fn widen_eighths(&self, from: Type, conversion: Conversion) -> Result<Action, PtxError> {
        self.expect_operands(2..=2)?;
        let format = if from == Type::E4m3x2 { E4M3 } else { E5M2 };
        let relu = conversion.relu;
        let one = move |bits: u16| {
            narrow(format.decode(u32::from(bits & 0xff)), F16, Rounding::NearestEven, relu, false)
        };
        let (target, source) = (self.target(0, Type::B32)?, self.source(1, Type::B16)?);
        Ok(unary(target, source, move |a: u16| one(a >> 8) << 16 | one(a)))
    }

    /// `cvt.pack.sat`: two s32 saturated into halves, or into bytes beneath a third operand.
    fn convert_pack(&mut self) -> Decoded {
        if !self.modifiers.take("sat") {
            return Err(self.semantic("`.sat` is missing"));
        }
        let (to, from) = (self.one_type()?, self.one_type()?);
        let third = self.modifiers.take("b32");
        if from != Type::S32 || !to.is_integer() || to.bytes() > 2 || third != (to.bytes() == 1) {
            return Err(self.unsupported("this packing is not supported"));
        }
        self.expect_operands(if third { 4..=4 } else { 3..=3 })?;
        let target = self.target(0, Type::B32)?;
        let [a, b] = self.sources(1, Type::S32)?;
        let c = if third { self.source(3, Type::B32)? } else { Source::Immediate(0) };
        let (low, high) = integer_range(to);
        let bits = to.bytes() as u32 * 8;
        let one = move |a: i32| (i128::from(a).clamp(low, high) as u32) & ((1 << bits) - 1);
        let action = crate::engine::registers::ternary(target, [a, b, c], move |a: i32, b: i32, c: u32| {
            c.checked_shl(2 * bits).unwrap_or(0) | one(a) << bits | one(b)
        });
        Ok((Class::Conversion, Operation::Alu(action)))
    }
}

/// The register type that holds a type.
fn storage(ty: Type) -> Type {
    match ty {
        Type::Tf32 => Type::B32,
        Type::E4m3x2 | Type::E5m2x2 => Type::B16,
        Type::F16x2 | Type::Bf16x2 => Type::B32,
        other => other,
    }
}

fn canonical_f32(value: f32) -> f32 {
    value.canonical()
}

/// Round to nearest even in integers; every NaN becomes the canonical one.
#[inline(always)]
fn bf16_nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded as u16 }
}

/// With `.satfinite`, what would be infinite is the largest finite number.
fn finite<T: Float>(result: T, exact: f64) -> T {
    if result.to_f64().is_infinite() {
        return T::from_exact(Exact { value: f64::MAX.copysign(exact), rest: 0.0 }, Rounding::Zero);
    }
    result.canonical()
}

/// Bits of a value in a narrow format.
fn narrow(value: f64, format: Format, mode: Rounding, relu: bool, saturate_finite: bool) -> u32 {
    if relu && value <= 0.0 {
        return 0;
    }
    let bits = Exact { value, rest: 0.0 }.round(format, mode);
    let sign = bits & !(format.infinity().next_power_of_two() - 1);
    if saturate_finite && !value.is_nan() && bits & !sign > format.largest() {
        return sign | format.largest();
    }
    bits
}
