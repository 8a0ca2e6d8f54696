//! What can keep a recipe from writing its file.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;

/// Why there is no new file. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The rows that it was to be made of.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The new file cannot be written.
    #[error(transparent)]
    Output(#[from] CheckpointError),
    /// The tokenizer cannot encode a stop word.
    #[error("the tokenizer cannot encode a stop word: {0}; --stop-words none does without them")]
    StopWords(String),
    /// A split that would leave one of the two files without rows.
    #[error(
        "cannot hold out {wanted} of {rows} rows with {prompts} distinct prompts and keep any (rows with one prompt stay together)"
    )]
    SplitTooSmall {
        /// Rows that were asked for.
        wanted: usize,
        /// Rows of the file.
        rows: usize,
        /// Distinct prompts among them.
        prompts: usize,
    },
    /// Rows came or went between two readings.
    #[error("{} has changed while it was worked on; start again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// There is a file of that name.
    #[error("{} exists; choose another file, or say --overwrite", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl PrepareError {
    /// Whether what was typed or given is to blame, rather than the disk.
    pub fn is_usage(&self) -> bool {
        !matches!(self, PrepareError::Output(_))
    }
}
