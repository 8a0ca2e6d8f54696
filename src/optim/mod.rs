//! Optimisation: AdamW over the flat arenas, the codes of its 8-bit state, and the learning-rate schedules. (Clipping is the operation
//! [`crate::backend::GradientNorm`].)

mod adamw;
pub mod codes;
pub mod schedule;

pub use adamw::{AdamwOptimizer, AdamwSettings, Moment};
pub use schedule::{Schedule, ScheduleKind};
