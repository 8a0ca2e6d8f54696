//! `atom` and `red` (ISA sections 9.7.13.5 and .7), scalar and vector.

use super::{Decoded, Decoder};
use crate::engine::error::PtxError;
use crate::engine::float::{Float, extremum};
use crate::engine::ir::{Atomic, Class, Operation, Order, Update};
use crate::engine::registers::{Lane, Packed};
use crate::engine::types::{Space, Type};
use half::{bf16, f16};

impl Decoder<'_, '_> {
    pub(super) fn atomic(&mut self) -> Decoded {
        let returns = self.instruction.mnemonic == "atom";
        if self.modifiers.take("async") {
            return Err(self.unsupported("asynchronous reductions are not executed by this engine"));
        }
        let (order, scope) = self.order_and_scope();
        let policy = self.cache_hints();
        let operation = self.modifiers.take_map(|name| match name {
            "add" | "min" | "max" | "inc" | "dec" | "and" | "or" | "xor" | "exch" | "cas" => {
                Some(name.to_owned())
            }
            _ => None,
        });
        let operation = operation.ok_or_else(|| self.semantic("the operation is missing"))?;
        self.modifiers.take("noftz");
        let length = self.modifiers.take_map(|name| match name {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        let ty = self.one_type()?;
        let (first, compares) = (usize::from(returns), operation == "cas");
        let count = first + 2 + usize::from(compares) + usize::from(policy);
        self.expect_operands(count..=count)?;
        let (space, address) = self.located(first)?;
        if matches!(space, Space::Local | Space::Param) {
            return Err(self.semantic("atomics work on global and shared memory"));
        }
        let update =
            update(&operation, ty, space).ok_or_else(|| self.unsupported("this atomic is not executed"))?;
        let width = length.unwrap_or(1);
        let wrong_length = |found: usize| {
            (found != width).then(|| self.semantic(&format!("a vector of {width} is expected")))
        };
        let mut targets = Vec::new();
        if returns {
            let elements = self.elements(self.operand(0)?);
            if let Some(error) = wrong_length(elements.len()) {
                return Err(error);
            }
            targets = elements
                .iter()
                .map(|operand| self.target_of(operand, ty, false))
                .collect::<Result<_, _>>()?;
        }
        let list = |index: usize| -> Result<Vec<_>, PtxError> {
            let elements = self.elements(self.operand(index)?);
            match wrong_length(elements.len()) {
                Some(error) => Err(error),
                None => elements.iter().map(|operand| self.source_of(operand, ty, false)).collect(),
            }
        };
        let operands = list(first + 1)?;
        let second = if compares { list(first + 2)? } else { Vec::new() };
        let atomic = Atomic {
            space,
            address,
            bytes: ty.bytes() as u32,
            signed: ty.is_signed(),
            targets,
            operands,
            second,
            update,
            order: order.unwrap_or(Order::Relaxed),
            scope,
        };
        Ok((Class::Atomic, Operation::Atomic(Box::new(atomic))))
    }
}

/// Lifts a function on a lane type to raw bits.
fn lift<T: Lane>(f: impl Fn(T, T) -> T + Send + Sync + 'static) -> Update {
    Box::new(move |old, b, _| f(T::from_bits(old), T::from_bits(b)).bits())
}

fn update(operation: &str, ty: Type, space: Space) -> Option<Update> {
    use Type::{B32, B64, Bf16, Bf16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    // ISA 9.7.13.5: `atom.add.f32` flushes subnormals on global memory, not on shared memory.
    let flush = !matches!(space, Space::Shared | Space::SharedCluster);
    Some(match (operation, ty) {
        ("exch", B32 | B64 | U32 | S32 | U64 | S64 | Type::B16) => Box::new(|_, b, _| b),
        ("cas", B32 | B64 | Type::B16 | U32 | S32 | U64 | S64) => {
            let mask = if ty.bytes() == 8 { u64::MAX } else { (1 << (ty.bytes() * 8)) - 1 };
            Box::new(move |old, b, c| if old & mask == b & mask { c } else { old })
        }
        ("and", B32 | B64) => Box::new(|old, b, _| old & b),
        ("or", B32 | B64) => Box::new(|old, b, _| old | b),
        ("xor", B32 | B64) => Box::new(|old, b, _| old ^ b),
        ("add", U32 | S32 | U64 | S64) => Box::new(|old, b, _| old.wrapping_add(b)),
        ("inc", U32) => lift(|old: u32, b| if old >= b { 0 } else { old + 1 }),
        ("dec", U32) => lift(|old: u32, b| if old == 0 || old > b { b } else { old - 1 }),
        ("min", U32) => lift(|old: u32, b| old.min(b)),
        ("max", U32) => lift(|old: u32, b| old.max(b)),
        ("min", S32) => lift(|old: i32, b| old.min(b)),
        ("max", S32) => lift(|old: i32, b| old.max(b)),
        ("min", U64) => lift(|old: u64, b| old.min(b)),
        ("max", U64) => lift(|old: u64, b| old.max(b)),
        ("min", S64) => lift(|old: i64, b| old.min(b)),
        ("max", S64) => lift(|old: i64, b| old.max(b)),
        ("add", F32) if flush => lift(|old: f32, b: f32| (old.flush() + b.flush()).flush().canonical()),
        ("add", F32) => lift(|old: f32, b: f32| (old + b).canonical()),
        ("add", F64) => lift(|old: f64, b: f64| old + b),
        ("add", F16) => lift(|old: f16, b: f16| Float::add(old, b).canonical()),
        ("add", Bf16) => lift(|old: bf16, b: bf16| Float::add(old, b).canonical()),
        ("add", F16x2) => lift(|old: Packed<f16>, b: Packed<f16>| {
            Packed(Float::add(old.0, b.0).canonical(), Float::add(old.1, b.1).canonical())
        }),
        ("add", Bf16x2) => lift(|old: Packed<bf16>, b: Packed<bf16>| {
            Packed(Float::add(old.0, b.0).canonical(), Float::add(old.1, b.1).canonical())
        }),
        ("min" | "max", F16 | Bf16 | F16x2 | Bf16x2) => {
            let maximum = operation == "max";
            match ty {
                F16 => lift(move |old: f16, b: f16| extremum(old, b, maximum, false)),
                Bf16 => lift(move |old: bf16, b: bf16| extremum(old, b, maximum, false)),
                F16x2 => lift(move |old: Packed<f16>, b: Packed<f16>| {
                    Packed(extremum(old.0, b.0, maximum, false), extremum(old.1, b.1, maximum, false))
                }),
                _ => lift(move |old: Packed<bf16>, b: Packed<bf16>| {
                    Packed(extremum(old.0, b.0, maximum, false), extremum(old.1, b.1, maximum, false))
                }),
            }
        }
        _ => return None,
    })
}
