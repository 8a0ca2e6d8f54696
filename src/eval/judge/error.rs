//! What can be wrong with the files that a judge is given; [`super::EndpointError`] is about the judge itself.

use std::path::PathBuf;

use crate::data::DataError;

/// Why nothing can be judged. All of these but [`JudgeError::Io`] are found before the first call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// A file of questions, answers, prompts or references cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The file of judgments cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of judgments holds something else.
    #[error("{}:{line}: {problem}; this is no file of FastChat's model_judgment: write to another one", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// The file of prompts lacks one that is needed.
    #[error("{}: there is no prompt \"{name}\", which FastChat's judge_prompts.jsonl has", path.display())]
    NoPrompt {
        /// The file of prompts.
        path: PathBuf,
        /// Its name.
        name: &'static str,
    },
    /// A prompt that is not what its name promises.
    #[error("{}: prompt \"{name}\": {problem}", path.display())]
    Prompt {
        /// The file of prompts.
        path: PathBuf,
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A model has not answered a question.
    #[error("{}: question {question_id} has {found} of {expected} answers; run asft eval mt-bench again", path.display())]
    NoAnswer {
        /// The file of answers.
        path: PathBuf,
        /// The question.
        question_id: u64,
        /// Turns that are answered.
        found: usize,
        /// Turns that the question has.
        expected: usize,
    },
    /// A question of a kind that is judged against a reference has none.
    #[error(
        "question {question_id} ({category}) is judged against a reference answer, and {}",
        path.as_ref().map_or_else(
            || "no file of references is given: --references FILE, FastChat's reference_answer/gpt-4.jsonl".to_owned(),
            |path| format!("{} has none for every turn", path.display())
        )
    )]
    NoReference {
        /// The file of references, if one was given.
        path: Option<PathBuf>,
        /// The question.
        question_id: u64,
        /// Its kind.
        category: String,
    },
    /// Two files of answers whose models cannot be told apart.
    #[error("two files of answers are called \"{name}\"; a file's name is its model's, and they must differ")]
    SameName {
        /// The name.
        name: String,
    },
}
