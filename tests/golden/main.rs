//! The engine against numbers that nobody here wrote: transformers in f64, stored in this folder by `make_golden.py`,
//! and, where it is at hand, a larger oracle of the same kind.
//!
//! Tolerances are those of the project's requirements for f32; PyTorch's own f32 reaches 5e-6 (log-probs),
//! 6e-6 (gradients), 2e-6 (curves) and 2e-7 (final weights) on such cases.

mod cpu_bf16;
mod cuda;
mod generation;
mod harness;
mod hft;
mod ift;
mod oracle;
mod sftmix;
#[path = "../simulator/mod.rs"]
mod simulator;
#[path = "../skip/mod.rs"]
mod skip;
mod step;
mod training;

/// Per-token log-probs, absolute.
pub const LOG_PROB: f64 = 1e-5;
/// Every gradient tensor, relative L2.
pub const GRADIENT: f64 = 1e-5;
/// The same where probabilities reach 0.99: log(1 - p) magnifies the rounding of p.
pub const GRADIENT_MEMORISED: f64 = 3e-5;
/// Losses of a 20-step run, absolute.
pub const CURVE: f64 = 1e-5;
/// Final weights of a 20-step run, relative L2.
pub const WEIGHTS_RELATIVE: f64 = 2e-6;
/// Final weights of a 20-step run, absolute.
pub const WEIGHTS_ABSOLUTE: f64 = 5e-5;
