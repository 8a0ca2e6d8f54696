//! Decoded programs: what the interpreter executes. Made by `lower`, laid out by `flow`.

use super::memory::HOST_ADDRESSES;
use super::registers::{Action, Condition, Registers, Source, Target};
use super::types::Space;
use std::fmt;

/// Classes of instructions, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    Integer,
    Float32,
    Float64,
    Half,
    Approximation,
    Conversion,
    Move,
    Control,
    Memory,
    Atomic,
    Communication,
    Synchronisation,
    Tensor,
}

/// How many classes there are.
pub(crate) const CLASSES: usize = Class::Tensor as usize + 1;

/// The names of the classes, as the report has them.
pub(crate) const CLASS_NAMES: [&str; CLASSES] = [
    "integer",
    "float32",
    "float64",
    "half",
    "approximation",
    "conversion",
    "move",
    "control",
    "memory",
    "atomic",
    "communication",
    "synchronisation",
    "tensor",
];

/// An address operand: a register (or nothing) plus a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub base: Source,
    pub offset: u64,
}

/// Memory order of an access (ISA section 8). Volatile accesses are relaxed ones of system scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

/// Which threads an order or an atomic reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Block,
    Cluster,
    Device,
}

/// One register of a vector access.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Element {
    Load(Target),
    Store(Source),
    /// Both halves of a 128-bit register.
    LoadPair([Target; 2]),
    StorePair([Source; 2]),
}

/// `ld` or `st`.
#[derive(Debug)]
pub(crate) struct Access {
    pub space: Space,
    pub address: Address,
    /// Bytes of one element.
    pub bytes: u32,
    /// Sign-extend what is loaded.
    pub signed: bool,
    pub elements: Vec<Element>,
    pub order: Order,
    pub scope: Scope,
    pub is_store: bool,
}

/// The new value of a word from its old value and up to two operands; a `Some` is stored.
pub(crate) type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// `atom` or `red`.
pub(crate) struct Atomic {
    pub space: Space,
    pub address: Address,
    pub bytes: u32,
    pub signed: bool,
    /// Results, one per element; empty for `red`.
    pub targets: Vec<Target>,
    /// Operands, one per element.
    pub operands: Vec<Source>,
    /// The new value of `cas`, one per element.
    pub second: Vec<Source>,
    pub update: Update,
    pub order: Order,
    pub scope: Scope,
}

impl fmt::Debug for Atomic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Atomic({:?} {:?} x {})", self.space, self.address, self.bytes)
    }
}

/// `cp.async`: global to shared.
#[derive(Debug)]
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u32,
    /// Bytes really read; the others become zero.
    pub source_bytes: Option<Source>,
    /// With this predicate nothing is read at all.
    pub ignore_source: Option<Condition>,
}

/// `bar` and `barrier`.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub number: Source,
    /// Number of threads; all of the block without it.
    pub threads: Option<Source>,
    /// All threads of a warp must execute it together.
    pub aligned: bool,
    pub kind: BarrierKind,
}

#[derive(Debug)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Reduce { condition: Condition, operation: BarrierReduction, result: BarrierResult },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierReduction {
    Count,
    And,
    Or,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum BarrierResult {
    Register(Target),
    Predicate(u32),
}

/// An instruction of several lanes at once: `shfl`, `vote`, `match`, `redux`, `elect`.
pub(crate) struct Collective {
    pub members: Source,
    pub action: Action,
}

/// A warp-wide instruction that needs all 32 lanes.
pub(crate) type WarpAction = Box<dyn Fn(&mut Registers) + Send + Sync>;

/// `ldmatrix` and `stmatrix`: 8 x 8 matrices of 16-bit elements.
#[derive(Debug)]
pub(crate) struct MatrixAccess {
    pub space: Space,
    pub address: Address,
    /// One register per matrix.
    pub registers: Vec<Element>,
    pub transposed: bool,
}

/// A value handed to a function, or taken from one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// A parameter variable of the caller's frame.
    Frame(u32),
    Value(Source),
    Register(Target),
    Ignored,
}

/// Where a parameter lies in its function's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub offset: u32,
    pub bytes: u32,
}

/// Whom a call goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee {
    Function(u32),
    /// The address of a function, in a register.
    Indirect(Source),
    Print,
    /// `__assertfail`.
    AssertFail,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub callee: Callee,
    pub arguments: Vec<Argument>,
    pub results: Vec<Argument>,
}

/// What an instruction does.
pub(crate) enum Operation {
    Alu(Action),
    /// To an instruction; before layout, to a label.
    Branch(u32),
    BranchIndexed {
        index: Source,
        targets: Vec<u32>,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap(&'static str),
    Access(Box<Access>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CommitGroup,
    /// Waits until at most this many groups are pending.
    WaitGroup(u32),
    Barrier(Box<Barrier>),
    WarpBarrier(Source),
    ClusterArrive {
        release: bool,
    },
    ClusterWait,
    Collective(Box<Collective>),
    Matrix(Box<MatrixAccess>),
    Mma {
        action: WarpAction,
        /// Multiplications and additions of the whole warp.
        operations: u64,
    },
    Fence(Scope),
    /// Lets other warps run: `nanosleep`.
    Yield,
    Nothing,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Alu(_) => "Alu",
            Operation::Branch(_) => "Branch",
            _ => "Operation",
        })
    }
}

/// One decoded instruction.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub guard: Option<Condition>,
    pub operation: Operation,
    pub class: Class,
    /// Line in the PTX text.
    pub line: u32,
    /// File index and line of the source; 0 where unknown.
    pub source: (u32, u32),
}

/// A decoded function.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub code: Vec<Instruction>,
    pub narrow: u32,
    pub wide: u32,
    pub predicates: u32,
    /// Local memory of one frame in bytes: variables and call parameters.
    pub frame_bytes: u32,
    pub parameters: Vec<Parameter>,
    pub results: Vec<Parameter>,
    /// Most 32-bit registers live at once, estimated.
    pub live_registers: u32,
}

/// A kernel with every function that it can reach. The kernel is the first.
#[derive(Debug)]
pub(crate) struct Program {
    pub functions: Vec<Function>,
    /// For indirect calls: index in `functions` by index in the module.
    pub by_module_index: Vec<Option<u32>>,
    pub static_shared_bytes: u32,
    pub parameter_bytes: u32,
    pub parameters: Vec<Parameter>,
}

/// Generic addresses of functions: this plus their index in the module times 16.
pub(crate) const FUNCTION_ADDRESS: u64 = 0x1000_0000;
/// Generic addresses of shared memory: this plus the 32-bit shared address.
pub(crate) const SHARED_WINDOW: u64 = HOST_ADDRESSES + (2 << 40);
/// Generic addresses of local memory: this plus the local address.
pub(crate) const LOCAL_WINDOW: u64 = HOST_ADDRESSES + (1 << 40);
/// Generic addresses of kernel parameters: this plus the offset.
pub(crate) const PARAMETER_WINDOW: u64 = HOST_ADDRESSES;
/// Every window is this large.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// A shared address of another block of the cluster has its rank plus one above these bits.
pub(crate) const SHARED_RANK_SHIFT: u32 = 24;
