//! Rows of a file to optimizer steps. Only the two types that the objectives share with the loader so far.

mod batch;

pub use batch::{Spans, StepTotals};
