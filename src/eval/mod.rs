//! Whether it worked: log-probs of whole data sets under the weights as they are, and what they and a model's own answers
//! say about it.
//!
//! - [`Scorer`]: log-probs of data sets, for `asft score`, for evaluations during training, for a reference model;
//! - [`pairs`]: the metrics of `asft eval pairs`, with [`bootstrap`] intervals;
//! - [`mt_bench`]: MT-Bench's questions and FastChat's format of answers;
//! - [`judge`]: a language model that rates them, with FastChat's prompts and format of judgments;
//! - [`text`]: BLEU, ROUGE and how varied texts are.

pub mod bootstrap;
pub mod judge;
pub mod mt_bench;
pub mod pairs;
mod scorer;
pub mod text;

pub use scorer::{Evaluated, Scorer, largest};

pub use crate::progress::{Progress, Silent};
