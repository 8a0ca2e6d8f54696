//! Aligned Supervised Fine-Tuning (arXiv 2409.10571) of Llama-3-class models on preference pairs.

pub mod checkpoint;
pub mod dtype;
pub mod model;
pub mod optim;
pub mod train;

pub use dtype::DType;
