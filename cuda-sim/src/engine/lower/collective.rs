//! Instructions across the lanes of a warp: `shfl`, `vote`, `match`, `redux`, `elect`, `activemask`.

use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::ir::{Class, Collective, Operation};
use crate::engine::registers::{Action, LANES, Source};
use crate::engine::types::Type;

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

fn communication(members: Source, action: Action) -> Decoded {
    Ok((Class::Communication, Operation::Collective(Box::new(Collective { members, action }))))
}

#[derive(Clone, Copy, Debug)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

impl Decoder<'_, '_> {
    pub(super) fn collective(&mut self) -> Decoded {
        if self.instruction.mnemonic == "activemask" {
            self.one_type()?;
            self.expect_operands(1..=1)?;
            let target = self.target(0, Type::B32)?;
            let action: Action =
                Box::new(move |registers, mask| registers.write(target, &[mask; LANES], mask));
            return Ok((Class::Communication, Operation::Alu(action)));
        }
        if !self.modifiers.take("sync") {
            return Err(self.unsupported("only the `.sync` form exists since sm_70"));
        }
        match self.instruction.mnemonic {
            "shfl" => self.shuffle(),
            "vote" => self.vote(),
            "match" => self.match_lanes(),
            "redux" => self.reduce(),
            _ => self.elect(),
        }
    }

    /// By the pseudocode of ISA 9.7.9.6.
    fn shuffle(&mut self) -> Decoded {
        let mode = self.modifiers.take_map(|name| match name {
            "up" => Some(Shuffle::Up),
            "down" => Some(Shuffle::Down),
            "bfly" => Some(Shuffle::Butterfly),
            "idx" => Some(Shuffle::Index),
            _ => None,
        });
        let mode = mode.ok_or_else(|| self.semantic("the mode is missing"))?;
        self.one_type()?;
        self.expect_operands(5..=5)?;
        let (target, predicate) = match self.operand(0)? {
            Operand::Pair(d, p) => (self.target_of(d, Type::B32, false)?, self.predicate_target(p)?),
            d => (self.target_of(d, Type::B32, false)?, None),
        };
        let [a, b, c] = self.sources(1, Type::B32)?;
        let members = self.source(4, Type::B32)?;
        let action: Action = Box::new(move |registers, mask| {
            let (value, b, c) =
                (registers.read::<u32>(a), registers.read::<u32>(b), registers.read::<u32>(c));
            let mut in_range = 0u32;
            let result: [u32; LANES] = std::array::from_fn(|lane| {
                let own = lane as i32;
                let (amount, clamp) = ((b[lane] & 31) as i32, (c[lane] & 31) as i32);
                let segment = (c[lane] >> 8 & 31) as i32;
                let last = (own & segment) | (clamp & !segment);
                let (from, inside) = match mode {
                    Shuffle::Up => (own - amount, own - amount >= last),
                    Shuffle::Down => (own + amount, own + amount <= last),
                    Shuffle::Butterfly => (own ^ amount, own ^ amount <= last),
                    Shuffle::Index => {
                        let from = (own & segment) | (amount & !segment);
                        (from, from <= last)
                    }
                };
                in_range |= u32::from(inside) << lane;
                value[if inside { from as usize & 31 } else { lane }]
            });
            registers.write(target, &result, mask);
            if let Some(predicate) = predicate {
                registers.set_predicate(predicate, in_range, mask);
            }
        });
        communication(members, action)
    }

    fn vote(&mut self) -> Decoded {
        self.expect_operands(3..=3)?;
        let mode = self.modifiers.take_first().unwrap_or("").to_owned();
        self.one_type()?;
        let condition = self.condition(1)?;
        let members = self.source(2, Type::B32)?;
        if mode == "ballot" {
            let target = self.target(0, Type::B32)?;
            return communication(
                members,
                Box::new(move |registers, mask| {
                    let ballot = condition.lanes(registers) & mask;
                    registers.write(target, &[ballot; LANES], mask);
                }),
            );
        }
        let decide: fn(u32, u32) -> bool = match mode.as_str() {
            "all" => |ballot, mask| ballot == mask,
            "any" => |ballot, _| ballot != 0,
            "uni" => |ballot, mask| ballot == mask || ballot == 0,
            _ => return Err(self.semantic("the mode is missing")),
        };
        let predicate = self.predicate_target(self.operand(0)?)?;
        communication(
            members,
            Box::new(move |registers, mask| {
                let ballot = condition.lanes(registers) & mask;
                if let Some(predicate) = predicate {
                    registers.set_predicate(predicate, u32::from(decide(ballot, mask)).wrapping_neg(), mask);
                }
            }),
        )
    }

    fn match_lanes(&mut self) -> Decoded {
        self.expect_operands(3..=3)?;
        let all = self.modifiers.take("all");
        if !all && !self.modifiers.take("any") {
            return Err(self.semantic("`.any` or `.all` is missing"));
        }
        let ty = self.one_type()?;
        let (target, predicate) = match self.operand(0)? {
            Operand::Pair(d, p) if all => (self.target_of(d, Type::B32, false)?, self.predicate_target(p)?),
            d => (self.target_of(d, Type::B32, false)?, None),
        };
        let (value, members) = (self.source(1, ty)?, self.source(2, Type::B32)?);
        communication(
            members,
            Box::new(move |registers, mask| {
                let value = registers.read::<u64>(value);
                let same = |lane: usize| {
                    lanes(mask)
                        .filter(|other| value[*other] == value[lane])
                        .fold(0u32, |bits, other| bits | 1 << other)
                };
                if all {
                    let equal = lanes(mask).next().is_some_and(|first| same(first) == mask);
                    registers.write(target, &[if equal { mask } else { 0 }; LANES], mask);
                    if let Some(predicate) = predicate {
                        registers.set_predicate(predicate, u32::from(equal).wrapping_neg(), mask);
                    }
                } else {
                    let result: [u32; LANES] = std::array::from_fn(same);
                    registers.write(target, &result, mask);
                }
            }),
        )
    }

    fn reduce(&mut self) -> Decoded {
        self.expect_operands(3..=3)?;
        let operation = self.modifiers.take_first().unwrap_or("");
        let ty = self.one_type()?;
        let fold: fn(u32, u32) -> u32 = match (operation, ty) {
            ("add", Type::U32 | Type::S32) => u32::wrapping_add,
            ("min", Type::U32) => |a, b| a.min(b),
            ("max", Type::U32) => |a, b| a.max(b),
            ("min", Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
            ("max", Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
            ("and", Type::B32) => |a, b| a & b,
            ("or", Type::B32) => |a, b| a | b,
            ("xor", Type::B32) => |a, b| a ^ b,
            _ => return Err(self.unsupported("this reduction is not executed by this engine")),
        };
        let (target, value) = (self.target(0, ty)?, self.source(1, ty)?);
        let members = self.source(2, Type::B32)?;
        communication(
            members,
            Box::new(move |registers, mask| {
                let value = registers.read::<u32>(value);
                let result = lanes(mask).map(|lane| value[lane]).reduce(fold).unwrap_or(0);
                registers.write(target, &[result; LANES], mask);
            }),
        )
    }

    fn elect(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        let (target, predicate) = match self.operand(0)? {
            Operand::Pair(d, p) => (self.target_of(d, Type::B32, false)?, self.predicate_target(p)?),
            _ => return Err(self.semantic("a register and a predicate are expected as destination")),
        };
        let members = self.source(1, Type::B32)?;
        communication(
            members,
            Box::new(move |registers, mask| {
                let leader = mask.trailing_zeros();
                registers.write(target, &[leader; LANES], mask);
                if let Some(predicate) = predicate {
                    registers.set_predicate(predicate, 1 << leader, mask);
                }
            }),
        )
    }
}
