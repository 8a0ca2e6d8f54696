//! From the syntax tree to decoded programs: names are resolved, modifiers understood, every instruction turned into
//! something that can be executed, or refused by name.
//!
//! One file per family of instructions; this one holds what they share: scopes, operands and the table of mnemonics.

mod arithmetic;
mod atomic;
mod bits;
mod collective;
mod compare;
mod control;
mod convert;
mod floating;
mod function;
mod integer;
mod matrix;
mod modifiers;
mod moves;
mod ranges;
mod scopes;
mod targets;
mod transfer;

pub(crate) use collective::lanes;
pub(crate) use function::{ModuleContext, lower_kernel};
pub(crate) use scopes::Symbol;

use super::ast::{Instruction as Ast, Operand};
use super::error::PtxError;
use super::ir::{Address, Class, Operation};
use super::lexer::Position;
use super::registers::{Condition, Source, Special, Target};
use super::types::{Space, Type};
use modifiers::Modifiers;
use scopes::Scopes;

/// One instruction being decoded.
pub(crate) struct Decoder<'c, 'a> {
    pub scopes: &'c mut Scopes<'a>,
    pub modifiers: Modifiers<'a>,
    pub instruction: &'c Ast<'a>,
    pub position: Position,
    /// Inside a kernel, `ret` ends the thread and parameters are the kernel's.
    pub is_entry: bool,
}

/// What a decoder gives.
pub(crate) type Decoded = Result<(Class, Operation), PtxError>;

impl<'c, 'a> Decoder<'c, 'a> {
    pub fn new(
        scopes: &'c mut Scopes<'a>,
        instruction: &'c Ast<'a>,
        position: Position,
        is_entry: bool,
    ) -> Decoder<'c, 'a> {
        let modifiers = Modifiers::new(&instruction.modifiers);
        Decoder { scopes, modifiers, instruction, position, is_entry }
    }

    /// Decodes the instruction; a modifier that nobody asked for is an error.
    pub fn decode(mut self) -> Decoded {
        let decoded = self.dispatch()?;
        if let Some(modifier) = self.modifiers.left_over() {
            return Err(self.unsupported(&format!("the modifier `.{modifier}` is not supported")));
        }
        Ok(decoded)
    }

    fn dispatch(&mut self) -> Decoded {
        match self.instruction.mnemonic {
            "mov" => self.mov(),
            "ld" | "ldu" => self.load(),
            "st" => self.store(),
            "cvta" => self.convert_address(),
            "isspacep" => self.is_space(),
            "mapa" => self.map_address(),
            "getctarank" => self.block_rank(),
            "cvt" => self.convert(),
            "add" | "sub" | "mul" | "mad" | "fma" | "min" | "max" | "abs" | "neg" | "div" => {
                self.arithmetic()
            }
            "rem" | "sad" | "mul24" | "mad24" | "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi"
            | "bmsk" | "szext" | "dp4a" | "dp2a" | "fns" | "prmt" | "lop3" | "shf" | "shl" | "shr"
            | "cnot" | "addc" | "subc" | "madc" | "vabsdiff4" => self.integer(),
            "and" | "or" | "xor" | "not" => self.logic(),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" | "testp" => {
                self.floating_function()
            }
            "setp" => self.set_predicate(),
            "set" => self.set(),
            "selp" => self.select(),
            "slct" => self.select_by_sign(),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" => {
                self.control()
            }
            "bar" | "barrier" => self.barrier(),
            "membar" | "fence" => self.fence(),
            "griddepcontrol" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy" => {
                self.hint()
            }
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => self.collective(),
            "atom" | "red" => self.atomic(),
            "cp" => self.copy_async(),
            "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix_access(),
            "mma" => self.mma(),
            _ => Err(self.unsupported("this instruction is not executed by this engine")),
        }
    }

    // ---- errors ----

    pub fn unsupported(&self, why: &str) -> PtxError {
        self.position.unsupported(format!("`{}`: {why}", self.instruction.name()))
    }

    pub fn semantic(&self, why: &str) -> PtxError {
        self.position.semantic(format!("`{}`: {why}", self.instruction.name()))
    }

    // ---- modifiers ----

    /// The one type of the instruction.
    pub fn one_type(&mut self) -> Result<Type, PtxError> {
        self.modifiers.next_type().ok_or_else(|| self.semantic("a type is missing"))
    }

    // ---- operands ----

    pub fn operand(&self, index: usize) -> Result<&'c Operand<'a>, PtxError> {
        self.instruction
            .operands
            .get(index)
            .ok_or_else(|| self.semantic(&format!("operand {} is missing", index + 1)))
    }

    pub fn expect_operands(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<usize, PtxError> {
        let count = self.instruction.operands.len();
        if allowed.contains(&count) {
            return Ok(count);
        }
        let wanted = match (allowed.start(), allowed.end()) {
            (low, high) if low == high => format!("{low}"),
            (low, high) => format!("{low} to {high}"),
        };
        Err(self.semantic(&format!("{wanted} operands expected, {count} found")))
    }

    /// A value of a type that fits into one register.
    pub fn source(&self, index: usize, ty: Type) -> Result<Source, PtxError> {
        self.source_of(self.operand(index)?, ty, false)
    }

    /// As [`Self::source`], but the register may be wider than the type, as for `st` and `cvt`.
    pub fn loose_source(&self, index: usize, ty: Type) -> Result<Source, PtxError> {
        self.source_of(self.operand(index)?, ty, true)
    }

    pub fn sources<const N: usize>(&self, first: usize, ty: Type) -> Result<[Source; N], PtxError> {
        let mut result = [Source::Immediate(0); N];
        for (index, source) in result.iter_mut().enumerate() {
            *source = self.source(first + index, ty)?;
        }
        Ok(result)
    }

    pub fn source_of(&self, operand: &Operand<'a>, ty: Type, loose: bool) -> Result<Source, PtxError> {
        match operand {
            Operand::Integer(value) => Ok(Source::Immediate(self.integer_immediate(*value, ty)?)),
            Operand::Float32(bits) => match ty {
                Type::F64 => Ok(Source::Immediate(f64::from(f32::from_bits(*bits)).to_bits())),
                _ => Ok(Source::Immediate(u64::from(*bits))),
            },
            Operand::Float64(bits) => Ok(Source::Immediate(match ty {
                Type::F64 | Type::B64 => *bits,
                Type::F32 | Type::B32 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
                _ => return Err(self.semantic("a floating-point constant is no operand of this type")),
            })),
            Operand::Name { name, component, offset } => {
                self.named_source(name, *component, *offset, ty, loose)
            }
            Operand::Sink => Err(self.semantic("`_` cannot be read")),
            _ => Err(self.semantic("a register or a constant is expected as operand")),
        }
    }

    fn integer_immediate(&self, value: u64, ty: Type) -> Result<u64, PtxError> {
        match ty {
            Type::F64 => Err(self.semantic("an integer constant is no f64 operand")),
            _ => Ok(value),
        }
    }

    fn named_source(
        &self,
        name: &str,
        component: Option<&str>,
        offset: i64,
        ty: Type,
        loose: bool,
    ) -> Result<Source, PtxError> {
        if let Some(special) = special_register(name, component) {
            return Ok(Source::Special(special));
        }
        match self.scopes.lookup(name) {
            Some(Symbol::Register { ty: declared, row }) if offset == 0 => {
                self.check_width(name, declared, ty, loose)?;
                match declared {
                    Type::Pred => Err(self.semantic(&format!("`{name}` is a predicate"))),
                    _ if declared.bytes() == 8 => Ok(Source::Wide(row)),
                    _ if declared.bytes() < 8 => Ok(Source::Narrow(row)),
                    _ => Err(self.semantic(&format!("`{name}` is a 128-bit register"))),
                }
            }
            Some(symbol) => match self.address_of(symbol, offset) {
                Some(source) => Ok(source),
                None => Err(self.semantic(&format!("`{name}` is no value"))),
            },
            None => Err(self.semantic(&format!("`{name}` is not declared"))),
        }
    }

    fn check_width(&self, name: &str, declared: Type, ty: Type, loose: bool) -> Result<(), PtxError> {
        let (have, want) = (declared.bytes(), ty.bytes());
        // 8-bit types have no registers of their own size.
        let fits = declared == Type::Pred || have == want || have > want && (loose || want == 1);
        if fits {
            return Ok(());
        }
        Err(self.semantic(&format!("`{name}` has {} bits, {} are expected", have * 8, want * 8)))
    }

    /// The address of a variable in its own state space.
    fn address_of(&self, symbol: Symbol, offset: i64) -> Option<Source> {
        match symbol {
            Symbol::Variable { address, .. } | Symbol::KernelParameter { address, .. } => {
                Some(Source::Immediate(address.wrapping_add(offset as u64)))
            }
            Symbol::Frame { offset: start, .. } => Some(Source::Frame((i64::from(start) + offset) as u32)),
            Symbol::Function(index) => {
                Some(Source::Immediate(super::ir::FUNCTION_ADDRESS + u64::from(index) * 16))
            }
            _ => None,
        }
    }

    /// A register to write.
    pub fn target(&self, index: usize, ty: Type) -> Result<Target, PtxError> {
        self.target_of(self.operand(index)?, ty, false)
    }

    pub fn loose_target(&self, index: usize, ty: Type) -> Result<Target, PtxError> {
        self.target_of(self.operand(index)?, ty, true)
    }

    pub fn target_of(&self, operand: &Operand<'a>, ty: Type, loose: bool) -> Result<Target, PtxError> {
        match operand {
            Operand::Sink => Ok(Target::Nowhere),
            Operand::Name { name, component: None, offset: 0 } => match self.scopes.lookup(name) {
                Some(Symbol::Register { ty: declared, row }) => {
                    self.check_width(name, declared, ty, loose)?;
                    match declared {
                        Type::Pred => Err(self.semantic(&format!("`{name}` is a predicate"))),
                        _ if declared.bytes() == 8 => Ok(Target::Wide(row)),
                        _ if declared.bytes() < 8 => Ok(Target::Narrow(row)),
                        _ => Err(self.semantic(&format!("`{name}` is a 128-bit register"))),
                    }
                }
                Some(_) => Err(self.semantic(&format!("`{name}` is no register"))),
                None => Err(self.semantic(&format!("`{name}` is not declared"))),
            },
            _ => Err(self.semantic("a register is expected as destination")),
        }
    }

    /// The rows of a 128-bit register, low half first.
    pub fn wide_pair(&self, operand: &Operand<'a>) -> Option<[u32; 2]> {
        match operand {
            Operand::Name { name, component: None, offset: 0 } => match self.scopes.lookup(name) {
                Some(Symbol::Register { ty: Type::B128, row }) => Some([row, row + 1]),
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements of a vector operand; a scalar is a vector of one.
    pub fn elements<'o>(&self, operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
        match operand {
            Operand::Vector(elements) => elements,
            other => std::slice::from_ref(other),
        }
    }

    /// A predicate to write, by its row.
    pub fn predicate_target(&self, operand: &Operand<'a>) -> Result<Option<u32>, PtxError> {
        match operand {
            Operand::Sink => Ok(None),
            _ => match self.condition_of(operand)? {
                Condition::Predicate { index, negated: false } => Ok(Some(index)),
                _ => Err(self.semantic("a predicate is expected as destination")),
            },
        }
    }

    /// A predicate to read, possibly negated.
    pub fn condition(&self, index: usize) -> Result<Condition, PtxError> {
        self.condition_of(self.operand(index)?)
    }

    pub fn condition_of(&self, operand: &Operand<'a>) -> Result<Condition, PtxError> {
        match operand {
            Operand::Not(inner) => match self.condition_of(inner)? {
                Condition::Predicate { index, negated } => {
                    Ok(Condition::Predicate { index, negated: !negated })
                }
                Condition::Constant(value) => Ok(Condition::Constant(!value)),
            },
            Operand::Name { name, component: None, offset: 0 } => match self.scopes.lookup(name) {
                Some(Symbol::Register { ty: Type::Pred, row }) => {
                    Ok(Condition::Predicate { index: row, negated: false })
                }
                Some(_) => Err(self.semantic(&format!("`{name}` is no predicate"))),
                None if *name == "%is_explicit_cluster" => Ok(Condition::Constant(false)),
                None => Err(self.semantic(&format!("`{name}` is not declared"))),
            },
            Operand::Integer(value) => Ok(Condition::Constant(*value != 0)),
            _ => Err(self.semantic("a predicate is expected")),
        }
    }

    /// An address operand, with the space and kind of the variable it names, if it names one.
    pub fn address(&self, index: usize) -> Result<(Address, Option<Symbol>), PtxError> {
        let Operand::Address { base, offset, coordinates: None } = self.operand(index)? else {
            return Err(self.semantic(&format!("operand {} must be an address in brackets", index + 1)));
        };
        let offset = *offset;
        match &**base {
            Operand::Integer(value) => {
                let base = Source::Immediate(value.wrapping_add(offset as u64));
                Ok((Address { base, offset: 0 }, None))
            }
            Operand::Name { name, component: None, .. } => match self.scopes.lookup(name) {
                Some(Symbol::Register { ty, row }) => {
                    let base = match ty.bytes() {
                        _ if ty == Type::Pred => return Err(self.semantic("a predicate is no address")),
                        8 => Source::Wide(row),
                        4 => Source::Narrow(row),
                        _ => return Err(self.semantic("an address has 32 or 64 bits")),
                    };
                    Ok((Address { base, offset: offset as u64 }, None))
                }
                Some(symbol) => match self.address_of(symbol, offset) {
                    Some(base) if !matches!(symbol, Symbol::Function(_)) => {
                        Ok((Address { base, offset: 0 }, Some(symbol)))
                    }
                    Some(_) => Err(self.semantic(&format!("`{name}` is a function, not memory"))),
                    None => Err(self.semantic(&format!("`{name}` has no address"))),
                },
                None => Err(self.semantic(&format!("`{name}` is not declared"))),
            },
            _ => Err(self.semantic("an address is a register, a variable or a number")),
        }
    }

    /// The state space named by a modifier; generic without one.
    pub fn space(&mut self) -> Space {
        self.modifiers.take_map(Space::parse).unwrap_or(Space::Generic)
    }
}

/// Special registers that are rows (ISA section 10).
fn special_register(name: &str, component: Option<&str>) -> Option<Special> {
    use Special::*;
    let axis = |specials: [Special; 3]| match component {
        Some("x" | "r") => Some(specials[0]),
        Some("y" | "g") => Some(specials[1]),
        Some("z" | "b") => Some(specials[2]),
        _ => None,
    };
    match name {
        "%tid" => axis([TidX, TidY, TidZ]),
        "%ntid" => axis([NtidX, NtidY, NtidZ]),
        "%ctaid" => axis([CtaidX, CtaidY, CtaidZ]),
        "%nctaid" => axis([NctaidX, NctaidY, NctaidZ]),
        "%clusterid" => axis([ClusterIdX, ClusterIdY, ClusterIdZ]),
        "%nclusterid" => axis([NClusterIdX, NClusterIdY, NClusterIdZ]),
        "%cluster_ctaid" => axis([ClusterCtaidX, ClusterCtaidY, ClusterCtaidZ]),
        "%cluster_nctaid" => axis([ClusterNctaidX, ClusterNctaidY, ClusterNctaidZ]),
        _ if component.is_some() => None,
        "%laneid" => Some(LaneId),
        "%warpid" => Some(WarpId),
        "%nwarpid" => Some(NWarpId),
        "%lanemask_eq" => Some(LaneMaskEq),
        "%lanemask_lt" => Some(LaneMaskLt),
        "%lanemask_le" => Some(LaneMaskLe),
        "%lanemask_gt" => Some(LaneMaskGt),
        "%lanemask_ge" => Some(LaneMaskGe),
        "%cluster_ctarank" => Some(ClusterCtaRank),
        "%cluster_nctarank" => Some(ClusterNctaRank),
        "%smid" => Some(SmId),
        "%nsmid" => Some(NSmId),
        "%gridid" => Some(GridId),
        "%dynamic_smem_size" => Some(DynamicSharedBytes),
        "%total_smem_size" | "%aggr_smem_size" => Some(TotalSharedBytes),
        "%envreg0" | "%envreg1" | "%envreg2" => Some(Zero),
        _ => None,
    }
}
