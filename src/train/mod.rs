//! Training: one optimizer step, and what a run writes about itself.

pub mod card;
pub mod curves;
mod layout;
pub mod log;
mod step;

pub use layout::{CacheSize, InferenceLayout, Layout};
pub use step::{Evaluation, PendingStep, StepOutcome, Trainer, score};
