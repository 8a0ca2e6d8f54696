//! JSONL files -> rows: named columns, each row with its line number.
//!
//! Boundary: bytes and JSON only; what the columns mean is [`super::columns`]'s business. A reader of another
//! format (Parquet, a compressed file) yields the same [`Row`]s.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{DataError, RowError};

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// 0-based row of the file, blank lines not counted.
    pub index: usize,
    /// 1-based line of the file.
    pub line: usize,
    /// The columns in the order of the file.
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

impl JsonlReader<BufReader<fs_err::File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`DataError::Read`] where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = fs_err::File::open(path).map_err(|source| read_error(path, source))?;
        Ok(Self::new(BufReader::with_capacity(1 << 20, file), path))
    }
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
            let read = self
                .input
                .read_until(b'\n', &mut self.buffer)
                .map_err(|source| read_error(&self.path, source))?;
            if read == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
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
            Err(problem) => Err(DataError::Row { path: self.path.clone(), line: self.line, problem }),
        };
        self.index += 1;
        Some(row)
    }
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, RowError> {
    let text = std::str::from_utf8(line.trim_ascii_end())
        .map_err(|error| RowError::InvalidUtf8 { byte: error.valid_up_to() + 1 })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(columns)) => Ok(columns),
        Ok(other) => Err(RowError::NotAnObject { found: kind(&other) }),
        Err(error) => Err(RowError::MalformedJson { message: parser_words(&error), column: error.column() }),
    }
}

/// The parser's message without its own line number, which is always 1 here.
fn parser_words(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
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

pub(crate) fn read_error(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read { path: path.to_owned(), source }
}
