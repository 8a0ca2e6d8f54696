//! JSON lines, written aside and renamed.
//!
//! Boundary: rows and a file; that the file appears whole or not at all is [`crate::checkpoint::atomic`]'s doing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::PrepareError;
use crate::checkpoint::{CheckpointError, atomic};

/// The lines of a file that is being written.
#[derive(Debug)]
pub struct Lines<'a> {
    writer: &'a mut BufWriter<File>,
    path: &'a Path,
    written: usize,
}

impl Lines<'_> {
    /// Writes one row.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&mut self, row: &Map<String, Value>) -> Result<(), PrepareError> {
        let io = |source| CheckpointError::Io { action: "write", path: self.path.to_owned(), source };
        serde_json::to_writer(&mut *self.writer, row).map_err(|error| io(error.into()))?;
        self.writer.write_all(b"\n").map_err(io)?;
        self.written += 1;
        Ok(())
    }

    /// Rows so far.
    pub fn written(&self) -> usize {
        self.written
    }
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub path: PathBuf,
    /// Whether one of that name may be replaced.
    pub overwrite: bool,
}

impl Output {
    /// Refuses a file that is there and may not be replaced.
    ///
    /// # Errors
    /// [`PrepareError::Exists`].
    pub fn check(&self) -> Result<(), PrepareError> {
        match self.path.exists() && !self.overwrite {
            true => Err(PrepareError::Exists { path: self.path.clone() }),
            false => Ok(()),
        }
    }

    /// Writes what `fill` writes. If it fails, nothing has happened to the file.
    ///
    /// # Errors
    /// [`PrepareError::Exists`], whatever `fill` says, or what the system said.
    pub fn write<T>(
        &self,
        fill: impl FnOnce(&mut Lines<'_>) -> Result<T, PrepareError>,
    ) -> Result<T, PrepareError> {
        self.check()?;
        atomic::save_file(&self.path, |writer| fill(&mut Lines { writer, path: &self.path, written: 0 }))
    }
}
