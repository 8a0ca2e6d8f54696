//! `mov`, with packing and unpacking of vectors (ISA section 9.7.9.2 and .3).

use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::error::PtxError;
use crate::engine::ir::{Class, Operation};
use crate::engine::registers::{Action, LANES, Source, Target, unary};
use crate::engine::types::Type;
use std::time::Instant;

/// A part of a packed value: which bits, and which register.
struct Piece<T> {
    shift: u32,
    register: T,
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn mov(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        let ty = self.one_type()?;
        let (to, from) = (self.operand(0)?, self.operand(1)?);
        let action = match (to, from) {
            _ if ty == Type::Pred => self.move_predicate()?,
            _ if ty == Type::B128 => self.move_128(to, from)?,
            (Operand::Vector(parts), _) => self.unpack(parts, from, ty)?,
            (_, Operand::Vector(parts)) => self.pack(to, parts, ty)?,
            (_, Operand::Name { name, component: None, offset: 0 }) if name.starts_with("%clock") => {
                self.read_clock(to, ty)?
            }
            (_, Operand::Name { name, component: None, offset: 0 }) if name.starts_with("%globaltimer") => {
                self.read_timer(to, ty, name.ends_with("_hi"))?
            }
            _ => {
                let (target, source) = (self.target(0, ty)?, self.source(1, ty)?);
                match ty.bytes() {
                    8 => unary(target, source, |a: u64| a),
                    4 => unary(target, source, |a: u32| a),
                    2 => unary(target, source, |a: u16| a),
                    _ => return Err(self.semantic("this type is not allowed here")),
                }
            }
        };
        Ok((Class::Move, Operation::Alu(action)))
    }

    fn move_predicate(&self) -> Result<Action, PtxError> {
        let target = self.predicate_target(self.operand(0)?)?;
        let condition = self.condition(1)?;
        Ok(Box::new(move |registers, mask| {
            let lanes = condition.lanes(registers);
            if let Some(target) = target {
                registers.set_predicate(target, lanes, mask);
            }
        }))
    }

    /// The width of each of `count` parts.
    fn part_type(&self, ty: Type, count: usize) -> Result<Type, PtxError> {
        match (ty.bytes() as usize * 8).checked_div(count) {
            Some(8) => Ok(Type::B8),
            Some(16) => Ok(Type::B16),
            Some(32) => Ok(Type::B32),
            Some(64) => Ok(Type::B64),
            _ => Err(self.semantic("a vector of this length does not fit the type")),
        }
    }

    fn unpack(&self, parts: &[Operand<'a>], from: &Operand<'a>, ty: Type) -> Result<Action, PtxError> {
        let part = self.part_type(ty, parts.len())?;
        let width = part.bytes() as u32 * 8;
        let source = self.source_of(from, ty, false)?;
        let mut pieces = Vec::new();
        for (index, operand) in parts.iter().enumerate() {
            let register = self.target_of(operand, part, true)?;
            pieces.push(Piece { shift: index as u32 * width, register });
        }
        let mask_bits = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        Ok(Box::new(move |registers, mask| {
            let value = registers.read::<u64>(source);
            for Piece { shift, register } in &pieces {
                let bits: [u64; LANES] = std::array::from_fn(|lane| value[lane] >> shift & mask_bits);
                registers.write(*register, &bits, mask);
            }
        }))
    }

    fn pack(&self, to: &Operand<'a>, parts: &[Operand<'a>], ty: Type) -> Result<Action, PtxError> {
        let part = self.part_type(ty, parts.len())?;
        let width = part.bytes() as u32 * 8;
        let target = self.target_of(to, ty, false)?;
        let mut pieces = Vec::new();
        for (index, operand) in parts.iter().enumerate() {
            let register = self.source_of(operand, part, true)?;
            pieces.push(Piece { shift: index as u32 * width, register });
        }
        let mask_bits = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        Ok(Box::new(move |registers, mask| {
            let mut value = [0u64; LANES];
            for Piece { shift, register } in &pieces {
                let bits = registers.read::<u64>(*register);
                for lane in 0..LANES {
                    value[lane] |= (bits[lane] & mask_bits) << shift;
                }
            }
            registers.write(target, &value, mask);
        }))
    }

    /// 128-bit moves, as a pair of 64-bit ones.
    fn move_128(&self, to: &Operand<'a>, from: &Operand<'a>) -> Result<Action, PtxError> {
        let halves = |operand: &Operand<'a>| -> Result<[Operand<'a>; 2], PtxError> {
            match operand {
                Operand::Vector(parts) => <[Operand<'a>; 2]>::try_from(parts.clone())
                    .map_err(|_| self.semantic("a 128-bit vector has two 64-bit parts here")),
                _ => Err(self.semantic("a 128-bit register is expected")),
            }
        };
        let targets = match self.wide_pair(to) {
            Some([low, high]) => [Target::Wide(low), Target::Wide(high)],
            None => {
                let [low, high] = halves(to)?;
                [self.target_of(&low, Type::B64, false)?, self.target_of(&high, Type::B64, false)?]
            }
        };
        let sources = match self.wide_pair(from) {
            Some([low, high]) => [Source::Wide(low), Source::Wide(high)],
            None => {
                let [low, high] = halves(from)?;
                [self.source_of(&low, Type::B64, false)?, self.source_of(&high, Type::B64, false)?]
            }
        };
        Ok(Box::new(move |registers, mask| {
            let values = sources.map(|source| registers.read::<u64>(source));
            for (target, value) in targets.iter().zip(&values) {
                registers.write(*target, value, mask);
            }
        }))
    }

    /// Clocks count instructions of the warp; they only promise to advance.
    fn read_clock(&self, to: &Operand<'a>, ty: Type) -> Result<Action, PtxError> {
        let target = self.target_of(to, ty, false)?;
        Ok(Box::new(move |registers, mask| {
            registers.clock += 1;
            let value = [registers.clock * 16; LANES];
            registers.write(target, &value, mask);
        }))
    }

    fn read_timer(&self, to: &Operand<'a>, ty: Type, upper: bool) -> Result<Action, PtxError> {
        let target = self.target_of(to, ty, false)?;
        let start = Instant::now();
        Ok(Box::new(move |registers, mask| {
            let nanoseconds = start.elapsed().as_nanos() as u64;
            let value = [if upper { nanoseconds >> 32 } else { nanoseconds }; LANES];
            registers.write(target, &value, mask);
        }))
    }
}
