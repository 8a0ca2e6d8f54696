//! The seam between the model and a device: memory cut into views, and a short list of operations.
//!
//! A backend owns numbered arenas and *enqueues* operations in order; every operation takes one argument struct of
//! [`View`]s and sizes (module [`operations`]). The CPU does the work at once, a GPU later; so nothing here returns an
//! error but what waits for the device: [`Backend::read`] and [`Backend::collect`]. Two ways lead back to the host:
//! `read`, which waits, and `read_later`, which returns a ticket. A training step that only uses tickets never waits.
//!
//! Its boundary: `model/`, `objective/` and `train/` see this trait and nothing of a device. What an operation computes
//! is said here and in [`operations`]; how, in `cpu/`.
//!
//! Letters, the same everywhere: B sequences, T packed tokens, R response rows, H hidden, N query heads, K key/value
//! heads, D head size, F feed-forward, V vocabulary; a `d` prefix for gradients. Matrices are row-major.

pub mod cpu;
pub mod cuda;
pub mod operations;
pub mod probe;
mod tiles;
mod view;

use serde::Serialize;

pub use operations::*;
pub use tiles::{KEY_TILE, NOBODY, QUERY_TILE, TILE_WORDS, key_tiles, query_tiles};
pub use view::{ArenaId, Element, Scalar, View};

/// What a device can answer instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The device has no room for an arena of the plan.
    #[error("cannot take {bytes} bytes for {arena:?}: {reason}")]
    OutOfMemory {
        /// The arena that was asked for.
        arena: ArenaId,
        /// Its size.
        bytes: usize,
        /// What the system answered.
        reason: String,
    },
    /// The device refused or failed.
    #[error("{operation} failed: {reason}")]
    Device {
        /// What was asked of it.
        operation: String,
        /// What it answered.
        reason: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system answered.
        reason: String,
    },
}

/// What kind of device a run is planned for; the device itself need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// [`cpu::CpuBackend`].
    Cpu,
    /// [`cuda::CudaBackend`].
    Cuda,
}

/// The time that all calls of one operation took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationTime {
    /// The operation, and of a product its layout and the shape of the weight.
    pub name: String,
    /// How often it was called.
    pub calls: usize,
    /// Wall-clock seconds of all calls.
    pub seconds: f64,
    /// Operations (a multiplication or an addition is one) of all calls, where it is a product.
    pub flops: Option<f64>,
}

/// The arena that a backend may use as the workspace of matrix products, where the plan has one.
pub const WORKSPACE: ArenaId = ArenaId(8);

/// A device that can run the model. Operations are documented at their argument structs.
pub trait Backend {
    /// A pending copy to the host, made by [`Backend::read_later`].
    type Ticket;

    /// What plans are made for.
    const KIND: DeviceKind;

    /// What the logs call this device. Two backends of one name compute the same bits.
    fn name(&self) -> String;
    /// Bytes that could still be taken, if the system tells.
    fn available_memory(&self) -> Option<u64>;
    /// The most bytes that this process has held at a time, if the system tells.
    fn peak_memory(&self) -> Option<u64>;

    /// Where the time went since this was last asked, the longest first; nothing where operations are only enqueued.
    fn operation_times(&mut self) -> Vec<OperationTime> {
        Vec::new()
    }

    /// Takes `bytes` of zeroed memory under the number `arena`, replacing what that number named before.
    fn allocate(&mut self, arena: ArenaId, bytes: usize) -> Result<(), BackendError>;
    /// Gives an arena back.
    fn free(&mut self, arena: ArenaId);
    /// Copies host values into a view of the same length.
    fn write<S: Scalar>(&mut self, to: View, values: &[S]);
    /// Waits for all work before it, then copies a view to the host.
    fn read<S: Scalar>(&mut self, from: View, values: &mut [S]) -> Result<(), BackendError>;
    /// Enqueues a copy to the host and goes on.
    fn read_later(&mut self, from: View) -> Self::Ticket;
    /// Waits for a ticket; `from` of `read_later` must have held elements of type `S`.
    fn collect<S: Scalar>(&mut self, ticket: Self::Ticket) -> Result<Vec<S>, BackendError>;

    /// Sets every byte of a view to zero.
    fn zero(&mut self, view: View);
    /// Copies a view's bytes to another of as many bytes, which it must not overlap: what the device's memory can do.
    fn copy(&mut self, from: View, to: View);
    /// Token ids to hidden rows, each from one id or mixed from two.
    fn embedding_forward(&mut self, arguments: EmbeddingForward);
    /// Hidden-row gradients, with an optional factor, summed by token id in ascending row order.
    fn embedding_backward(&mut self, arguments: EmbeddingBackward);
    /// Residual add and root-mean-square normalisation.
    fn rmsnorm_forward(&mut self, arguments: RmsnormForward);
    /// Gradient of the normalised sum with respect to the sum and the weight.
    fn rmsnorm_backward(&mut self, arguments: RmsnormBackward);
    /// Rotary position embedding in place, or its inverse.
    fn rope(&mut self, arguments: Rope);
    /// Softmax attention of query segments over up to two key ranges each.
    fn attention_forward(&mut self, arguments: AttentionForward);
    /// Gradients of queries, keys and values.
    fn attention_backward(&mut self, arguments: AttentionBackward);
    /// silu(gate) * up.
    fn swiglu_forward(&mut self, arguments: SwigluForward);
    /// Gradient of gate and up.
    fn swiglu_backward(&mut self, arguments: SwigluBackward);
    /// A matrix product in one of three layouts.
    fn matmul(&mut self, arguments: Matmul);
    /// Rows of a matrix, each with an optional factor.
    fn gather_rows(&mut self, arguments: GatherRows);
    /// The adjoint of `gather_rows`, over an inverse list.
    fn scatter_rows(&mut self, arguments: ScatterRows);
    /// Copies rows to given rows of another matrix (keys and values into a cache).
    fn copy_rows(&mut self, arguments: CopyRows);
    /// The logit of each row's target, beside the product that makes the others.
    fn target_logits(&mut self, arguments: TargetLogits);
    /// The head's row kernel: log-prob statistics of each row and, if asked, the unit gradient in place of the logits.
    fn head_rows(&mut self, arguments: HeadRows);
    /// Entropy and the like of each row's distribution, before the row kernel.
    fn head_statistics(&mut self, arguments: HeadStatistics);
    /// Coefficients d loss / d log-prob of complete units (see [`crate::objective::Objective`]).
    fn objective(&mut self, arguments: ObjectiveCoefficients<'_>);
    /// Global gradient norm, clip factor and the sticky flag for what is not finite.
    fn gradient_norm(&mut self, arguments: GradientNorm);
    /// One AdamW update, skipped while the sticky flag is set.
    fn adamw(&mut self, arguments: Adamw);
}
