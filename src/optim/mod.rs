//! The optimizer's learning-rate schedule.

pub mod schedule;

pub use schedule::{Schedule, ScheduleKind};
