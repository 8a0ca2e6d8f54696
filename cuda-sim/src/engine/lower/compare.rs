//! Comparison and selection: `setp`, `set`, `selp`, `slct` (ISA sections 9.7.6 and 9.7.7).

use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::error::PtxError;
use crate::engine::float::Float;
use crate::engine::ir::{Class, Operation};
use crate::engine::registers::{Condition, LANES, Lane, Packed, Registers, Source, test_lanes};
use crate::engine::types::Type;
use half::{bf16, f16};

/// A comparison operator. The unordered forms also hold if an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparison {
    relation: Relation,
    unordered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Numbers,
    NotNumbers,
}

impl Comparison {
    fn parse(name: &str) -> Option<Comparison> {
        use Relation::*;
        let (relation, unordered) = match name {
            "eq" => (Equal, false),
            "ne" => (NotEqual, false),
            "lt" | "lo" => (Less, false),
            "le" | "ls" => (LessEqual, false),
            "gt" | "hi" => (Greater, false),
            "ge" | "hs" => (GreaterEqual, false),
            "equ" => (Equal, true),
            "neu" => (NotEqual, true),
            "ltu" => (Less, true),
            "leu" => (LessEqual, true),
            "gtu" => (Greater, true),
            "geu" => (GreaterEqual, true),
            "num" => (Numbers, false),
            "nan" => (NotNumbers, false),
            _ => return None,
        };
        Some(Comparison { relation, unordered })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combination {
    And,
    Or,
    Xor,
}

/// The lanes in which a comparison holds.
type Test = Box<dyn Fn(&Registers) -> u32 + Send + Sync>;

fn test<T: Lane>([a, b]: [Source; 2], f: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Test {
    Box::new(move |registers| test_lanes(&registers.read::<T>(a), &registers.read::<T>(b), &f))
}

fn integer_test<T: Lane + Ord>(sources: [Source; 2], comparison: Comparison) -> Option<Test> {
    if comparison.unordered {
        return None;
    }
    Some(match comparison.relation {
        Relation::Equal => test(sources, |a: T, b: T| a == b),
        Relation::NotEqual => test(sources, |a: T, b: T| a != b),
        Relation::Less => test(sources, |a: T, b: T| a < b),
        Relation::LessEqual => test(sources, |a: T, b: T| a <= b),
        Relation::Greater => test(sources, |a: T, b: T| a > b),
        Relation::GreaterEqual => test(sources, |a: T, b: T| a >= b),
        _ => return None,
    })
}

/// The comparison of two floating-point numbers as a function of two operands.
#[inline(always)]
fn float_holds<T: Float>(comparison: Comparison, flush: bool, a: T, b: T) -> bool {
    let (a, b) = if flush { (a.flush(), b.flush()) } else { (a, b) };
    let (a, b) = (a.to_f64(), b.to_f64());
    let unordered = a.is_nan() || b.is_nan();
    match comparison.relation {
        Relation::Numbers => return !unordered,
        Relation::NotNumbers => return unordered,
        _ if unordered => return comparison.unordered,
        _ => {}
    }
    match comparison.relation {
        Relation::Equal => a == b,
        Relation::NotEqual => a != b,
        Relation::Less => a < b,
        Relation::LessEqual => a <= b,
        Relation::Greater => a > b,
        _ => a >= b,
    }
}

fn float_test<T: Float + Lane + PartialOrd>(
    sources: [Source; 2],
    comparison: Comparison,
    flush: bool,
) -> Test {
    if flush || matches!(comparison.relation, Relation::Numbers | Relation::NotNumbers) {
        return test(sources, move |a: T, b: T| float_holds(comparison, flush, a, b));
    }
    // Rust's operators are the ordered ones; a negated opposite is the unordered one.
    match (comparison.relation, comparison.unordered) {
        (Relation::Equal, false) => test(sources, |a: T, b: T| a == b),
        (Relation::Less, false) => test(sources, |a: T, b: T| a < b),
        (Relation::LessEqual, false) => test(sources, |a: T, b: T| a <= b),
        (Relation::Greater, false) => test(sources, |a: T, b: T| a > b),
        (Relation::GreaterEqual, false) => test(sources, |a: T, b: T| a >= b),
        (Relation::NotEqual, true) => test(sources, |a: T, b: T| a != b),
        _ => test(sources, move |a: T, b: T| float_holds(comparison, false, a, b)),
    }
}

impl Decoder<'_, '_> {
    fn comparison(&mut self) -> Result<(Comparison, Option<Combination>), PtxError> {
        let comparison = self
            .modifiers
            .take_map(Comparison::parse)
            .ok_or_else(|| self.semantic("the comparison is missing"))?;
        let combination = self.modifiers.take_map(|name| match name {
            "and" => Some(Combination::And),
            "or" => Some(Combination::Or),
            "xor" => Some(Combination::Xor),
            _ => None,
        });
        Ok((comparison, combination))
    }

    fn scalar_test(&self, ty: Type, comparison: Comparison, flush: bool) -> Result<Test, PtxError> {
        let sources = self.sources::<2>(1, ty)?;
        let integer = match ty {
            Type::U16 | Type::B16 => integer_test::<u16>(sources, comparison),
            Type::S16 => integer_test::<i16>(sources, comparison),
            Type::U32 | Type::B32 => integer_test::<u32>(sources, comparison),
            Type::S32 => integer_test::<i32>(sources, comparison),
            Type::U64 | Type::B64 => integer_test::<u64>(sources, comparison),
            Type::S64 => integer_test::<i64>(sources, comparison),
            Type::F32 => return Ok(float_test::<f32>(sources, comparison, flush)),
            Type::F64 => return Ok(float_test::<f64>(sources, comparison, flush)),
            Type::F16 => return Ok(float_test::<f16>(sources, comparison, flush)),
            Type::Bf16 => return Ok(float_test::<bf16>(sources, comparison, flush)),
            _ => None,
        };
        integer.ok_or_else(|| self.semantic("this comparison is not defined for this type"))
    }

    pub(super) fn set_predicate(&mut self) -> Decoded {
        let (comparison, combination) = self.comparison()?;
        let flush = self.modifiers.take("ftz");
        let ty = self.one_type()?;
        let count = if combination.is_some() { 4 } else { 3 };
        self.expect_operands(count..=count)?;
        let with = match combination {
            Some(combination) => Some((combination, self.condition(3)?)),
            None => None,
        };
        let (first, second) = match self.operand(0)? {
            Operand::Pair(p, q) => (self.predicate_target(p)?, self.predicate_target(q)?),
            p => (self.predicate_target(p)?, None),
        };
        let combine = move |lanes: u32, registers: &Registers| match with {
            Some((Combination::And, c)) => lanes & c.lanes(registers),
            Some((Combination::Or, c)) => lanes | c.lanes(registers),
            Some((Combination::Xor, c)) => lanes ^ c.lanes(registers),
            None => lanes,
        };
        // Of two results, the second is the complement's combination; for packed types, the upper half's.
        let (test, upper) = if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            let (low, high) = self.packed_tests(ty, comparison, flush)?;
            (low, Some(high))
        } else {
            (self.scalar_test(ty, comparison, flush)?, None)
        };
        let action: crate::engine::registers::Action = Box::new(move |registers, mask| {
            let lanes = test(registers);
            let other = match &upper {
                Some(upper) => upper(registers),
                None => !lanes,
            };
            let (lanes, other) = (combine(lanes, registers), combine(other, registers));
            if let Some(first) = first {
                registers.set_predicate(first, lanes, mask);
            }
            if let Some(second) = second {
                registers.set_predicate(second, other, mask);
            }
        });
        Ok((compare_class(ty), Operation::Alu(action)))
    }

    /// The tests of the lower and the upper halves.
    fn packed_tests(&self, ty: Type, comparison: Comparison, flush: bool) -> Result<(Test, Test), PtxError> {
        let sources = self.sources::<2>(1, ty)?;
        Ok(match ty {
            Type::F16x2 => (
                test(sources, move |a: Packed<f16>, b: Packed<f16>| float_holds(comparison, flush, a.0, b.0)),
                test(sources, move |a: Packed<f16>, b: Packed<f16>| float_holds(comparison, flush, a.1, b.1)),
            ),
            _ => (
                test(sources, move |a: Packed<bf16>, b: Packed<bf16>| {
                    float_holds(comparison, flush, a.0, b.0)
                }),
                test(sources, move |a: Packed<bf16>, b: Packed<bf16>| {
                    float_holds(comparison, flush, a.1, b.1)
                }),
            ),
        })
    }

    /// `set` writes a number for the truth: all ones for integers, 1.0 for floating point.
    pub(super) fn set(&mut self) -> Decoded {
        let (comparison, combination) = self.comparison()?;
        let flush = self.modifiers.take("ftz");
        let (result, ty) = (self.one_type()?, self.one_type()?);
        let count = if combination.is_some() { 4 } else { 3 };
        self.expect_operands(count..=count)?;
        let with = match combination {
            Some(combination) => Some((combination, self.condition(3)?)),
            None => None,
        };
        let truth: u64 = match result {
            Type::U32 | Type::S32 | Type::B32 => 0xffff_ffff,
            Type::U16 | Type::S16 => 0xffff,
            Type::F32 => 0x3f80_0000,
            Type::F16 | Type::F16x2 => 0x3c00,
            Type::Bf16 | Type::Bf16x2 => 0x3f80,
            _ => return Err(self.semantic("this result type is not allowed here")),
        };
        let target = self.target(0, result)?;
        let packed = matches!(ty, Type::F16x2 | Type::Bf16x2);
        // With an integer result, each half of a packed comparison sets its half.
        let truth = if packed { truth & 0xffff } else { truth };
        let (low, high) = if packed {
            let (low, high) = self.packed_tests(ty, comparison, flush)?;
            (low, Some(high))
        } else {
            (self.scalar_test(ty, comparison, flush)?, None)
        };
        let action: crate::engine::registers::Action = Box::new(move |registers, mask| {
            let combine = |lanes: u32| match with {
                Some((Combination::And, c)) => lanes & c.lanes(registers),
                Some((Combination::Or, c)) => lanes | c.lanes(registers),
                Some((Combination::Xor, c)) => lanes ^ c.lanes(registers),
                None => lanes,
            };
            let low = combine(low(registers));
            let high = high.as_ref().map_or(0, |high| combine(high(registers)));
            let result: [u64; LANES] = std::array::from_fn(|lane| {
                let pick = |lanes: u32| if lanes >> lane & 1 != 0 { truth } else { 0 };
                pick(low) | pick(high) << 16
            });
            registers.write(target, &result, mask);
        });
        Ok((compare_class(ty), Operation::Alu(action)))
    }

    pub(super) fn select(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let ty = self.one_type()?;
        let (target, [a, b]) = (self.target(0, ty)?, self.sources(1, ty)?);
        let condition = self.condition(3)?;
        fn build<T: Lane>(
            target: crate::engine::registers::Target,
            [a, b]: [Source; 2],
            condition: Condition,
        ) -> crate::engine::registers::Action {
            Box::new(move |registers, mask| {
                let (a, b) = (registers.read::<T>(a), registers.read::<T>(b));
                let lanes = condition.lanes(registers);
                let result: [T; LANES] =
                    std::array::from_fn(|lane| if lanes >> lane & 1 != 0 { a[lane] } else { b[lane] });
                registers.write(target, &result, mask);
            })
        }
        let action = match ty.bytes() {
            2 => build::<u16>(target, [a, b], condition),
            4 => build::<u32>(target, [a, b], condition),
            8 => build::<u64>(target, [a, b], condition),
            _ => return Err(self.semantic("this type is not allowed here")),
        };
        Ok((Class::Integer, Operation::Alu(action)))
    }

    /// `slct`: the first operand if the third is not negative (a NaN selects the second).
    pub(super) fn select_by_sign(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let flush = self.modifiers.take("ftz");
        let (ty, by) = (self.one_type()?, self.one_type()?);
        let (target, [a, b]) = (self.target(0, ty)?, self.sources(1, ty)?);
        let c = self.source(3, by)?;
        let floating = by == Type::F32;
        let action: crate::engine::registers::Action = Box::new(move |registers, mask| {
            let (a, b) = (registers.read::<u64>(a), registers.read::<u64>(b));
            let c = registers.read::<u32>(c);
            let result: [u64; LANES] = std::array::from_fn(|lane| {
                let value = f32::from_bits(c[lane]);
                let value = if flush { value.flush() } else { value };
                let first = if floating { value >= 0.0 } else { c[lane] as i32 >= 0 };
                if first { a[lane] } else { b[lane] }
            });
            registers.write(target, &result, mask);
        });
        Ok((Class::Integer, Operation::Alu(action)))
    }
}

fn compare_class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::Float32,
        Type::F64 => Class::Float64,
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => Class::Half,
        _ => Class::Integer,
    }
}
