//! The model: configuration, parameters, the places of its activations, forward, backward, head.
//!
//! Boundary: everything here is a sequence of [`crate::backend::Backend`] operations on views from the memory plan;
//! nothing here owns memory, knows a device, or knows an objective.

mod activations;
pub mod config;
pub mod flops;
mod freeze;
mod head;
mod linear;
mod llama;
mod llama_backward;
pub mod master;
mod mixed_inputs;
mod parameters;
mod precision;
mod weights;

pub use activations::{
    Activations, BackwardActivations, Budget, DeviceBatch, HeadActivations, LayerActivations, Purpose,
    Recompute, Rungs,
};
pub use config::{ConfigError, LlamaConfig, Rope};
pub use flops::Flops;
pub use freeze::Frozen;
pub use head::{Chunk, Detail, HeadStep, chunks};
pub use linear::Linear;
pub use llama::{Layer, Llama, Norm, Use};
pub use mixed_inputs::MixedInputs;
pub use parameters::{Parameter, ParameterTable, Run};
pub use precision::{OptimizerState, Precision};
