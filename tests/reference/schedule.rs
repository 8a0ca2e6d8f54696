//! Learning-rate schedules with linear warm-up, as in Hugging Face's `transformers.optimization`.

use std::f64::consts::PI;

/// What happens after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// `get_constant_schedule_with_warmup`.
    Constant,
    /// `get_linear_schedule_with_warmup`: down to 0 at `total`.
    Linear,
    /// `get_cosine_schedule_with_warmup` with half a cycle: down to 0 at `total`.
    Cosine,
}

/// What the base learning rate is multiplied by in the optimizer step with this index, counted from 0: with
/// any warm-up the first step has a rate of 0.
pub fn factor(schedule: Schedule, step: u32, warmup: u32, total: u32) -> f64 {
    if step < warmup {
        return f64::from(step) / f64::from(warmup.max(1));
    }
    let span = f64::from(total.saturating_sub(warmup).max(1));
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => f64::from(total.saturating_sub(step)) / span,
        Schedule::Cosine => (0.5 * (1.0 + (PI * f64::from(step - warmup) / span).cos())).max(0.0),
    }
}
