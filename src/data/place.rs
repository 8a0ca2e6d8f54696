//! Where in which file a row is, as people are told.
//!
//! Boundary: a path and a number; who counts rows is [`super::report`].

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the places of a file are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numbering {
    /// By lines of text.
    #[default]
    Lines,
    /// By rows, in a form that has no lines.
    Rows,
}

impl Numbering {
    /// `line` or `row`, with an s where there are several.
    pub fn word(self, several: bool) -> &'static str {
        match (self, several) {
            (Numbering::Lines, false) => "line",
            (Numbering::Lines, true) => "lines",
            (Numbering::Rows, false) => "row",
            (Numbering::Rows, true) => "rows",
        }
    }
}

/// A place in a file. Displayed as `pairs.jsonl:17`, or `pairs.parquet row 17`; both count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// What `number` counts.
    pub numbering: Numbering,
    /// 1-based.
    pub number: usize,
}

impl Place {
    /// A place.
    pub fn new(path: &Path, numbering: Numbering, number: usize) -> Self {
        Self { path: path.to_owned(), numbering, number }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.numbering {
            Numbering::Lines => write!(f, "{}:{}", self.path.display(), self.number),
            Numbering::Rows => write!(f, "{} row {}", self.path.display(), self.number),
        }
    }
}
