//! A PTX module as written: declarations and statements, names not yet resolved.

use super::lexer::Position;
use super::types::{Space, Type};

/// A whole module.
#[derive(Debug, Default)]
pub(crate) struct ModuleAst<'a> {
    /// PTX version times ten.
    pub version: u32,
    /// `.target` operands: architecture first.
    pub target: Vec<&'a str>,
    pub target_position: Position,
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<FunctionAst<'a>>,
    /// `.file` index and name.
    pub files: Vec<(u32, &'a str)>,
}

/// A variable of any state space but registers.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub position: Position,
    pub name: &'a str,
    pub space: Space,
    pub ty: Type,
    pub alignment: u64,
    /// Size in bytes; 0 for an unsized array (`extern .shared x[]`).
    pub bytes: u64,
    pub external: bool,
    pub initial: Vec<Initial<'a>>,
}

/// One element of an initialiser.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial<'a> {
    Bits(u64),
    Float32(u32),
    Float64(u64),
    /// The address of a variable or function plus an offset.
    Address {
        name: &'a str,
        offset: i64,
    },
}

#[derive(Debug)]
pub(crate) struct FunctionAst<'a> {
    pub position: Position,
    pub name: &'a str,
    pub is_entry: bool,
    pub results: Vec<Variable<'a>>,
    pub parameters: Vec<Variable<'a>>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub required_cluster: Option<[u32; 3]>,
    /// Blocks that must fit on a multiprocessor at once.
    pub min_blocks: Option<u64>,
    pub max_registers: Option<u64>,
    /// `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
}

#[derive(Debug)]
pub(crate) struct Statement<'a> {
    pub position: Position,
    pub kind: StatementKind<'a>,
}

#[derive(Debug)]
pub(crate) enum StatementKind<'a> {
    Open,
    Close,
    Label(&'a str),
    /// Registers; with a count `n`, the names `name0` to `name(n-1)`.
    Registers {
        ty: Type,
        names: Vec<(&'a str, Option<u32>)>,
    },
    Variable(Variable<'a>),
    BranchTargets {
        name: &'a str,
        labels: Vec<&'a str>,
    },
    /// A prototype for indirect calls. The callee is known when the call happens, so it is only a name.
    Prototype(&'a str),
    Line {
        file: u32,
        line: u32,
    },
    Instruction(Instruction<'a>),
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction<'a> {
    /// Guard predicate, and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub mnemonic: &'a str,
    pub modifiers: Vec<&'a str>,
    pub operands: Vec<Operand<'a>>,
}

impl Instruction<'_> {
    /// Mnemonic and modifiers as written.
    pub fn name(&self) -> String {
        let mut name = self.mnemonic.to_owned();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    /// A register, variable, label, function or special register (`%tid.x` as two names), with a constant added.
    Name {
        name: &'a str,
        component: Option<&'a str>,
        offset: i64,
    },
    Integer(u64),
    Float32(u32),
    Float64(u64),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `[base + offset]`, or `[base, {coordinates}]`.
    Address {
        base: Box<Operand<'a>>,
        offset: i64,
        coordinates: Option<Box<Operand<'a>>>,
    },
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `!a`.
    Not(Box<Operand<'a>>),
    /// `(a, b)`: the arguments or results of a call.
    List(Vec<Operand<'a>>),
    /// `_`.
    Sink,
}
