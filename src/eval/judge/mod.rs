//! A language model as the judge of MT-Bench's answers (Zheng et al., arXiv 2306.05685), as FastChat's `gen_judgment.py` does it:
//! the same prompts, the same calls, the same scores, the same files.
//!
//! In the order of the work: [`Prompts`] from FastChat's `judge_prompts.jsonl`; [`Contest`], what is judged, as [`Match`]es;
//! an [`Endpoint`] that is asked; [`verdict`], what its words mean; [`Judgments`], the file that grows by a line for each; and
//! [`summary`], the table.
//!
//! Boundary: answers are there already (`asft eval mt-bench`, [`super::mt_bench`]); prompts and references are files of the user's.

pub mod endpoint;
mod error;
mod judgments;
mod matches;
mod prompts;
mod run;
pub mod summary;
pub mod verdict;

pub use endpoint::{Endpoint, EndpointError, EndpointSettings};
pub use error::JudgeError;
pub use judgments::{Judgment, Judgments, PairJudgment, SingleJudgment};
pub use matches::{AnswerFile, Contest, Match, Mode};
pub use prompts::{JudgePrompt, Prompts};
pub use run::{Failure, Finished, Watcher, run};
