//! Floating-point instructions (ISA sections 9.7.3 to 9.7.5) on f32, f64, f16, bf16 and pairs of the last two.

use super::{Decoded, Decoder};
use crate::engine::error::PtxError;
use crate::engine::float::{Exact, Float, Rounding, extremum};
use crate::engine::ir::{Class, Operation};
use crate::engine::registers::{
    Action, LANES, Lane, Packed, Source, Target, binary, ternary, test_lanes, unary,
};
use crate::engine::types::Type;
use half::{bf16, f16};

/// The modifiers that change a floating-point result.
#[derive(Clone, Copy, Debug)]
struct Flags {
    rounding: Rounding,
    flush: bool,
    saturate: bool,
    relu: bool,
}

impl Flags {
    /// No flag that needs the slow path.
    fn is_plain(self) -> bool {
        self.rounding == Rounding::NearestEven && !self.saturate && !self.relu
    }

    fn before<T: Float>(self, value: T) -> T {
        if self.flush { value.flush() } else { value }
    }

    fn after<T: Float>(self, value: T) -> T {
        let value = if self.flush { value.flush() } else { value };
        if self.relu {
            return value.relu();
        }
        if self.saturate { value.saturate() } else { value.canonical() }
    }
}

/// How the terms of an exact zero sum decide its sign: rounding down gives -0 unless all of them are +0.
fn signed_zero<T: Float>(result: T, flags: Flags, terms: [f64; 2]) -> T {
    let all_positive_zero = terms.iter().all(|term| term.to_bits() == 0);
    if flags.rounding == Rounding::Down && result.to_f64() == 0.0 && !all_positive_zero {
        return T::zero().negate();
    }
    result
}

fn add<T: Float>(a: T, b: T, flags: Flags) -> T {
    let (a, b) = (flags.before(a), flags.before(b));
    let result = if flags.rounding == Rounding::NearestEven {
        a.add(b)
    } else {
        let result = T::from_exact(Exact::sum(a.to_f64(), b.to_f64()), flags.rounding);
        signed_zero(result, flags, [a.to_f64(), b.to_f64()])
    };
    flags.after(result)
}

fn multiply<T: Float>(a: T, b: T, flags: Flags) -> T {
    let (a, b) = (flags.before(a), flags.before(b));
    flags.after(if flags.rounding == Rounding::NearestEven {
        a.mul(b)
    } else {
        T::from_exact(Exact::product(a.to_f64(), b.to_f64()), flags.rounding)
    })
}

fn multiply_add<T: Float>(a: T, b: T, c: T, flags: Flags) -> T {
    let (a, b, c) = (flags.before(a), flags.before(b), flags.before(c));
    let result = if flags.rounding == Rounding::NearestEven {
        a.fma(b, c)
    } else {
        let result = T::from_exact(Exact::fma(a.to_f64(), b.to_f64(), c.to_f64()), flags.rounding);
        signed_zero(result, flags, [a.to_f64() * b.to_f64(), c.to_f64()])
    };
    flags.after(result)
}

/// `add`, `sub`, `mul` and `fma` of one type, with loops of their own for the common modifiers.
fn operator<T: Float + Lane>(mnemonic: &str, target: Target, sources: &[Source], flags: Flags) -> Action {
    let two = [sources[0], sources[1]];
    let three = [sources[0], sources[1], sources.get(2).copied().unwrap_or(Source::Immediate(0))];
    match (mnemonic, flags.is_plain(), flags.flush) {
        ("add", true, false) => binary(target, two, |a: T, b: T| a.add(b).canonical()),
        ("add", true, true) => binary(target, two, |a: T, b: T| a.flush().add(b.flush()).flush().canonical()),
        ("add", ..) => binary(target, two, move |a: T, b: T| add(a, b, flags)),
        ("sub", true, false) => binary(target, two, |a: T, b: T| a.add(b.negate()).canonical()),
        ("sub", ..) => binary(target, two, move |a: T, b: T| add(a, b.negate(), flags)),
        ("mul", true, false) => binary(target, two, |a: T, b: T| a.mul(b).canonical()),
        ("mul", true, true) => binary(target, two, |a: T, b: T| a.flush().mul(b.flush()).flush().canonical()),
        ("mul", ..) => binary(target, two, move |a: T, b: T| multiply(a, b, flags)),
        (_, true, false) => ternary(target, three, |a: T, b: T, c: T| a.fma(b, c).canonical()),
        (_, true, true) => {
            ternary(target, three, |a: T, b: T, c: T| a.flush().fma(b.flush(), c.flush()).flush().canonical())
        }
        _ => ternary(target, three, move |a: T, b: T, c: T| multiply_add(a, b, c, flags)),
    }
}

/// The same on both halves of a register.
fn packed_operator<T: Float + Lane>(
    mnemonic: &str,
    target: Target,
    sources: &[Source],
    flags: Flags,
) -> Action {
    let two = [sources[0], sources[1]];
    type P<T> = Packed<T>;
    match mnemonic {
        "add" => {
            binary(target, two, move |a: P<T>, b: P<T>| Packed(add(a.0, b.0, flags), add(a.1, b.1, flags)))
        }
        "sub" => binary(target, two, move |a: P<T>, b: P<T>| {
            Packed(add(a.0, b.0.negate(), flags), add(a.1, b.1.negate(), flags))
        }),
        "mul" => binary(target, two, move |a: P<T>, b: P<T>| {
            Packed(multiply(a.0, b.0, flags), multiply(a.1, b.1, flags))
        }),
        _ => ternary(target, [sources[0], sources[1], sources[2]], move |a: P<T>, b: P<T>, c: P<T>| {
            Packed(multiply_add(a.0, b.0, c.0, flags), multiply_add(a.1, b.1, c.1, flags))
        }),
    }
}

/// `min` and `max` with `.ftz`, `.NaN` and `.xorsign.abs`.
#[derive(Clone, Copy)]
struct Extremum {
    maximum: bool,
    flush: bool,
    propagate_nan: bool,
    xor_sign: bool,
}

impl Extremum {
    #[inline(always)]
    fn of<T: Float>(self, a: T, b: T) -> T {
        let (a, b) = if self.flush { (a.flush(), b.flush()) } else { (a, b) };
        if !self.xor_sign {
            return extremum(a, b, self.maximum, self.propagate_nan);
        }
        let negative = a.is_negative() != b.is_negative();
        let result = extremum(a.magnitude(), b.magnitude(), self.maximum, self.propagate_nan);
        if negative && !result.is_nan() { result.negate() } else { result }
    }
}

impl Decoder<'_, '_> {
    fn rounding(&mut self) -> Option<Rounding> {
        self.modifiers.take_map(|name| match name {
            "rn" => Some(Rounding::NearestEven),
            "rz" => Some(Rounding::Zero),
            "rm" => Some(Rounding::Down),
            "rp" => Some(Rounding::Up),
            _ => None,
        })
    }

    fn flags(&mut self) -> Flags {
        Flags {
            rounding: self.rounding().unwrap_or(Rounding::NearestEven),
            flush: self.modifiers.take("ftz"),
            saturate: self.modifiers.take("sat"),
            relu: self.modifiers.take("relu"),
        }
    }

    fn extremum_flags(&mut self) -> Result<Extremum, PtxError> {
        let xor_sign = self.modifiers.take("xorsign");
        if xor_sign && !self.modifiers.take("abs") {
            return Err(self.semantic("`.xorsign` goes with `.abs`"));
        }
        Ok(Extremum {
            maximum: self.instruction.mnemonic == "max",
            flush: self.modifiers.take("ftz"),
            propagate_nan: self.modifiers.take("NaN"),
            xor_sign,
        })
    }

    /// f32 and f64.
    pub(super) fn floating(&mut self, ty: Type) -> Decoded {
        let class = if ty == Type::F32 { Class::Float32 } else { Class::Float64 };
        let mnemonic = self.instruction.mnemonic;
        let action = match mnemonic {
            "add" | "sub" | "mul" | "mad" | "fma" => {
                let count = if matches!(mnemonic, "mad" | "fma") { 3 } else { 2 };
                self.expect_operands(count + 1..=count + 1)?;
                let flags = self.flags();
                let target = self.target(0, ty)?;
                let sources = (1..=count).map(|n| self.source(n, ty)).collect::<Result<Vec<_>, _>>()?;
                match ty {
                    Type::F32 => operator::<f32>(mnemonic, target, &sources, flags),
                    _ => operator::<f64>(mnemonic, target, &sources, flags),
                }
            }
            "min" | "max" => {
                self.expect_operands(3..=3)?;
                let flags = self.extremum_flags()?;
                let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
                match ty {
                    Type::F32 => binary(target, sources, move |a: f32, b: f32| flags.of(a, b)),
                    _ => binary(target, sources, move |a: f64, b: f64| flags.of(a, b)),
                }
            }
            "abs" | "neg" => {
                self.expect_operands(2..=2)?;
                let flush = self.modifiers.take("ftz");
                let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
                let negate = mnemonic == "neg";
                let sign = move |a: f32| if negate { -a } else { a.abs() };
                match (ty, flush) {
                    (Type::F32, false) => unary(target, source, sign),
                    (Type::F32, true) => unary(target, source, move |a: f32| sign(a.flush())),
                    _ => unary(target, source, move |a: f64| if negate { -a } else { a.abs() }),
                }
            }
            _ => return self.divide_floating(ty),
        };
        Ok((class, Operation::Alu(action)))
    }

    fn divide_floating(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        // The approximate forms are given exactly, which is within their error.
        let approximate = self.modifiers.take("approx") || self.modifiers.take("full");
        let flags = self.flags();
        let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
        let action = match ty {
            Type::F32 => binary(target, sources, move |a: f32, b: f32| {
                let (a, b) = (flags.before(a), flags.before(b));
                flags.after(if flags.rounding == Rounding::NearestEven {
                    a / b
                } else {
                    Exact::quotient(f64::from(a), f64::from(b)).to_f32(flags.rounding)
                })
            }),
            _ => binary(target, sources, move |a: f64, b: f64| {
                Exact::quotient(a, b).to_f64(flags.rounding, b != 0.0 && a.is_finite())
            }),
        };
        let class = match (approximate, ty) {
            (true, _) => Class::Approximation,
            (_, Type::F32) => Class::Float32,
            _ => Class::Float64,
        };
        Ok((class, Operation::Alu(action)))
    }

    /// f16, bf16 and their pairs.
    pub(super) fn half(&mut self, ty: Type) -> Decoded {
        let mnemonic = self.instruction.mnemonic;
        let action = match mnemonic {
            "add" | "sub" | "mul" | "fma" => {
                let count = if mnemonic == "fma" { 3 } else { 2 };
                self.expect_operands(count + 1..=count + 1)?;
                let flags = self.flags();
                if flags.rounding != Rounding::NearestEven {
                    return Err(self.semantic("half precision rounds to nearest only"));
                }
                let target = self.target(0, ty)?;
                let sources = (1..=count).map(|n| self.source(n, ty)).collect::<Result<Vec<_>, _>>()?;
                match ty {
                    Type::F16 => operator::<f16>(mnemonic, target, &sources, flags),
                    Type::Bf16 => operator::<bf16>(mnemonic, target, &sources, flags),
                    Type::F16x2 => packed_operator::<f16>(mnemonic, target, &sources, flags),
                    _ => packed_operator::<bf16>(mnemonic, target, &sources, flags),
                }
            }
            "min" | "max" => {
                self.expect_operands(3..=3)?;
                let flags = self.extremum_flags()?;
                let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
                type P<T> = Packed<T>;
                match ty {
                    Type::F16 => binary(target, sources, move |a: f16, b: f16| flags.of(a, b)),
                    Type::Bf16 => binary(target, sources, move |a: bf16, b: bf16| flags.of(a, b)),
                    Type::F16x2 => binary(target, sources, move |a: P<f16>, b: P<f16>| {
                        Packed(flags.of(a.0, b.0), flags.of(a.1, b.1))
                    }),
                    _ => binary(target, sources, move |a: P<bf16>, b: P<bf16>| {
                        Packed(flags.of(a.0, b.0), flags.of(a.1, b.1))
                    }),
                }
            }
            "abs" | "neg" => {
                self.expect_operands(2..=2)?;
                let flush = self.modifiers.take("ftz");
                let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
                let negate = mnemonic == "neg";
                let subnormal_limit = if matches!(ty, Type::F16 | Type::F16x2) { 0x0400 } else { 0x0080 };
                let one = move |bits: u16| {
                    let bits = if flush && bits & 0x7fff < subnormal_limit { bits & 0x8000 } else { bits };
                    if negate { bits ^ 0x8000 } else { bits & 0x7fff }
                };
                match ty {
                    Type::F16 | Type::Bf16 => unary(target, source, one),
                    _ => unary(target, source, move |a: Packed<u16>| Packed(one(a.0), one(a.1))),
                }
            }
            _ => return Err(self.semantic("this instruction has no half-precision form")),
        };
        Ok((Class::Half, Operation::Alu(action)))
    }

    pub(super) fn floating_function(&mut self) -> Decoded {
        let mnemonic = self.instruction.mnemonic;
        let approximate = self.modifiers.take("approx");
        let ty = self.one_type()?;
        match mnemonic {
            "testp" => return self.test_property(ty),
            "copysign" => return self.copy_sign(ty),
            _ => {}
        }
        self.expect_operands(2..=2)?;
        let flags = self.flags();
        let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
        let class = match ty {
            _ if approximate => Class::Approximation,
            Type::F32 => Class::Float32,
            _ => Class::Float64,
        };
        let action = match (mnemonic, ty) {
            ("rcp" | "sqrt" | "rsqrt", Type::F64) => {
                root_or_reciprocal_f64(mnemonic, target, source, flags, approximate)
            }
            ("rcp" | "sqrt", Type::F32) if !approximate => {
                let root = mnemonic == "sqrt";
                unary(target, source, move |a: f32| {
                    let a = f64::from(flags.before(a));
                    let exact = if root { Exact::root(a) } else { Exact::quotient(1.0, a) };
                    flags.after(exact.to_f32(flags.rounding))
                })
            }
            (_, Type::F32) => {
                let f =
                    approximation(mnemonic).ok_or_else(|| self.semantic("this type is not allowed here"))?;
                unary(target, source, move |a: f32| flags.after(f(f64::from(flags.before(a))) as f32))
            }
            ("ex2" | "tanh", Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => {
                let f =
                    approximation(mnemonic).ok_or_else(|| self.semantic("this type is not allowed here"))?;
                half_function(ty, target, source, flags, f)
            }
            _ => return Err(self.semantic("this type is not allowed here")),
        };
        Ok((class, Operation::Alu(action)))
    }

    fn copy_sign(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
        // The sign of the first operand, the magnitude of the second.
        match ty {
            Type::F32 => {
                let action = binary(target, sources, |a: f32, b: f32| b.copysign(a));
                Ok((Class::Float32, Operation::Alu(action)))
            }
            Type::F64 => {
                let action = binary(target, sources, |a: f64, b: f64| b.copysign(a));
                Ok((Class::Float64, Operation::Alu(action)))
            }
            _ => Err(self.semantic("this type is not allowed here")),
        }
    }

    fn test_property(&mut self, ty: Type) -> Decoded {
        use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
        self.expect_operands(2..=2)?;
        let property = self.modifiers.take_first().unwrap_or("");
        let allowed: &'static [std::num::FpCategory] = match property {
            "finite" => &[Normal, Subnormal, Zero],
            "infinite" => &[Infinite],
            "number" => &[Normal, Subnormal, Zero, Infinite],
            "notanumber" => &[Nan],
            "normal" => &[Normal],
            "subnormal" => &[Subnormal],
            _ => return Err(self.semantic("which property is tested?")),
        };
        let target = self.predicate_target(self.operand(0)?)?;
        let source = self.source(1, ty)?;
        let wide = ty == Type::F64;
        let action: Action = Box::new(move |registers, mask| {
            let lanes = if wide {
                let a = registers.read::<f64>(source);
                test_lanes(&a, &a, |a, _| allowed.contains(&a.classify()))
            } else {
                let a = registers.read::<f32>(source);
                test_lanes(&a, &a, |a, _| allowed.contains(&a.classify()))
            };
            if let Some(target) = target {
                registers.set_predicate(target, lanes, mask);
            }
        });
        Ok((if wide { Class::Float64 } else { Class::Float32 }, Operation::Alu(action)))
    }
}

/// The functions that PTX gives approximately. Computed in f64, so that only the last rounding is left.
fn approximation(mnemonic: &str) -> Option<fn(f64) -> f64> {
    Some(match mnemonic {
        "rcp" => |a| 1.0 / a,
        "sqrt" => f64::sqrt,
        "rsqrt" => |a| 1.0 / a.sqrt(),
        "sin" => f64::sin,
        "cos" => f64::cos,
        "lg2" => f64::log2,
        "ex2" => f64::exp2,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

fn root_or_reciprocal_f64(
    mnemonic: &str,
    target: Target,
    source: Source,
    flags: Flags,
    approximate: bool,
) -> Action {
    // `rcp.approx.ftz.f64` and `rsqrt.approx{.ftz}.f64` give the upper half of the result only.
    let upper = move |value: f64| match approximate {
        true => f64::from_bits(value.to_bits() & 0xffff_ffff_0000_0000),
        false => value,
    };
    let flush = move |a: f64| if flags.flush && a.is_subnormal() { 0f64.copysign(a) } else { a };
    match mnemonic {
        "rcp" => unary(target, source, move |a: f64| {
            let a = flush(a);
            upper(flush(Exact::quotient(1.0, a).to_f64(flags.rounding, a != 0.0)))
        }),
        "sqrt" => unary(target, source, move |a: f64| Exact::root(a).to_f64(flags.rounding, false)),
        _ => unary(target, source, move |a: f64| upper(1.0 / flush(a).sqrt())),
    }
}

fn half_function(ty: Type, target: Target, source: Source, flags: Flags, f: fn(f64) -> f64) -> Action {
    fn apply<T: Float>(a: T, flags: Flags, f: fn(f64) -> f64) -> T {
        let exact = Exact { value: f(flags.before(a).to_f64()), rest: 0.0 };
        flags.after(T::from_exact(exact, Rounding::NearestEven))
    }
    fn build<T: Float + Lane>(
        ty: Type,
        target: Target,
        source: Source,
        flags: Flags,
        f: fn(f64) -> f64,
    ) -> Action {
        if matches!(ty, Type::F16 | Type::Bf16) {
            return unary(target, source, move |a: T| apply(a, flags, f));
        }
        Box::new(move |registers, mask| {
            let a = registers.read::<Packed<T>>(source);
            let mut result = [Packed::<T>::default(); LANES];
            for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
                result[lane] = Packed(apply(a[lane].0, flags, f), apply(a[lane].1, flags, f));
            }
            registers.write(target, &result, mask);
        })
    }
    match ty {
        Type::F16 | Type::F16x2 => build::<f16>(ty, target, source, flags, f),
        _ => build::<bf16>(ty, target, source, flags, f),
    }
}
