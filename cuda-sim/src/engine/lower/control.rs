//! Branches, calls, barriers and fences (ISA sections 9.7.12 and 9.7.13).

use super::scopes::Symbol;
use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::error::PtxError;
use crate::engine::ir::{
    Argument, Barrier, BarrierKind, BarrierReduction, BarrierResult, Call, Callee, Class, Operation,
};
use crate::engine::registers::{Source, Target};
use crate::engine::types::{Space, Type};

fn control(operation: Operation) -> Decoded {
    Ok((Class::Control, operation))
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn control(&mut self) -> Decoded {
        self.modifiers.take("uni");
        match self.instruction.mnemonic {
            "bra" => {
                self.expect_operands(1..=1)?;
                let Operand::Name { name, .. } = self.operand(0)? else {
                    return Err(self.semantic("a label is expected"));
                };
                let label = self.label(name)?;
                control(Operation::Branch(label))
            }
            "brx" => self.indexed_branch(),
            "call" => self.call(),
            "ret" if self.is_entry => control(Operation::Exit),
            "ret" => control(Operation::Return),
            "exit" => control(Operation::Exit),
            "trap" => control(Operation::Trap("trap")),
            "brkpt" => control(Operation::Trap("brkpt")),
            "nanosleep" => {
                self.one_type()?;
                self.expect_operands(1..=1)?;
                control(Operation::Yield)
            }
            _ => {
                while self.modifiers.take_first().is_some() {}
                control(Operation::Nothing)
            }
        }
    }

    fn label(&self, name: &str) -> Result<u32, PtxError> {
        match self.scopes.lookup(name) {
            Some(Symbol::Label(label)) => Ok(label),
            _ => Err(self.semantic(&format!("there is no label `{name}` here"))),
        }
    }

    fn indexed_branch(&mut self) -> Decoded {
        if !self.modifiers.take("idx") {
            return Err(self.semantic("`.idx` is missing"));
        }
        self.expect_operands(2..=2)?;
        let index = self.source(0, Type::U32)?;
        let Operand::Name { name, .. } = self.operand(1)? else {
            return Err(self.semantic("a branch table is expected"));
        };
        let Some(Symbol::Table(table)) = self.scopes.lookup(name) else {
            return Err(self.semantic(&format!("there is no branch table `{name}` here")));
        };
        let names = self.scopes.tables[table as usize].clone();
        let targets = names.iter().map(|name| self.label(name)).collect::<Result<Vec<_>, _>>()?;
        control(Operation::BranchIndexed { index, targets })
    }

    fn call(&mut self) -> Decoded {
        let operands = &self.instruction.operands;
        let (results, rest) = match operands.split_first() {
            Some((Operand::List(results), rest)) => (results.as_slice(), rest),
            _ => (&[][..], operands.as_slice()),
        };
        let Some((callee, rest)) = rest.split_first() else {
            return Err(self.semantic("whom to call?"));
        };
        let arguments = match rest.first() {
            Some(Operand::List(arguments)) => arguments.as_slice(),
            _ => &[][..],
        };
        let Operand::Name { name, .. } = callee else {
            return Err(self.semantic("a function is expected"));
        };
        let callee = match (self.scopes.lookup(name), *name) {
            (Some(Symbol::Function(_)), "vprintf") => Callee::Print,
            (Some(Symbol::Function(_)), "__assertfail") => Callee::AssertFail,
            (Some(Symbol::Function(_)), "malloc" | "free" | "cudaDeviceSynchronize") => {
                return Err(self.unsupported(&format!("the device function `{name}` is not available")));
            }
            (Some(Symbol::Function(index)), _) => Callee::Function(index),
            (Some(Symbol::Register { ty, row }), _) if ty.bytes() == 8 => Callee::Indirect(Source::Wide(row)),
            _ => return Err(self.semantic(&format!("there is no function `{name}` here"))),
        };
        let arguments = arguments.iter().map(|operand| self.argument(operand)).collect::<Result<_, _>>()?;
        let results = results.iter().map(|operand| self.result(operand)).collect::<Result<_, _>>()?;
        control(Operation::Call(Box::new(Call { callee, arguments, results })))
    }

    fn argument(&self, operand: &Operand<'a>) -> Result<Argument, PtxError> {
        if let Operand::Name { name, component: None, offset: 0 } = operand {
            match self.scopes.lookup(name) {
                Some(Symbol::Frame { space: Space::Param, offset }) => return Ok(Argument::Frame(offset)),
                Some(Symbol::Register { ty, row }) => {
                    return Ok(Argument::Value(match ty.bytes() {
                        8 => Source::Wide(row),
                        _ => Source::Narrow(row),
                    }));
                }
                _ => return Err(self.semantic(&format!("`{name}` is no argument"))),
            }
        }
        self.source_of(operand, Type::B64, true).map(Argument::Value)
    }

    fn result(&self, operand: &Operand<'a>) -> Result<Argument, PtxError> {
        match operand {
            Operand::Sink => Ok(Argument::Ignored),
            Operand::Name { name, component: None, offset: 0 } => match self.scopes.lookup(name) {
                Some(Symbol::Frame { space: Space::Param, offset }) => Ok(Argument::Frame(offset)),
                Some(Symbol::Register { ty, row }) => Ok(Argument::Register(match ty.bytes() {
                    8 => Target::Wide(row),
                    _ => Target::Narrow(row),
                })),
                _ => Err(self.semantic(&format!("`{name}` cannot take a result"))),
            },
            _ => Err(self.semantic("a parameter variable is expected for the result")),
        }
    }

    pub(super) fn barrier(&mut self) -> Decoded {
        if self.modifiers.take("warp") {
            if !self.modifiers.take("sync") {
                return Err(self.semantic("`.sync` is missing"));
            }
            self.expect_operands(1..=1)?;
            let members = self.source(0, Type::B32)?;
            return Ok((Class::Synchronisation, Operation::WarpBarrier(members)));
        }
        if self.modifiers.take("cluster") {
            return self.cluster_barrier();
        }
        self.modifiers.take("cta");
        // `bar` is `barrier.aligned`.
        let aligned = self.modifiers.take("aligned") || self.instruction.mnemonic == "bar";
        let barrier = if self.modifiers.take("sync") {
            let count = self.expect_operands(1..=2)?;
            let threads = if count == 2 { Some(self.source(1, Type::U32)?) } else { None };
            Barrier { number: self.source(0, Type::U32)?, threads, aligned, kind: BarrierKind::Sync }
        } else if self.modifiers.take("arrive") {
            self.expect_operands(2..=2)?;
            let threads = Some(self.source(1, Type::U32)?);
            Barrier { number: self.source(0, Type::U32)?, threads, aligned, kind: BarrierKind::Arrive }
        } else if self.modifiers.take("red") {
            self.reducing_barrier(aligned)?
        } else {
            return Err(self.semantic("`.sync`, `.arrive` or `.red` is missing"));
        };
        Ok((Class::Synchronisation, Operation::Barrier(Box::new(barrier))))
    }

    fn reducing_barrier(&mut self, aligned: bool) -> Result<Barrier, PtxError> {
        let operation = self.modifiers.take_map(|name| match name {
            "popc" => Some(BarrierReduction::Count),
            "and" => Some(BarrierReduction::And),
            "or" => Some(BarrierReduction::Or),
            _ => None,
        });
        let operation = operation.ok_or_else(|| self.semantic("`.popc`, `.and` or `.or` is missing"))?;
        self.one_type()?;
        let count = self.expect_operands(3..=4)?;
        let result = match operation {
            BarrierReduction::Count => BarrierResult::Register(self.target(0, Type::U32)?),
            _ => match self.predicate_target(self.operand(0)?)? {
                Some(row) => BarrierResult::Predicate(row),
                None => BarrierResult::Register(Target::Nowhere),
            },
        };
        let threads = if count == 4 { Some(self.source(2, Type::U32)?) } else { None };
        let condition = self.condition(count - 1)?;
        let kind = BarrierKind::Reduce { condition, operation, result };
        Ok(Barrier { number: self.source(1, Type::U32)?, threads, aligned, kind })
    }

    fn cluster_barrier(&mut self) -> Decoded {
        self.modifiers.take("aligned");
        self.expect_operands(0..=0)?;
        if self.modifiers.take("arrive") {
            let relaxed = self.modifiers.take("relaxed");
            self.modifiers.take("release");
            return Ok((Class::Synchronisation, Operation::ClusterArrive { release: !relaxed }));
        }
        if self.modifiers.take("wait") {
            self.modifiers.take("acquire");
            return Ok((Class::Synchronisation, Operation::ClusterWait));
        }
        Err(self.semantic("`.arrive` or `.wait` is missing"))
    }

    pub(super) fn fence(&mut self) -> Decoded {
        self.expect_operands(0..=0)?;
        let (_, scope) = self.order_and_scope();
        Ok((Class::Synchronisation, Operation::Fence(scope)))
    }
}
