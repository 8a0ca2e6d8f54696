//! What can be wrong with models and runs on disk: each error says where (file, tensor), what, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::tensor_writer::SourceError;
use crate::model::ConfigError;

/// Why a model folder, a checkpoint or a run folder cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no model folder where one was named.
    #[error("{}: {problem}", path.display())]
    NoModel {
        /// The path given.
        path: PathBuf,
        /// What is there instead, and what to do.
        problem: String,
    },
    /// A file is not what its name says.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is not what the model needs, or its description contradicts itself.
    #[error("{}: tensor \"{tensor}\": {problem}", path.display())]
    Tensor {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Tensors that the configuration asks for are nowhere in the folder.
    #[error("{}: missing {tensors}{hint}", path.display())]
    MissingTensors {
        /// The folder or file.
        path: PathBuf,
        /// Their names.
        tensors: Names,
        /// The likely reason, if one can be told; starts with "; ".
        hint: &'static str,
    },
    /// Tensors that no Llama of this configuration has.
    #[error("{}: {tensors} not part of a Llama with this config.json{hint}", path.display())]
    ExtraTensors {
        /// The folder or file.
        path: PathBuf,
        /// Their names.
        tensors: Names,
        /// The likely reason, if one can be told; starts with "; ".
        hint: &'static str,
    },
    /// The values of a tensor could not be had from where they are kept.
    #[error("tensor \"{tensor}\": cannot get its values to save them: {source}")]
    Source {
        /// The tensor.
        tensor: String,
        /// What the owner of the values said.
        source: SourceError,
    },
    /// A checkpoint does not belong to the run that wants to continue from it.
    #[error("{}: {problem}", path.display())]
    Resume {
        /// The file of the checkpoint.
        path: PathBuf,
        /// What does not match.
        problem: String,
    },
    /// The run folder may not be written to.
    #[error("{problem}")]
    RunFolder {
        /// The folder given.
        path: PathBuf,
        /// What is there, and the commands that go on.
        problem: String,
    },
}

impl CheckpointError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| CheckpointError::Io { action, path, source }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        CheckpointError::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        CheckpointError::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }
}

/// A list of tensor names that prints its first few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        write!(f, "tensor{} ", if self.0.len() == 1 { "" } else { "s" })?;
        let quoted: Vec<String> = self.0.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
        f.write_str(&quoted.join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
