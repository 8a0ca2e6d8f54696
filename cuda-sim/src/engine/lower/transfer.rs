//! Loads, stores, asynchronous copies and the conversions of addresses (ISA section 9.7.9).

use super::scopes::Symbol;
use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::error::PtxError;
use crate::engine::ir::{
    Access, Class, CopyAsync, Element, LOCAL_WINDOW, Operation, Order, PARAMETER_WINDOW, SHARED_RANK_SHIFT,
    SHARED_WINDOW, Scope, WINDOW_BYTES,
};
use crate::engine::memory::FIRST_ADDRESS;
use crate::engine::registers::{Source, Special, Target, binary, unary};
use crate::engine::types::{Space, Type};

/// Modifiers that only advise the caches.
const CACHE_HINTS: &[&str] = &["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "mmio"];
const CACHE_HINT_PREFIXES: &[&str] = &["L1::", "L2::", "level::"];

impl<'a> Decoder<'_, 'a> {
    /// `.relaxed.gpu` and its relatives. Without a scope, atomics and fences reach the device.
    pub(super) fn order_and_scope(&mut self) -> (Option<Order>, Scope) {
        let order = self.modifiers.take_map(|name| match name {
            "weak" => Some(Order::Weak),
            "relaxed" | "volatile" => Some(Order::Relaxed),
            "acquire" => Some(Order::Acquire),
            "release" => Some(Order::Release),
            "acq_rel" | "sc" => Some(Order::AcquireRelease),
            _ => None,
        });
        let scope = self.modifiers.take_map(|name| match name {
            "cta" => Some(Scope::Block),
            "cluster" => Some(Scope::Cluster),
            "gpu" | "gl" | "sys" => Some(Scope::Device),
            _ => None,
        });
        (order, scope.unwrap_or(Scope::Device))
    }

    pub(super) fn cache_hints(&mut self) -> bool {
        let policy = self.modifiers.take("L2::cache_hint");
        self.modifiers.take_all(CACHE_HINTS);
        self.modifiers.take_prefixed(CACHE_HINT_PREFIXES);
        policy
    }

    fn vector_length(&mut self) -> usize {
        let length = self.modifiers.take_map(|name| match name {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        length.unwrap_or(1)
    }

    /// Space and address of `ld`, `st` and atomics; constants are global memory, frame parameters local memory.
    pub(super) fn located(&mut self, index: usize) -> Result<(Space, crate::engine::ir::Address), PtxError> {
        let space = self.space();
        let (address, symbol) = self.address(index)?;
        let declared = match symbol {
            Some(Symbol::Variable { space, .. } | Symbol::Frame { space, .. }) => Some(space),
            Some(Symbol::KernelParameter { .. }) => Some(Space::Param),
            _ => None,
        };
        if let Some(declared) = declared {
            let agrees = space == declared
                || space == Space::SharedCluster && declared == Space::Shared
                // Generic addresses of global variables are their addresses.
                || space == Space::Generic && matches!(declared, Space::Global | Space::Const);
            if !agrees {
                return Err(self.semantic("the variable lies in another state space"));
            }
        }
        let kernel = match symbol {
            Some(Symbol::KernelParameter { .. }) => true,
            Some(Symbol::Frame { .. }) => false,
            _ => self.is_entry && self.instruction.mnemonic != "st",
        };
        Ok(match space {
            Space::Const => (Space::Global, address),
            Space::Param if !kernel => (Space::Local, address),
            Space::Param => (Space::Param, address),
            other => (other, address),
        })
    }

    pub(super) fn load(&mut self) -> Decoded {
        let (order, scope) = self.order_and_scope();
        let policy = self.cache_hints();
        let length = self.vector_length();
        let ty = self.one_type()?;
        self.expect_operands(if policy { 3..=3 } else { 2..=2 })?;
        let (space, address) = self.located(1)?;
        let operands = self.elements(self.operand(0)?);
        if operands.len() != length {
            return Err(self.semantic(&format!("a vector of {length} is expected")));
        }
        let mut elements = Vec::new();
        for operand in operands {
            elements.push(match (ty, self.wide_pair(operand)) {
                (Type::B128, Some([low, high])) => Element::LoadPair([Target::Wide(low), Target::Wide(high)]),
                _ => Element::Load(self.target_of(operand, ty, true)?),
            });
        }
        let access = Access {
            space,
            address,
            bytes: ty.bytes() as u32,
            signed: ty.is_signed(),
            elements,
            order: order.unwrap_or(Order::Weak),
            scope,
            is_store: false,
        };
        Ok((Class::Memory, Operation::Access(Box::new(access))))
    }

    pub(super) fn store(&mut self) -> Decoded {
        if self.modifiers.take("async") || self.modifiers.take("bulk") {
            return Err(self.unsupported("asynchronous stores are not executed by this engine"));
        }
        let (order, scope) = self.order_and_scope();
        let policy = self.cache_hints();
        let length = self.vector_length();
        let ty = self.one_type()?;
        self.expect_operands(if policy { 3..=3 } else { 2..=2 })?;
        let (space, address) = self.located(0)?;
        let operands = self.elements(self.operand(1)?);
        if operands.len() != length {
            return Err(self.semantic(&format!("a vector of {length} is expected")));
        }
        let mut elements = Vec::new();
        for operand in operands {
            elements.push(match (ty, self.wide_pair(operand)) {
                (Type::B128, Some([low, high])) => {
                    Element::StorePair([Source::Wide(low), Source::Wide(high)])
                }
                _ => Element::Store(self.source_of(operand, ty, true)?),
            });
        }
        let access = Access {
            space,
            address,
            bytes: ty.bytes() as u32,
            signed: false,
            elements,
            order: order.unwrap_or(Order::Weak),
            scope,
            is_store: true,
        };
        Ok((Class::Memory, Operation::Access(Box::new(access))))
    }

    /// `cvta`: a state space's window is added, or taken away with `.to`.
    pub(super) fn convert_address(&mut self) -> Decoded {
        let to_space = self.modifiers.take("to");
        let space = self.space();
        let ty = self.one_type()?;
        self.expect_operands(2..=2)?;
        let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
        let window = match space {
            Space::Global | Space::Const => 0,
            Space::Shared | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAMETER_WINDOW,
            Space::Generic => return Err(self.semantic("the state space is missing")),
        };
        let window = if to_space { window.wrapping_neg() } else { window };
        let action = unary(target, source, move |a: u64| a.wrapping_add(window));
        Ok((Class::Integer, Operation::Alu(action)))
    }

    pub(super) fn is_space(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        let own_block = matches!(self.instruction.modifiers.first(), Some(&("shared" | "shared::cta")));
        let space = self.space();
        let target = self.predicate_target(self.operand(0)?)?;
        let source = self.source(1, Type::U64)?;
        let within = move |address: u64| match space {
            Space::Global | Space::Const | Space::Generic => address >= FIRST_ADDRESS,
            Space::Shared | Space::SharedCluster => {
                let offset = address.wrapping_sub(SHARED_WINDOW);
                offset < WINDOW_BYTES && (!own_block || offset >> SHARED_RANK_SHIFT == 0)
            }
            Space::Local => address.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES,
            Space::Param => address.wrapping_sub(PARAMETER_WINDOW) < WINDOW_BYTES,
        };
        let action: crate::engine::registers::Action = Box::new(move |registers, mask| {
            let addresses = registers.read::<u64>(source);
            let lanes = crate::engine::registers::test_lanes(&addresses, &addresses, |a, _| within(a));
            if let Some(target) = target {
                registers.set_predicate(target, lanes, mask);
            }
        });
        Ok((Class::Integer, Operation::Alu(action)))
    }

    /// `mapa`: the same place in another block of the cluster.
    pub(super) fn map_address(&mut self) -> Decoded {
        self.expect_operands(3..=3)?;
        self.space();
        let ty = self.one_type()?;
        let target = self.target(0, ty)?;
        // The address may be a variable's.
        let sources = [self.source(1, ty)?, self.source(2, Type::U32)?];
        let action = binary(target, sources, |address: u64, rank: u32| {
            let offset_bits = (1u64 << SHARED_RANK_SHIFT) - 1;
            let window = address & !(WINDOW_BYTES - 1);
            window | (address & offset_bits) | u64::from(rank + 1) << SHARED_RANK_SHIFT
        });
        Ok((Class::Integer, Operation::Alu(action)))
    }

    pub(super) fn block_rank(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        self.space();
        let ty = self.one_type()?;
        let target = self.target(0, Type::U32)?;
        let sources = [self.source(1, ty)?, Source::Special(Special::ClusterCtaRank)];
        let action = binary(target, sources, |address: u64, own: u32| {
            match (address & (WINDOW_BYTES - 1)) >> SHARED_RANK_SHIFT {
                0 => own,
                rank => rank as u32 - 1,
            }
        });
        Ok((Class::Integer, Operation::Alu(action)))
    }

    /// Advice to caches and schedulers: allowed to do nothing, and does nothing.
    pub(super) fn hint(&mut self) -> Decoded {
        while self.modifiers.take_first().is_some() {}
        if self.instruction.mnemonic == "createpolicy" {
            let target = self.target(0, Type::B64)?;
            let action = unary(target, Source::Immediate(0), |a: u64| a);
            return Ok((Class::Move, Operation::Alu(action)));
        }
        Ok((Class::Control, Operation::Nothing))
    }

    /// `cp.async` and its groups (ISA 9.7.9.25.3).
    pub(super) fn copy_async(&mut self) -> Decoded {
        if !self.modifiers.take("async") {
            return Err(self.unsupported("this copy is not executed by this engine"));
        }
        for (name, what) in [
            ("bulk", "bulk and tensor-map copies are not executed by this engine"),
            ("mbarrier", "mbarrier is not executed by this engine"),
        ] {
            if self.modifiers.take(name) {
                return Err(self.unsupported(what));
            }
        }
        if self.modifiers.take("commit_group") {
            self.expect_operands(0..=0)?;
            return Ok((Class::Synchronisation, Operation::CommitGroup));
        }
        if self.modifiers.take("wait_all") {
            self.expect_operands(0..=0)?;
            return Ok((Class::Synchronisation, Operation::WaitGroup(u32::MAX)));
        }
        if self.modifiers.take("wait_group") {
            self.expect_operands(1..=1)?;
            return match self.operand(0)? {
                Operand::Integer(count) if *count < 1 << 16 => {
                    Ok((Class::Synchronisation, Operation::WaitGroup(*count as u32)))
                }
                _ => Err(self.semantic("the number of groups must be a constant")),
            };
        }
        let through_l1 = self.modifiers.take("ca");
        if !through_l1 && !self.modifiers.take("cg") {
            return Err(self.semantic("`.ca` or `.cg` is missing"));
        }
        let policy = self.cache_hints();
        if !self.modifiers.take("shared") && !self.modifiers.take("shared::cta")
            || !self.modifiers.take("global")
        {
            return Err(self.semantic("the copy must be from `.global` to `.shared`"));
        }
        let count = self.expect_operands(3..=5)?;
        let bytes = match self.operand(2)? {
            Operand::Integer(bytes @ (4 | 8 | 16)) if through_l1 || *bytes == 16 => *bytes as u32,
            _ => return Err(self.semantic("the size must be 4, 8 or 16 (16 with `.cg`)")),
        };
        let extra = count - 3 - usize::from(policy);
        let (mut source_bytes, mut ignore_source) = (None, None);
        if extra == 1 {
            match self.condition(3) {
                Ok(condition) if !matches!(self.operand(3)?, Operand::Integer(_)) => {
                    ignore_source = Some(condition)
                }
                _ => source_bytes = Some(self.source(3, Type::U32)?),
            }
        }
        let copy = CopyAsync {
            to: self.address(0)?.0,
            from: self.address(1)?.0,
            bytes,
            source_bytes,
            ignore_source,
        };
        Ok((Class::Memory, Operation::CopyAsync(Box::new(copy))))
    }
}
