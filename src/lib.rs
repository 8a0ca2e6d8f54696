//! Aligned Supervised Fine-Tuning (arXiv 2409.10571) of Llama-3-class models on preference pairs.

pub mod data;
