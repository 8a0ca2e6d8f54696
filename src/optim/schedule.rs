//! Learning-rate schedules: Hugging Face's linear, cosine and constant ones with warm-up, step for step
//! (`get_linear_schedule_with_warmup` and its siblings in `transformers/optimization.py`).
//!
//! Boundary: a pure function of the step. Which step it is, and who uses the rate, is the trainer's business.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shape of the rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays. Hugging Face has two names for it: its `constant` ignores a warm-up that was asked for, its
    /// `constant_with_warmup` does not. Here both are this one, and a warm-up is never ignored.
    #[serde(alias = "constant_with_warmup")]
    Constant,
}

/// A name that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown learning-rate schedule {0:?}: use linear, cosine or constant")]
pub struct UnknownSchedule(pub String);

/// The learning rate of every optimizer step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// The rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Steps over which the rate rises from 0. The first step of a warm-up has rate 0, as in Hugging Face's.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole run, warm-up included.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate of optimizer step `step`, counted from 1.
    ///
    /// PyTorch's `LambdaLR` evaluates its function at 0 before the first step, hence `step - 1`.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.learning_rate * self.factor(step.saturating_sub(1))
    }

    /// The share of the full rate after `done` optimizer steps, in [0, 1].
    fn factor(&self, done: usize) -> f64 {
        if done < self.warmup_steps {
            return done as f64 / self.warmup_steps as f64;
        }
        let after_warmup = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            ScheduleKind::Linear => self.total_steps.saturating_sub(done) as f64 / after_warmup,
            ScheduleKind::Cosine => {
                let progress = (done - self.warmup_steps) as f64 / after_warmup;
                // Beyond the end of the run the cosine would rise again; Hugging Face's does.
                (0.5 * (1.0 + (PI * 0.5 * 2.0 * progress).cos())).max(0.0)
            }
            ScheduleKind::Constant => 1.0,
        }
    }
}

/// Warm-up steps of a run, from a share of its steps: rounded up, as `TrainingArguments.get_warmup_steps`.
pub fn warmup_steps(total_steps: usize, warmup_ratio: f64) -> usize {
    (total_steps as f64 * warmup_ratio).ceil().max(0.0) as usize
}

impl ScheduleKind {
    /// The name in flags and configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            ScheduleKind::Linear => "linear",
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Constant => "constant",
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ScheduleKind {
    type Err = UnknownSchedule;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "linear" => Ok(ScheduleKind::Linear),
            "cosine" => Ok(ScheduleKind::Cosine),
            "constant" | "constant_with_warmup" => Ok(ScheduleKind::Constant),
            _ => Err(UnknownSchedule(name.to_owned())),
        }
    }
}
