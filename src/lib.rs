//! Aligned Supervised Fine-Tuning (arXiv 2409.10571) of Llama-3-class models on preference pairs.
//!
//! The map, in the order of the data flow:
//!
//! - [`config`]: what was typed, merged (flag > environment > file > default), checked, typed.
//! - [`data`]: rows of a file to columns, chat template, tokens, packed batches, optimizer steps.
//! - [`inspect`]: what becomes of single rows, and figures about all of them.
//! - [`model`]: configuration, parameters, activations; a Llama forward and backward; the head.
//! - [`objective`]: from log-probs of one group to loss, coefficients and metrics.
//! - [`optim`]: AdamW and the learning-rate schedules.
//! - [`backend`]: the seam between all of these and a device; the CPU behind it.
//! - [`plan`]: every tensor a run takes, listed before the first step.
//! - [`train`]: one step; the loop; its log, curves and model card.
//! - [`checkpoint`]: Hugging Face folders in and out; atomic saves; resume.
//! - [`eval`]: log-probs of whole data sets; metrics of pairs and of texts.
//! - [`generate`]: answers to prompts, with a key/value cache.
//! - [`report`]: what became of runs, as a page, as TensorBoard's events, on a terminal.
//! - [`chart`]: curves as SVG.
//! - [`paper`]: the figures of ASFT's paper, as far as any machine can make them.
//! - [`progress`]: how far long work has come.
//! - [`prepare`]: new data files from data files.
//! - [`mod@bench`]: training steps and single operations, timed.

pub mod backend;
pub mod bench;
pub mod chart;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod dtype;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod model;
pub mod objective;
pub mod optim;
pub mod paper;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod train;

pub use dtype::DType;
