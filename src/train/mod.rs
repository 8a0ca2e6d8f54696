//! Training: one optimizer step, and what a run writes about itself.

pub mod card;
pub mod curves;
pub mod log;
mod step;

pub use step::{Evaluation, PendingStep, StepOutcome, Trainer, score};
