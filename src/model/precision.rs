//! The number formats of a run: what is stored, and what the optimizer keeps beside it.
//!
//! A pure description; what each format means for an operation is said in `backend/operations.rs`, what it costs follows
//! from the memory plan.

use crate::backend::Element;

/// Number formats of weights, activations, logits and optimizer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Weights, activations and gradients of activations: [`Element::F32`] or [`Element::Bf16`].
    pub storage: Element,
    /// What matrix products take and round to: `storage`, or [`Element::Bf16`] of f32 storage on the CPU. They add in f32.
    pub operands: Element,
    /// The head's logits: `storage`, or [`Element::F32`].
    pub logits: Element,
    /// What AdamW keeps.
    pub optimizer: OptimizerState,
}

/// What AdamW keeps of each parameter beside its stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerState {
    /// f32 moments; with bf16 weights also the 16 bits that make them f32 again.
    F32,
    /// bf16 moments; bf16 weights and moments are rounded stochastically.
    Bf16,
    /// 8-bit moments in blocks with a scale; bf16 weights are rounded stochastically.
    EightBit,
}

impl Precision {
    /// Everything in f32: the CPU, and `--dtype f32`.
    pub const F32: Self = Self {
        storage: Element::F32,
        operands: Element::F32,
        logits: Element::F32,
        optimizer: OptimizerState::F32,
    };
    /// bf16 with f32 master weights: the default of a GPU.
    pub const BF16: Self = Self {
        storage: Element::Bf16,
        operands: Element::Bf16,
        logits: Element::Bf16,
        optimizer: OptimizerState::F32,
    };
    /// Everything in f32 but the operands of matrix products: `--dtype bf16` on the CPU.
    pub const BF16_OPERANDS: Self = Self { operands: Element::Bf16, ..Self::F32 };

    /// Whether master weights are the stored ones and a remainder.
    pub fn has_remainder(self) -> bool {
        self.storage == Element::Bf16 && self.optimizer == OptimizerState::F32
    }
}

impl OptimizerState {
    /// The name of the setting.
    pub fn name(self) -> &'static str {
        match self {
            OptimizerState::F32 => "f32",
            OptimizerState::Bf16 => "bf16",
            OptimizerState::EightBit => "8bit",
        }
    }

    /// The format of a moment.
    pub fn element(self) -> Element {
        match self {
            OptimizerState::F32 => Element::F32,
            OptimizerState::Bf16 => Element::Bf16,
            OptimizerState::EightBit => Element::U8,
        }
    }
}
