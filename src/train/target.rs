//! What a run is planned for: the kind of device, the memory it has, and what follows from both. The device itself need
//! not be there, so that a plan for one machine can be made on another.

use super::TrainError;
use crate::backend::cuda::HEAD_SIZES;
use crate::backend::{Backend, DeviceKind, Element};
use crate::config::FormatConfig;
use crate::model::{LlamaConfig, OptimizerState, Precision, Rungs};

/// Bytes that matrix products on a GPU may work in: what NVIDIA recommends for Hopper.
const GPU_WORKSPACE: usize = 32 << 20;

/// Bytes of a GPU that are left to the driver: its context, and the machine code of kernels and of cublasLt.
const GPU_RESERVE: u64 = 1 << 30;

fn reserve(kind: DeviceKind) -> u64 {
    match kind {
        DeviceKind::Cpu => 0,
        DeviceKind::Cuda => GPU_RESERVE,
    }
}

/// A device to plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What kind of device.
    pub kind: DeviceKind,
    /// Bytes a plan may take; none: no bound.
    pub memory: Option<u64>,
}

impl Target {
    /// A device of a kind with so many bytes free.
    pub fn new(kind: DeviceKind, free: Option<u64>) -> Self {
        Self { kind, memory: free.map(|free| free.saturating_sub(reserve(kind))) }
    }

    /// Bytes that a device of this kind must have for a plan of so many.
    pub fn whole_memory(self, plan: u64) -> u64 {
        plan.saturating_add(reserve(self.kind))
    }

    /// A backend that is there, with the memory that is free now.
    pub fn of<B: Backend>(backend: &B) -> Self {
        Self::new(B::KIND, backend.available_memory())
    }

    /// The number formats: as asked for, else bf16 with f32 master weights on a GPU and f32 on the CPU, which in bf16 rounds
    /// the operands of products and keeps everything in f32.
    pub fn precision(self, formats: FormatConfig) -> Result<Precision, TrainError> {
        let default = match self.kind {
            DeviceKind::Cpu => Precision::F32,
            DeviceKind::Cuda => Precision::BF16,
        };
        let operands = formats.dtype.unwrap_or(default.operands);
        let storage = if self.kind == DeviceKind::Cpu { Element::F32 } else { operands };
        let optimizer = formats.optimizer_state.unwrap_or(default.optimizer);
        let logits = formats.head_logits.unwrap_or(storage);
        let refuse = |setting, problem| Err(TrainError::Format { setting, problem });
        if storage == Element::F32 && optimizer != OptimizerState::F32 {
            return refuse("--optimizer-state", "below f32 goes with --dtype bf16 on --device cuda");
        }
        if storage == Element::F32 && logits == Element::Bf16 {
            return refuse("--head-logits bf16", "goes with --dtype bf16 on --device cuda");
        }
        Ok(Precision { storage, operands, logits, optimizer })
    }

    /// What sizes are rounded up to. The CPU needs no padding: its products have the same bits at any size.
    pub fn rungs(self, tokens: usize, head_rows: usize) -> Rungs {
        match self.kind {
            DeviceKind::Cpu => Rungs::NONE,
            DeviceKind::Cuda => Rungs::of(tokens, head_rows),
        }
    }

    /// Bytes of the workspace of matrix products.
    pub fn workspace(self) -> usize {
        match self.kind {
            DeviceKind::Cpu => 0,
            DeviceKind::Cuda => GPU_WORKSPACE,
        }
    }

    /// Whether the device has kernels for the model.
    pub fn check(self, model: &LlamaConfig) -> Result<(), TrainError> {
        if self.kind == DeviceKind::Cuda && !HEAD_SIZES.contains(&model.head_dim) {
            return Err(TrainError::HeadSize { found: model.head_dim, supported: &HEAD_SIZES });
        }
        Ok(())
    }
}
