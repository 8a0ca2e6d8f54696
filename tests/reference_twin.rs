//! Proves `tests/reference`, which the other tests lean on: the whole-model twin against Hugging Face
//! transformers' float64 numbers in `tests/golden`, and the backward pass of every operation against finite
//! differences.

mod reference;

#[path = "reference_twin/golden.rs"]
mod golden;
#[path = "reference_twin/operations.rs"]
mod operations;
