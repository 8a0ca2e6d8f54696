//! Records of a run that grow line by line: JSONL files whose lines stand in the order of their steps. A run that goes on from
//! a checkpoint cuts what lies beyond it; a kill may tear the last line and no other.
//!
//! Boundary: lines with a `step` in them. What else they hold is [`super::log`]'s and `sample`'s.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not one this program writes.
    #[error("{}:{line}: not a line of a run's record: {problem}; repair or delete the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// An open record.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    /// Starts an empty record.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        Ok(Record { path: path.to_owned(), file })
    }

    /// Continues the record of a run that goes on after `step`: lines beyond it are cut.
    pub fn resume(path: &Path, step: usize) -> Result<Self, LogError> {
        truncate_after(path, step)?;
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io_error("open", path))?;
        Ok(Record { path: path.to_owned(), file })
    }

    /// Appends a line. One write per line: a kill may tear the last line, never mix two.
    pub fn append(&mut self, line: &Map<String, Value>) -> Result<(), LogError> {
        let text = Value::Object(line.clone()).to_string() + "\n";
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.flush())
            .map_err(io_error("write", &self.path))
    }

    /// Makes the lines so far durable. To be called before a checkpoint is saved, so that no checkpoint
    /// outlives its records.
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(io_error("sync", &self.path))
    }
}

/// A record read line by line.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    line: usize,
    /// Bytes of the whole lines read so far.
    end: u64,
    /// Whether the last line read ended in a newline.
    terminated: bool,
}

/// Reads a record. A last line without a newline that is not valid JSON was torn by a kill and ends the
/// record silently; any other invalid line is an error.
pub fn lines(path: &Path) -> Result<Lines, LogError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    Ok(Lines { path: path.to_owned(), reader: BufReader::new(file), line: 0, end: 0, terminated: true })
}

impl Lines {
    fn read_line(&mut self) -> Result<Option<Map<String, Value>>, LogError> {
        let mut text = Vec::new();
        let read = self.reader.read_until(b'\n', &mut text).map_err(io_error("read", &self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let terminated = text.ends_with(b"\n");
        let problem = match serde_json::from_slice::<Map<String, Value>>(&text) {
            Ok(entries) if step_of(&entries).is_some() => {
                self.end += read as u64;
                self.terminated = terminated;
                return Ok(Some(entries));
            }
            Ok(_) => "it has no step".to_owned(),
            Err(_) if !terminated => return Ok(None),
            Err(error) => error.to_string(),
        };
        Err(LogError::Line { path: self.path.clone(), line: self.line, problem })
    }
}

impl Iterator for Lines {
    type Item = Result<Map<String, Value>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_line().transpose()
    }
}

/// The step of a line.
pub(super) fn step_of(line: &Map<String, Value>) -> Option<usize> {
    line.get("step")?.as_u64().and_then(|step| usize::try_from(step).ok())
}

/// Cuts a record behind the last line of `step`, and a torn last line in any case. A record that is not there
/// is empty.
pub fn truncate_after(path: &Path, step: usize) -> Result<(), LogError> {
    if !path.exists() {
        return Ok(());
    }
    let mut lines = lines(path)?;
    let (mut keep, mut terminated) = (0, true);
    while let Some(line) = lines.read_line()? {
        // Lines stand in the order of their steps.
        if step_of(&line).is_some_and(|line| line > step) {
            break;
        }
        (keep, terminated) = (lines.end, lines.terminated);
    }
    let mut file = OpenOptions::new().append(true).open(path).map_err(io_error("open", path))?;
    file.set_len(keep).map_err(io_error("cut", path))?;
    if !terminated {
        file.write_all(b"\n").map_err(io_error("write", path))?;
    }
    file.sync_all().map_err(io_error("sync", path))
}
