//! Data files made from data files: what a recipe needs done to the rows before training, written as a new JSONL.
//!
//! - [`task`]: one file in, one file out: what all recipes share;
//! - [`input`]: rows of any form and shape, under the canonical names of their columns;
//! - [`output`]: JSON lines that appear whole or not at all;
//! - [`report`]: what became of the rows;
//! - [`explicit`]: a row with its prompt in a column of its own; the recipe `extract-prompt`;
//! - [`mod@split`]: a file in two that share no prompt;
//! - [`mod@reward_augmented`]: pairs with scores, each as two pairs with a goal;
//! - [`mod@rejection_sample`]: pairs from scored candidates (RSO);
//! - [`mod@token_diff`]: which tokens differ between two answers (BMC), with [`diff`] and [`stop_words`];
//! - [`mod@training_dynamics`]: how sure checkpoints are of each answer (SFTMix);
//! - [`error`]: what can go wrong.
//!
//! The same input, settings, seed and version give the same bytes. Boundary: rows in, rows out. What a row says is read by
//! [`crate::data`], with the rules that training uses; which settings were typed is the command's business.

pub mod diff;
pub mod error;
pub mod explicit;
pub mod input;
pub mod output;
pub mod rejection_sample;
pub mod report;
pub mod reward_augmented;
pub mod split;
pub mod stop_words;
pub mod task;
pub mod token_diff;
pub mod training_dynamics;

pub use error::PrepareError;
pub use explicit::extract_prompt;
pub use input::Input;
pub use output::{Lines, Output};
pub use rejection_sample::{Ranking, SamplingConfig, rejection_sample};
pub use report::Report;
pub use reward_augmented::{GoalConfig, GoalPlace, Scale, reward_augmented};
pub use split::{HeldOut, SplitConfig, split};
pub use stop_words::StopWords;
pub use task::{Made, ShapedRow, Task};
pub use token_diff::token_diff;
pub use training_dynamics::{confidence, training_dynamics};
