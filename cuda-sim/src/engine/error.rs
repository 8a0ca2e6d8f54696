//! What can go wrong, for the person who sees it: in PTX text, in device memory, in a launch.

use std::fmt;
use thiserror::Error;

/// Why a PTX text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtxErrorKind {
    /// The text is not PTX.
    Syntax,
    /// The text is PTX, but names something undeclared or combines things that do not go together.
    Semantic,
    /// Valid PTX that this engine does not execute (yet).
    Unsupported,
    /// The text was made for a newer compute capability or another address size.
    Target,
    /// The module's globals do not fit into device memory.
    Memory,
}

/// A PTX text that was refused: where, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("PTX line {line}, column {column}: {message}")]
pub struct PtxError {
    /// The class of the error.
    pub kind: PtxErrorKind,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// Column in that line in bytes, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

/// An access by the host (or an allocation) that device memory refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// No room: the device's capacity is used up.
    #[error("out of device memory: {requested} bytes requested, {free} of {capacity} free")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes free.
        free: u64,
        /// Bytes of the device.
        capacity: u64,
    },
    /// A size of zero, or an alignment that is no power of two.
    #[error("an allocation of {bytes} bytes aligned to {alignment} makes no sense")]
    InvalidRequest {
        /// Bytes asked for.
        bytes: u64,
        /// Alignment asked for.
        alignment: u64,
    },
    /// The address is not the start of a live allocation.
    #[error("{address:#x} is not the start of a live allocation")]
    NotAnAllocation {
        /// The address.
        address: u64,
    },
    /// The range is not inside one live allocation.
    #[error("{bytes} bytes at {address:#x}: {reason}")]
    OutOfBounds {
        /// First address of the range.
        address: u64,
        /// Length of the range.
        bytes: u64,
        /// The nearest allocation and how the range misses it.
        reason: String,
    },
}

/// The class of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// An access outside every allocation, or past the end of its own.
    OutOfBounds,
    /// An access whose address is no multiple of its size.
    Misaligned,
    /// An access to an allocation that was freed.
    UseAfterFree,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// A write to read-only memory.
    ReadOnly,
    /// A barrier that only some threads of a warp reached.
    DivergentBarrier,
    /// A warp-wide instruction (`mma`, `ldmatrix`, ...) executed by a part of the warp.
    PartialWarp,
    /// Two threads of one block (or cluster) touched the same bytes, one writing, with no order between them.
    Race,
    /// Two blocks touched the same bytes of global memory, one writing, with no order between them.
    CrossBlockRace,
    /// An access to the source or destination of an asynchronous copy that has not been waited for.
    AsyncRace,
    /// Nothing can run any more: every warp waits for something that never comes.
    Deadlock,
    /// The kernel executed `trap`, `brkpt` or a failed assertion.
    Trap,
    /// An instruction got an operand that it does not allow.
    InvalidOperand,
    /// The call stack or the local memory of a thread ran over.
    StackOverflow,
    /// An instruction that this engine does not execute (yet).
    Unsupported,
}

/// One fault of a launch, with everything needed to find it in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The class.
    pub kind: FindingKind,
    /// The kernel that was launched.
    pub kernel: String,
    /// `%ctaid` of the block.
    pub block: [u32; 3],
    /// `%tid` of the (first) thread.
    pub thread: [u32; 3],
    /// Line of the instruction in the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction as the PTX has it.
    pub instruction: String,
    /// File and line of the source, if the PTX carries line information.
    pub source: Option<(String, u32)>,
    /// What happened, with addresses and, for races, the other party.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { kernel, block: [bx, by, bz], thread: [tx, ty, tz], ptx_line, instruction, .. } = self;
        write!(f, "{kernel}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz}), PTX line {ptx_line}")?;
        if let Some((file, line)) = &self.source {
            write!(f, " ({file}:{line})")?;
        }
        write!(f, ", `{instruction}`: {}", self.message)
    }
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LaunchError {
    /// Grid, block, cluster or shared memory break a limit of the device or of the kernel.
    #[error("{kernel}: {message}")]
    Configuration {
        /// The kernel.
        kernel: String,
        /// Which limit, what was asked for.
        message: String,
        /// Whether it is a resource (threads by the kernel's own limit, shared memory) and not a dimension.
        out_of_resources: bool,
    },
    /// The parameters do not have the kernel's number or sizes.
    #[error("{kernel}: {message}")]
    Parameters {
        /// The kernel.
        kernel: String,
        /// What was expected and what came.
        message: String,
    },
    /// The kernel ran into faults. They are sorted, and at most [`LaunchError::MAX_FINDINGS`] are kept.
    #[error("{} finding(s):\n{}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Findings(Vec<Finding>),
}

impl LaunchError {
    /// How many findings one launch keeps.
    pub const MAX_FINDINGS: usize = 32;

    /// The findings, if that is what made the launch fail.
    pub fn findings(&self) -> &[Finding] {
        match self {
            LaunchError::Findings(findings) => findings,
            _ => &[],
        }
    }
}
