//! What can be wrong with a configuration: each error says where it was typed, and [`ConfigError::hint`] what to do.

use std::io;
use std::path::PathBuf;

use crate::data::ColumnMapError;
use crate::data::columns::CANONICAL;

/// A configuration that cannot be used. Every one is found before any work begins.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// The configuration file has a key that no setting has.
    #[error("{}:{line}: unknown key \"{key}\"", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key as it is written, dotted where it lies in a table.
        key: String,
        /// The setting with the most similar name, if one is similar.
        nearest: Option<String>,
    },
    /// A key of the configuration file has a value that its setting cannot have.
    #[error("{}:{line}: key \"{key}\": {message}", path.display())]
    BadValue {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key as it is written.
        key: String,
        /// What is wrong with the value.
        message: String,
    },
    /// An `ASFT_*` variable has a value that its setting cannot have.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with the value.
        message: String,
    },
    /// One setting is given under two of its names in the same place.
    #[error("{place}: \"{first}\" and \"{second}\" are two names of one setting")]
    Twice {
        /// The file, or the environment.
        place: String,
        /// The name met first.
        first: String,
        /// The other name.
        second: String,
    },
    /// A value of the command line cannot be written down in `run.toml`.
    #[error("the command line cannot be recorded: {message}")]
    Unrecordable {
        /// What the serialiser said.
        message: String,
    },
    /// A setting that has no default was not given.
    #[error("{what} is missing")]
    Missing {
        /// The flag or flags, any of which would do.
        what: &'static str,
        /// What to give.
        hint: &'static str,
    },
    /// Two settings that exclude each other were given in the same place.
    #[error("{first} and {second} exclude each other")]
    Conflict {
        /// One flag.
        first: String,
        /// The other flag.
        second: String,
        /// Why, and which to choose.
        hint: &'static str,
    },
    /// A setting has no meaning without another one.
    #[error("{first} has no effect without {second}")]
    Needs {
        /// The flag that was given.
        first: String,
        /// The flag that is missing.
        second: &'static str,
    },
    /// A number is outside its range.
    #[error("{flag} {value}: must be {must}")]
    Range {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
        /// The range, in words.
        must: String,
    },
    /// `--map` cannot be used.
    #[error("--map: {source}")]
    Columns {
        /// What is wrong with it.
        source: ColumnMapError,
    },
    /// No learning rate was given, and the objective has no default one.
    #[error("no default learning rate is known for the objective \"{objective}\"")]
    NoLearningRate {
        /// The objective as it was typed.
        objective: String,
    },
}

impl ConfigError {
    /// What the person can do about it, where the message does not say it already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean \"{nearest}\"?")),
            Self::UnknownKey { key, .. } if key.contains('.') => Some(
                "keys are not in tables: write them at the top of the file, under no [heading]".to_owned(),
            ),
            Self::UnknownKey { .. } => {
                Some("keys are the names of the flags with \"_\" for \"-\": see asft train --help".to_owned())
            }
            Self::Twice { first, .. } => Some(format!("keep \"{first}\"")),
            Self::Missing { hint, .. } | Self::Conflict { hint, .. } => Some((*hint).to_owned()),
            Self::Needs { first, second } => Some(format!("give {second} as well, or leave {first} out")),
            Self::Columns { source: ColumnMapError::Unknown { name } } => {
                nearest(name, CANONICAL.into_iter()).map(|nearest| format!("did you mean \"{nearest}\"?"))
            }
            Self::NoLearningRate { .. } => Some(
                "asft objectives lists the objectives; --learning-rate sets the rate for any of them"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The name most similar to `typed`, if one is similar enough to be meant.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similar = names.map(|name| (strsim::jaro_winkler(typed, name), name));
    // 0.85: above "save_steps" against "eval_steps" (0.80), below one wrong, missing or doubled letter (0.93 and more).
    similar.filter(|(score, _)| *score > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
