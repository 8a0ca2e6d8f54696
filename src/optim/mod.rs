//! Optimisation: AdamW over the flat arenas and the learning-rate schedules. (Clipping is the operation
//! [`crate::backend::GradientNorm`].)

mod adamw;
pub mod schedule;

pub use adamw::{AdamwOptimizer, AdamwSettings};
pub use schedule::{Schedule, ScheduleKind};
