//! Integer and bit instructions (ISA sections 9.7.1, 9.7.2 and 9.7.8).

use super::{Decoded, Decoder};
use crate::engine::error::PtxError;
use crate::engine::ir::{Class, Operation};
use crate::engine::registers::{
    Action, Condition, LANES, Lane, Packed, Source, Target, binary, ternary, unary,
};
use crate::engine::types::Type;

/// Runs `$body` with `$T` standing for the Rust type of an integer PTX type.
macro_rules! with_integer {
    ($decoder:expr, $ty:expr, $T:ident => $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => {
                type $T = u16;
                $body
            }
            Type::S16 => {
                type $T = i16;
                $body
            }
            Type::U32 | Type::B32 => {
                type $T = u32;
                $body
            }
            Type::S32 => {
                type $T = i32;
                $body
            }
            Type::U64 | Type::B64 => {
                type $T = u64;
                $body
            }
            Type::S64 => {
                type $T = i64;
                $body
            }
            _ => return Err($decoder.semantic("this type is not allowed here")),
        }
    };
}

/// What integer instructions need beyond the operators.
pub(crate) trait Integer: Lane + Ord {
    const BITS: u32;
    fn wide(self) -> i128;
    fn narrow(value: i128) -> Self;
}

macro_rules! integer {
    ($($ty:ty),*) => {$(
        impl Integer for $ty {
            const BITS: u32 = <$ty>::BITS;
            fn wide(self) -> i128 { self as i128 }
            fn narrow(value: i128) -> Self { value as $ty }
        }
    )*};
}
integer!(u16, i16, u32, i32, u64, i64);

fn alu(action: Action) -> Decoded {
    Ok((Class::Integer, Operation::Alu(action)))
}

impl Decoder<'_, '_> {
    pub(super) fn integer_arithmetic(&mut self, ty: Type) -> Decoded {
        if self.modifiers.take("cc") {
            return self.with_carry(ty, false);
        }
        match self.instruction.mnemonic {
            "add" | "sub" => self.add_or_subtract(ty),
            "mul" => self.multiply(ty),
            "mad" => self.multiply_add(ty),
            "min" | "max" => self.minimum(ty),
            "div" => self.divide(ty),
            "abs" | "neg" => {
                self.expect_operands(2..=2)?;
                let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
                let negate = self.instruction.mnemonic == "neg";
                alu(match (ty, negate) {
                    (Type::S16, true) => unary(target, source, i16::wrapping_neg),
                    (Type::S32, true) => unary(target, source, i32::wrapping_neg),
                    (Type::S64, true) => unary(target, source, i64::wrapping_neg),
                    (Type::S16, false) => unary(target, source, i16::wrapping_abs),
                    (Type::S32, false) => unary(target, source, i32::wrapping_abs),
                    (Type::S64, false) => unary(target, source, i64::wrapping_abs),
                    _ => return Err(self.semantic("a signed type is expected")),
                })
            }
            _ => Err(self.semantic("this instruction has no integer form")),
        }
    }

    fn add_or_subtract(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        let saturate = self.modifiers.take("sat");
        let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
        let add = self.instruction.mnemonic == "add";
        if saturate {
            return match (ty, add) {
                (Type::S32, true) => alu(binary(target, sources, i32::saturating_add)),
                (Type::S32, false) => alu(binary(target, sources, i32::saturating_sub)),
                _ => Err(self.semantic("`.sat` is for s32 only")),
            };
        }
        if matches!(ty, Type::U16x2 | Type::S16x2) {
            let pair = |f: fn(u16, u16) -> u16| {
                binary(target, sources, move |a: Packed<u16>, b: Packed<u16>| {
                    Packed(f(a.0, b.0), f(a.1, b.1))
                })
            };
            return alu(if add { pair(u16::wrapping_add) } else { pair(u16::wrapping_sub) });
        }
        alu(with_integer!(self, ty, T => if add {
            binary(target, sources, T::wrapping_add)
        } else {
            binary(target, sources, T::wrapping_sub)
        }))
    }

    /// `mul` and `mad` say which half of the product they keep.
    fn product_part(&mut self) -> Result<Part, PtxError> {
        let part = self.modifiers.take_map(|name| match name {
            "lo" => Some(Part::Low),
            "hi" => Some(Part::High),
            "wide" => Some(Part::Wide),
            _ => None,
        });
        part.ok_or_else(|| self.semantic("`.lo`, `.hi` or `.wide` is missing"))
    }

    fn multiply(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        let part = self.product_part()?;
        let wide = self.widened(ty, part)?;
        let (target, sources) = (self.target(0, wide)?, self.sources::<2>(1, ty)?);
        alu(match part {
            Part::Low => with_integer!(self, ty, T => binary(target, sources, T::wrapping_mul)),
            Part::High => with_integer!(self, ty, T => binary(target, sources, high_product::<T>)),
            Part::Wide => match ty {
                Type::U16 => binary(target, sources, |a: u16, b: u16| u32::from(a) * u32::from(b)),
                Type::S16 => binary(target, sources, |a: i16, b: i16| i32::from(a) * i32::from(b)),
                Type::U32 => binary(target, sources, |a: u32, b: u32| u64::from(a) * u64::from(b)),
                _ => binary(target, sources, |a: i32, b: i32| i64::from(a) * i64::from(b)),
            },
        })
    }

    /// The type of a product's destination.
    fn widened(&self, ty: Type, part: Part) -> Result<Type, PtxError> {
        match (part, ty) {
            (Part::Wide, Type::U16) => Ok(Type::U32),
            (Part::Wide, Type::S16) => Ok(Type::S32),
            (Part::Wide, Type::U32) => Ok(Type::U64),
            (Part::Wide, Type::S32) => Ok(Type::S64),
            (Part::Wide, _) => Err(self.semantic("`.wide` is for 16- and 32-bit types")),
            _ => Ok(ty),
        }
    }

    fn multiply_add(&mut self, ty: Type) -> Decoded {
        self.expect_operands(4..=4)?;
        let part = self.product_part()?;
        let saturate = self.modifiers.take("sat");
        let wide = self.widened(ty, part)?;
        let target = self.target(0, wide)?;
        let [a, b] = self.sources(1, ty)?;
        let sources = [a, b, self.source(3, wide)?];
        if saturate {
            return match (ty, part) {
                (Type::S32, Part::High) => {
                    alu(ternary(target, sources, |a, b, c: i32| high_product::<i32>(a, b).saturating_add(c)))
                }
                _ => Err(self.semantic("`.sat` is for mad.hi.s32 only")),
            };
        }
        alu(match part {
            Part::Low => with_integer!(self, ty, T => {
                ternary(target, sources, |a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c))
            }),
            Part::High => with_integer!(self, ty, T => {
                ternary(target, sources, |a: T, b: T, c: T| high_product::<T>(a, b).wrapping_add(c))
            }),
            Part::Wide => match ty {
                Type::U16 => ternary(target, sources, |a: u16, b: u16, c: u32| {
                    (u32::from(a) * u32::from(b)).wrapping_add(c)
                }),
                Type::S16 => ternary(target, sources, |a: i16, b: i16, c: i32| {
                    (i32::from(a) * i32::from(b)).wrapping_add(c)
                }),
                Type::U32 => ternary(target, sources, |a: u32, b: u32, c: u64| {
                    (u64::from(a) * u64::from(b)).wrapping_add(c)
                }),
                _ => ternary(target, sources, |a: i32, b: i32, c: i64| {
                    (i64::from(a) * i64::from(b)).wrapping_add(c)
                }),
            },
        })
    }

    fn minimum(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        let maximum = self.instruction.mnemonic == "max";
        let relu = self.modifiers.take("relu");
        let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
        if relu && !matches!(ty, Type::S32 | Type::S16x2) {
            return Err(self.semantic("`.relu` is for s32 and s16x2 only"));
        }
        fn pick<T: Ord>(a: T, b: T, maximum: bool) -> T {
            if maximum { a.max(b) } else { a.min(b) }
        }
        alu(match ty {
            Type::U16x2 => binary(target, sources, move |a: Packed<u16>, b: Packed<u16>| {
                Packed(pick(a.0, b.0, maximum), pick(a.1, b.1, maximum))
            }),
            Type::S16x2 => binary(target, sources, move |a: Packed<i16>, b: Packed<i16>| {
                let floor = if relu { 0 } else { i16::MIN };
                Packed(pick(a.0, b.0, maximum).max(floor), pick(a.1, b.1, maximum).max(floor))
            }),
            Type::S32 if relu => binary(target, sources, move |a: i32, b: i32| pick(a, b, maximum).max(0)),
            _ if maximum => with_integer!(self, ty, T => binary(target, sources, |a: T, b: T| a.max(b))),
            _ => with_integer!(self, ty, T => binary(target, sources, |a: T, b: T| a.min(b))),
        })
    }

    /// Division by zero is unspecified; it gives all ones, and the remainder the dividend, as the hardware does.
    fn divide(&mut self, ty: Type) -> Decoded {
        self.expect_operands(3..=3)?;
        let (target, sources) = (self.target(0, ty)?, self.sources::<2>(1, ty)?);
        alu(with_integer!(self, ty, T => binary(target, sources, |a: T, b: T| {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        })))
    }

    pub(super) fn logic(&mut self) -> Decoded {
        let ty = self.one_type()?;
        let unary_form = self.instruction.mnemonic == "not";
        self.expect_operands(if unary_form { 2..=2 } else { 3..=3 })?;
        if ty == Type::Pred {
            return self.predicate_logic();
        }
        let target = self.target(0, ty)?;
        if unary_form {
            let source = self.source(1, ty)?;
            return alu(with_integer!(self, ty, T => unary(target, source, |a: T| !a)));
        }
        let sources = self.sources::<2>(1, ty)?;
        alu(with_integer!(self, ty, T => match self.instruction.mnemonic {
            "and" => binary(target, sources, |a: T, b: T| a & b),
            "or" => binary(target, sources, |a: T, b: T| a | b),
            _ => binary(target, sources, |a: T, b: T| a ^ b),
        }))
    }

    fn predicate_logic(&mut self) -> Decoded {
        let target = self.predicate_target(self.operand(0)?)?;
        let a = self.condition(1)?;
        let b =
            if self.instruction.mnemonic == "not" { Condition::Constant(true) } else { self.condition(2)? };
        let f: fn(u32, u32) -> u32 = match self.instruction.mnemonic {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            // `not` is exclusive or with true.
            _ => |a, b| a ^ b,
        };
        alu(Box::new(move |registers, mask| {
            let value = f(a.lanes(registers), b.lanes(registers));
            if let Some(target) = target {
                registers.set_predicate(target, value, mask);
            }
        }))
    }

    pub(super) fn integer(&mut self) -> Decoded {
        match self.instruction.mnemonic {
            "addc" | "subc" | "madc" => {
                let ty = self.one_type()?;
                self.with_carry(ty, true)
            }
            "shl" | "shr" => self.shift(),
            "shf" => self.funnel_shift(),
            "rem" | "sad" | "cnot" => self.simple_integer(),
            "mul24" | "mad24" => self.multiply_24(),
            "popc" | "clz" | "bfind" | "brev" => self.count_bits(),
            "bfe" | "bfi" | "bmsk" | "szext" | "fns" => self.bit_field(),
            "dp4a" | "dp2a" => self.dot_product(),
            "prmt" => self.permute(),
            _ => self.lop3(),
        }
    }

    fn simple_integer(&mut self) -> Decoded {
        let ty = self.one_type()?;
        let target = self.target(0, ty)?;
        if self.instruction.mnemonic == "cnot" {
            self.expect_operands(2..=2)?;
            let source = self.source(1, ty)?;
            return alu(with_integer!(self, ty, T => unary(target, source, |a: T| T::from(a == 0))));
        }
        if self.instruction.mnemonic == "rem" {
            self.expect_operands(3..=3)?;
            let sources = self.sources::<2>(1, ty)?;
            return alu(with_integer!(self, ty, T => binary(target, sources, |a: T, b: T| {
                if b == 0 { a } else { a.wrapping_rem(b) }
            })));
        }
        self.expect_operands(4..=4)?;
        let sources = self.sources::<3>(1, ty)?;
        alu(with_integer!(self, ty, T => ternary(target, sources, |a: T, b: T, c: T| {
            c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) })
        })))
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc` (ISA 9.7.2): the carry of each lane lives in CC.CF.
    fn with_carry(&mut self, ty: Type, carry_in: bool) -> Decoded {
        let carry_out = self.modifiers.take("cc") || !carry_in;
        let mnemonic = self.instruction.mnemonic;
        let part = if mnemonic.starts_with("mad") { Some(self.product_part()?) } else { None };
        if part == Some(Part::Wide) {
            return Err(self.semantic("`.wide` has no carry form"));
        }
        let count = if part.is_some() { 3 } else { 2 };
        self.expect_operands(count + 1..=count + 1)?;
        let target = self.target(0, ty)?;
        let a = self.source(1, ty)?;
        let b = self.source(2, ty)?;
        let c = if part.is_some() { self.source(3, ty)? } else { Source::Immediate(0) };
        let subtract = mnemonic.starts_with("sub");
        fn build<T: Integer>(
            target: Target,
            [a, b, c]: [Source; 3],
            part: Option<Part>,
            subtract: bool,
            (carry_in, carry_out): (bool, bool),
        ) -> Action {
            let low = |value: i128| value & ((1i128 << T::BITS) - 1);
            Box::new(move |registers, mask| {
                let (a, b, c) = (registers.read::<T>(a), registers.read::<T>(b), registers.read::<T>(c));
                let mut result = [T::default(); LANES];
                let mut carries = 0u32;
                for lane in 0..LANES {
                    let carry = if carry_in { i128::from(registers.carry >> lane & 1) } else { 0 };
                    let product = a[lane].wide().wrapping_mul(b[lane].wide());
                    let value = match part {
                        Some(Part::High) => low(product >> T::BITS) + low(c[lane].wide()) + carry,
                        Some(_) => low(product) + low(c[lane].wide()) + carry,
                        None if subtract => low(a[lane].wide()) - low(b[lane].wide()) - carry,
                        None => low(a[lane].wide()) + low(b[lane].wide()) + carry,
                    };
                    result[lane] = T::narrow(value);
                    carries |= u32::from(value >> T::BITS & 1 != 0) << lane;
                }
                registers.write(target, &result, mask);
                if carry_out {
                    registers.carry = (registers.carry & !mask) | (carries & mask);
                }
            })
        }
        let (sources, flags) = ([a, b, c], (carry_in, carry_out));
        alu(with_integer!(self, ty, T => build::<T>(target, sources, part, subtract, flags)))
    }

    /// Shift amounts are unsigned 32-bit and clamp at the width.
    fn shift(&mut self) -> Decoded {
        self.expect_operands(3..=3)?;
        let ty = self.one_type()?;
        let target = self.target(0, ty)?;
        let sources = [self.source(1, ty)?, self.source(2, Type::U32)?];
        let left = self.instruction.mnemonic == "shl";
        alu(with_integer!(self, ty, T => if left {
            binary(target, sources, |a: T, n: u32| if n < T::BITS { a << n } else { 0 })
        } else {
            // For a signed type the sign fills, also beyond the width.
            binary(target, sources, |a: T, n: u32| if n < T::BITS { a >> n } else { (a >> (T::BITS - 1)) >> 1 })
        }))
    }

    fn funnel_shift(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let left = self.modifiers.take("l");
        if !left && !self.modifiers.take("r") {
            return Err(self.semantic("`.l` or `.r` is missing"));
        }
        let wrap = self.modifiers.take("wrap");
        if !wrap && !self.modifiers.take("clamp") {
            return Err(self.semantic("`.wrap` or `.clamp` is missing"));
        }
        let ty = self.one_type()?;
        let (target, sources) = (self.target(0, ty)?, self.sources::<3>(1, Type::B32)?);
        alu(ternary(target, sources, move |a: u32, b: u32, c: u32| {
            let amount = if wrap { c & 31 } else { c.min(32) };
            let both = u64::from(b) << 32 | u64::from(a);
            if left { (both << amount >> 32) as u32 } else { (both >> amount) as u32 }
        }))
    }

    fn multiply_24(&mut self) -> Decoded {
        let part = self.product_part()?;
        let saturate = self.modifiers.take("sat");
        let ty = self.one_type()?;
        let add = self.instruction.mnemonic == "mad24";
        self.expect_operands(if add { 4..=4 } else { 3..=3 })?;
        let target = self.target(0, ty)?;
        let [a, b] = self.sources(1, ty)?;
        let c = if add { self.source(3, ty)? } else { Source::Immediate(0) };
        let signed = ty == Type::S32;
        let high = part == Part::High;
        alu(ternary(target, [a, b, c], move |a: u32, b: u32, c: u32| {
            let extend = |x: u32| {
                if signed { i64::from((x << 8) as i32 >> 8) } else { i64::from(x & 0xff_ffff) }
            };
            let product = extend(a) * extend(b);
            let kept = if high { product >> 16 } else { product } as u32;
            if saturate { (kept as i32).saturating_add(c as i32) as u32 } else { kept.wrapping_add(c) }
        }))
    }

    fn count_bits(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        let mnemonic = self.instruction.mnemonic;
        let shift_amount = self.modifiers.take("shiftamt");
        let ty = self.one_type()?;
        let result = if mnemonic == "brev" { ty } else { Type::U32 };
        let (target, source) = (self.target(0, result)?, self.source(1, ty)?);
        fn find(value: u64, top: u32, shift_amount: bool) -> u32 {
            if value == 0 {
                return u32::MAX;
            }
            let position = 63 - value.leading_zeros();
            if shift_amount { top - position } else { position }
        }
        alu(match (mnemonic, ty) {
            ("popc", Type::B32) => unary(target, source, u32::count_ones),
            ("popc", Type::B64) => unary(target, source, u64::count_ones),
            ("clz", Type::B32) => unary(target, source, u32::leading_zeros),
            ("clz", Type::B64) => unary(target, source, u64::leading_zeros),
            ("brev", Type::B32) => unary(target, source, u32::reverse_bits),
            ("brev", Type::B64) => unary(target, source, u64::reverse_bits),
            ("bfind", Type::U32) => unary(target, source, move |a: u32| find(u64::from(a), 31, shift_amount)),
            ("bfind", Type::U64) => unary(target, source, move |a: u64| find(a, 63, shift_amount)),
            ("bfind", Type::S32) => {
                unary(target, source, move |a: i32| find(u64::from((a ^ a >> 31) as u32), 31, shift_amount))
            }
            ("bfind", Type::S64) => {
                unary(target, source, move |a: i64| find((a ^ a >> 63) as u64, 63, shift_amount))
            }
            _ => return Err(self.semantic("this type is not allowed here")),
        })
    }

    fn bit_field(&mut self) -> Decoded {
        let mnemonic = self.instruction.mnemonic;
        let wrap = matches!(mnemonic, "bmsk" | "szext") && self.modifiers.take("wrap");
        if matches!(mnemonic, "bmsk" | "szext") && !wrap && !self.modifiers.take("clamp") {
            return Err(self.semantic("`.wrap` or `.clamp` is missing"));
        }
        let ty = self.one_type()?;
        let count = match mnemonic {
            "bmsk" | "szext" => 3,
            "bfi" => 5,
            _ => 4,
        };
        self.expect_operands(count..=count)?;
        let target = self.target(0, ty)?;
        let a = self.source(1, ty)?;
        match mnemonic {
            "bfe" => {
                let sources = [a, self.source(2, Type::U32)?, self.source(3, Type::U32)?];
                alu(match ty {
                    Type::U32 => {
                        ternary(target, sources, |a: u32, p, n| extract(u64::from(a), p, n, 32, false) as u32)
                    }
                    Type::S32 => {
                        ternary(target, sources, |a: u32, p, n| extract(u64::from(a), p, n, 32, true) as u32)
                    }
                    Type::U64 => ternary(target, sources, |a: u64, p, n| extract(a, p, n, 64, false)),
                    Type::S64 => ternary(target, sources, |a: u64, p, n| extract(a, p, n, 64, true)),
                    _ => return Err(self.semantic("this type is not allowed here")),
                })
            }
            "bfi" => {
                let b = self.source(2, ty)?;
                let (position, length) = (self.source(3, Type::U32)?, self.source(4, Type::U32)?);
                let width = ty.bytes() as u32 * 8;
                alu(Box::new(move |registers, mask| {
                    let (a, b) = (registers.read::<u64>(a), registers.read::<u64>(b));
                    let (position, length) = (registers.read::<u32>(position), registers.read::<u32>(length));
                    let result: [u64; LANES] = std::array::from_fn(|lane| {
                        insert(a[lane], b[lane], position[lane], length[lane], width)
                    });
                    registers.write(target, &result, mask);
                }))
            }
            "bmsk" => alu(binary(target, [a, self.source(2, Type::U32)?], move |a: u32, b: u32| {
                let (start, width) = if wrap { (a & 31, b & 31) } else { (a, b) };
                let ones = if width >= 32 { u32::MAX } else { (1 << width) - 1 };
                if start >= 32 { 0 } else { ones << start }
            })),
            "szext" => {
                let signed = ty == Type::S32;
                alu(binary(target, [a, self.source(2, Type::U32)?], move |a: u32, b: u32| {
                    let bits = if wrap { b & 31 } else { b };
                    match bits {
                        0 => 0,
                        1..=31 if signed => ((a << (32 - bits)) as i32 >> (32 - bits)) as u32,
                        1..=31 => a & ((1 << bits) - 1),
                        _ => a,
                    }
                }))
            }
            _ => {
                let sources = [a, self.source(2, Type::U32)?, self.source(3, Type::S32)?];
                alu(ternary(target, sources, find_nth_set))
            }
        }
    }

    fn dot_product(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let two = self.instruction.mnemonic == "dp2a";
        let high = two && self.modifiers.take("hi");
        if two && !high && !self.modifiers.take("lo") {
            return Err(self.semantic("`.lo` or `.hi` is missing"));
        }
        let (a_type, b_type) = (self.one_type()?, self.one_type()?);
        let (target, sources) = (self.target(0, Type::B32)?, self.sources::<3>(1, Type::B32)?);
        let (a_signed, b_signed) = (a_type.is_signed(), b_type.is_signed());
        alu(ternary(target, sources, move |a: u32, b: u32, c: u32| {
            let byte = |x: u32, n: u32, signed: bool| {
                let byte = (x >> (8 * n)) as u8;
                if signed { i64::from(byte as i8) } else { i64::from(byte) }
            };
            let half = |x: u32, n: u32| {
                let half = (x >> (16 * n)) as u16;
                if a_signed { i64::from(half as i16) } else { i64::from(half) }
            };
            let sum: i64 = if two {
                let first = if high { 2 } else { 0 };
                (0..2).map(|n| half(a, n) * byte(b, first + n, b_signed)).sum()
            } else {
                (0..4).map(|n| byte(a, n, a_signed) * byte(b, n, b_signed)).sum()
            };
            c.wrapping_add(sum as u32)
        }))
    }

    fn permute(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let ty = self.one_type()?;
        let mode = self.modifiers.take_map(|name| match name {
            "f4e" => Some(Permutation::Forward4),
            "b4e" => Some(Permutation::Backward4),
            "rc8" => Some(Permutation::Replicate8),
            "ecl" => Some(Permutation::EdgeLeft),
            "ecr" => Some(Permutation::EdgeRight),
            "rc16" => Some(Permutation::Replicate16),
            _ => None,
        });
        let (target, sources) = (self.target(0, ty)?, self.sources::<3>(1, ty)?);
        alu(ternary(target, sources, move |a, b, c| permute(a, b, c, mode)))
    }

    fn lop3(&mut self) -> Decoded {
        let combine = self.modifiers.take_map(|name| match name {
            "or" => Some(true),
            "and" => Some(false),
            _ => None,
        });
        self.one_type()?;
        let count = if combine.is_some() { 6 } else { 5 };
        self.expect_operands(count..=count)?;
        let (target, predicate) = match self.operand(0)? {
            crate::engine::ast::Operand::Pair(d, p) => {
                (self.target_of(d, Type::B32, false)?, self.predicate_target(p)?)
            }
            d => (self.target_of(d, Type::B32, false)?, None),
        };
        let [a, b, c] = self.sources(1, Type::B32)?;
        let Source::Immediate(table) = self.source(4, Type::U32)? else {
            return Err(self.semantic("the table must be a constant"));
        };
        let q = match combine {
            Some(or) => Some((or, self.condition(5)?)),
            None => None,
        };
        let row = move |bit: u32| if table >> bit & 1 != 0 { u32::MAX } else { 0 };
        let rows: [u32; 8] = std::array::from_fn(|bit| row(bit as u32));
        alu(Box::new(move |registers, mask| {
            let (x, y, z) = (registers.read::<u32>(a), registers.read::<u32>(b), registers.read::<u32>(c));
            let result: [u32; LANES] = std::array::from_fn(|lane| {
                let (x, y, z) = (x[lane], y[lane], z[lane]);
                let low = (!y & ((!z & rows[0]) | (z & rows[1]))) | (y & ((!z & rows[2]) | (z & rows[3])));
                let high = (!y & ((!z & rows[4]) | (z & rows[5]))) | (y & ((!z & rows[6]) | (z & rows[7])));
                (!x & low) | (x & high)
            });
            registers.write(target, &result, mask);
            if let (Some((or, q)), Some(predicate)) = (q, predicate) {
                let nonzero = (0..LANES).fold(0, |bits, lane| bits | u32::from(result[lane] != 0) << lane);
                let q = q.lanes(registers);
                registers.set_predicate(predicate, if or { nonzero | q } else { nonzero & q }, mask);
            }
        }))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Low,
    High,
    Wide,
}

fn high_product<T: Integer>(a: T, b: T) -> T {
    // The product of two u64 wraps in i128, but its upper half is right.
    T::narrow(a.wide().wrapping_mul(b.wide()) >> T::BITS)
}

/// `bfe` by the ISA's pseudocode: bits beyond the value take its sign, or zero.
fn extract(value: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let top = width - 1;
    let sign_bit = if signed && length > 0 { value >> (position + length - 1).min(top) & 1 } else { 0 };
    let kept = length.min(width.saturating_sub(position)).min(width);
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    let field = if position < width { (value >> position) & mask } else { 0 };
    let fill = if sign_bit != 0 { !mask } else { 0 };
    field | fill
}

/// `bfi`: the low bits of `field` into `base`.
fn insert(field: u64, base: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= width {
        return base;
    }
    let kept = length.min(width - position);
    let mask = if kept >= 64 { u64::MAX } else { ((1u64 << kept) - 1) << position };
    (base & !mask) | (field << position & mask)
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let step = if offset < 0 { -1i64 } else { 1 };
    let mut position = i64::from(base);
    if offset == 0 {
        return if base < 32 && mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    while (0..32).contains(&position) {
        if mask >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += step;
    }
    u32::MAX
}

#[derive(Clone, Copy, Debug)]
enum Permutation {
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

fn permute(a: u32, b: u32, c: u32, mode: Option<Permutation>) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let first = c & 3;
    let select = |byte: u32| -> u32 {
        match mode {
            None => c >> (4 * byte) & 0xf,
            Some(Permutation::Forward4) => (first + byte) & 7,
            Some(Permutation::Backward4) => first.wrapping_sub(byte) & 7,
            Some(Permutation::Replicate8) => first,
            Some(Permutation::EdgeLeft) => byte.max(first),
            Some(Permutation::EdgeRight) => byte.min(first),
            Some(Permutation::Replicate16) => (first & 1) * 2 + (byte & 1),
        }
    };
    let mut result = 0;
    for byte in 0..4 {
        let selector = select(byte);
        let mut value = bytes[(selector & 7) as usize];
        if mode.is_none() && selector & 8 != 0 {
            value = ((value as i8) >> 7) as u8;
        }
        result |= u32::from(value) << (8 * byte);
    }
    result
}
