//! Why a figure cannot be made.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::train::log::LogError;

/// Why a figure cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PaperError {
    /// A data file or a file of answers cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run's record cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tokenizers library refused.
    #[error("no tokenizer can be made of {}: {message}", path.display())]
    Tokenizer {
        /// The data.
        path: PathBuf,
        /// What the library said.
        message: String,
    },
    /// A run has not measured what a figure is made of.
    #[error("{} has no {what}; delete {} to repeat the run", path.display(), path.parent().unwrap_or(path).display())]
    NotMeasured {
        /// The run's record.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}
