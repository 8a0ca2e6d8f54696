//! JSON lines -> rows: named columns, each row with its place in the file.
//!
//! Boundary: bytes and JSON only; what the columns mean is [`super::columns`]'s business. The readers of other
//! forms ([`super::json_list`], [`super::parquet`]) yield the same [`Row`]s; [`super::source`] chooses among them.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{DataError, RowError};
use super::place::{Numbering, Place};

/// Bytes of the longest row that is read: a file of another kind may be one line of gigabytes.
pub const LONGEST_ROW: usize = 256 << 20;

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// 0-based row of the file, blank lines not counted.
    pub index: usize,
    /// 1-based line of the file; in a form without lines, the 1-based row.
    pub line: usize,
    /// The columns in the order of the file. A column that holds null is left out, and so is a field of an object
    /// in a column: forms with a fixed schema write null where a row has no such field.
    pub columns: Map<String, Value>,
}

/// Reads one JSON object a line. Blank lines are skipped, CRLF and a byte order mark at the start are accepted.
#[derive(Debug)]
pub struct JsonlReader<R> {
    input: R,
    path: PathBuf,
    line: usize,
    index: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> JsonlReader<R> {
    /// Reads from anything; `path` is what errors name.
    pub fn new(input: R, path: &Path) -> Self {
        Self { input, path: path.to_owned(), line: 0, index: 0, buffer: Vec::new() }
    }

    /// The next line that is not blank is now in the buffer; false at the end of the file.
    fn next_line(&mut self) -> Result<bool, DataError> {
        loop {
            self.buffer.clear();
            let mut bounded = self.input.by_ref().take(LONGEST_ROW as u64 + 1);
            let read = bounded
                .read_until(b'\n', &mut self.buffer)
                .map_err(|source| broken_off(&self.path, self.line, source))?;
            if read == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            if self.buffer.len() > LONGEST_ROW {
                return Err(self.wrong(RowError::TooLong { limit: LONGEST_ROW }));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn wrong(&self, problem: RowError) -> DataError {
        DataError::Row {
            place: Place::new(&self.path, Numbering::Lines, self.line),
            problem: Box::new(problem),
        }
    }
}

impl<R: BufRead> Iterator for JsonlReader<R> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_line() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error)),
        }
        let row = match parse(&self.buffer) {
            Ok(columns) => Ok(Row { index: self.index, line: self.line, columns }),
            Err(problem) => Err(self.wrong(problem)),
        };
        self.index += 1;
        Some(row)
    }
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, RowError> {
    let text = std::str::from_utf8(line.trim_ascii_end())
        .map_err(|error| RowError::InvalidUtf8 { byte: error.valid_up_to() + 1 })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(columns)) => Ok(without_nulls(columns)),
        Ok(other) => Err(RowError::NotAnObject { found: kind(&other) }),
        Err(error) => Err(RowError::MalformedJson { message: parser_words(&error), column: error.column() }),
    }
}

/// The parser's message without its own line and column.
pub(super) fn parser_words(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    }
}

/// An object without its fields that are null, and so on within.
pub(super) fn without_nulls(mut object: Map<String, Value>) -> Map<String, Value> {
    object.retain(|_, value| !value.is_null());
    for value in object.values_mut() {
        drop_nulls(value);
    }
    object
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => *fields = without_nulls(std::mem::take(fields)),
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A JSON value's kind with its article, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The error of a file that could be read up to the end of a line and no further.
pub(super) fn broken_off(path: &Path, line: usize, source: std::io::Error) -> DataError {
    match line {
        0 => read_error(path, source),
        line => DataError::BrokenOff { path: path.to_owned(), line, source },
    }
}

pub(crate) fn read_error(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read { path: path.to_owned(), source }
}
