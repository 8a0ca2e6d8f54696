//! Data files made from data files: what a recipe needs done to the rows before training, written as a new JSONL.
//!
//! - [`task`]: one file in, one file out: what all recipes share;
//! - [`input`]: rows of any form and shape, under the canonical names of their columns;
//! - [`output`]: JSON lines that appear whole or not at all;
//! - [`report`]: what became of the rows;
//! - [`explicit`]: a row with its prompt in a column of its own; the recipe `extract-prompt`;
//! - [`error`]: what can go wrong.
//!
//! The same input, settings, seed and version give the same bytes. Boundary: rows in, rows out. What a row says is read by
//! [`crate::data`], with the rules that training uses; which settings were typed is the command's business.

pub mod error;
pub mod explicit;
pub mod input;
pub mod output;
pub mod report;
pub mod task;

pub use error::PrepareError;
pub use explicit::extract_prompt;
pub use input::Input;
pub use output::{Lines, Output};
pub use report::Report;
pub use task::{Made, ShapedRow, Task};
