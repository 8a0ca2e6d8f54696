//! One JSON list of objects -> rows: what `json.dump(rows, file)` and `DataFrame.to_json(orient="records")` write.
//!
//! The list is never in memory as a whole: the end of each element is found by its brackets and quotes, then that
//! element alone is parsed.
//!
//! Boundary: as [`super::rows`]: bytes and JSON.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{DataError, RowError};
use super::place::{Numbering, Place};
use super::rows::{LONGEST_ROW, Row, broken_off, kind, parser_words, without_nulls};

/// Reads the objects of one JSON list. A row's line is the one on which its object begins.
#[derive(Debug)]
pub struct JsonListReader<R> {
    input: R,
    path: PathBuf,
    state: State,
    /// 1-based line and column of the next byte.
    line: usize,
    column: usize,
    index: usize,
    element: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Before the opening bracket.
    Start,
    /// After it: an element or the end.
    First,
    /// After an element: a comma or the end.
    Next,
    /// Nothing more is read.
    Ended,
}

impl<R: BufRead> JsonListReader<R> {
    /// Reads from anything; `path` is what errors name.
    pub fn new(input: R, path: &Path) -> Self {
        let path = path.to_owned();
        Self { input, path, state: State::Start, line: 1, column: 1, index: 0, element: Vec::new() }
    }

    /// The next byte, not taken; `None` at the end of the file.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            match self.input.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken_off(&self.path, self.line - 1, error)),
            }
        }
    }

    fn take(&mut self, byte: u8) {
        self.input.consume(1);
        self.passed(byte);
    }

    fn passed(&mut self, byte: u8) {
        match byte {
            b'\n' => (self.line, self.column) = (self.line + 1, 1),
            _ => self.column += 1,
        }
    }

    /// The next byte that is no white space, not taken.
    fn peek_word(&mut self) -> Result<Option<u8>, DataError> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take(byte);
        }
        Ok(None)
    }

    fn malformed(&self, message: &str) -> DataError {
        let problem = RowError::MalformedList { message: message.to_owned(), column: self.column };
        self.wrong(self.line, problem)
    }

    fn wrong(&self, line: usize, problem: RowError) -> DataError {
        DataError::Row { place: Place::new(&self.path, Numbering::Lines, line), problem: Box::new(problem) }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        if self.state == State::Start {
            for byte in *b"\xef\xbb\xbf" {
                if self.peek()? == Some(byte) {
                    self.input.consume(1);
                }
            }
            match self.peek_word()? {
                Some(b'[') => self.take(b'['),
                _ => return Err(self.malformed("expected `[`")),
            }
            self.state = State::First;
        }
        if self.state == State::Ended {
            return Ok(None);
        }
        let byte = self.peek_word()?;
        match (byte, self.state) {
            (None, _) => return Err(self.malformed("the file ends before the list does")),
            (Some(b']'), _) => {
                self.take(b']');
                self.state = State::Ended;
                return match self.peek_word()? {
                    None => Ok(None),
                    Some(_) => Err(self.malformed("trailing characters after the list")),
                };
            }
            (Some(b','), State::Next) => {
                self.take(b',');
                self.peek_word()?;
            }
            (Some(_), State::Next) => return Err(self.malformed("expected `,` or `]`")),
            (Some(_), _) => {}
        }
        self.state = State::Next;
        self.element().map(Some)
    }

    /// Takes an element: up to the bracket that closes it or, where it is a bare value, to what ends that.
    fn element(&mut self) -> Result<Row, DataError> {
        let (line, column) = (self.line, self.column);
        self.element.clear();
        let mut end = ElementEnd::default();
        while self.peek()?.is_some() {
            let bytes = self.input.fill_buf().map_err(|error| broken_off(&self.path, line, error))?;
            let (length, ended) = end.find(bytes);
            let start = self.element.len();
            self.element.extend_from_slice(&bytes[..length]);
            self.input.consume(length);
            for index in start..self.element.len() {
                self.passed(self.element[index]);
            }
            if self.element.len() > LONGEST_ROW {
                return Err(self.wrong(line, RowError::TooLong { limit: LONGEST_ROW }));
            }
            if ended {
                break;
            }
        }
        let columns = match parse(&self.element) {
            Ok(Value::Object(columns)) => without_nulls(columns),
            Ok(other) => return Err(self.wrong(line, RowError::ElementNotAnObject { found: kind(&other) })),
            Err(Malformed { words, line: within, column: at }) => {
                let column = if within == 1 { column + at.saturating_sub(1) } else { at.max(1) };
                let problem = match words {
                    Some(message) => RowError::MalformedList { message, column },
                    None => RowError::InvalidUtf8 { byte: column },
                };
                return Err(self.wrong(line + within - 1, problem));
            }
        };
        let row = Row { index: self.index, line, columns };
        self.index += 1;
        Ok(row)
    }
}

impl<R: BufRead> Iterator for JsonListReader<R> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if row.is_err() {
            self.state = State::Ended;
        }
        row.transpose()
    }
}

/// Finds the end of an element in the pieces of the input as they come.
#[derive(Default)]
struct ElementEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ElementEnd {
    /// How many of these bytes belong to the element, and whether it ends with them.
    fn find(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match (self.escaped, byte) {
                    (true, _) => self.escaped = false,
                    (false, b'\\') => self.escaped = true,
                    (false, b'"') => self.in_string = false,
                    (false, _) => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // A bracket too many is the list's own.
                b'}' | b']' if self.depth == 0 => return (index, true),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (index + 1, true);
                    }
                }
                b',' if self.depth == 0 => return (index, true),
                _ => {}
            }
        }
        (bytes.len(), false)
    }
}

/// An element that is no JSON.
struct Malformed {
    /// The parser's; none where the bytes are not UTF-8.
    words: Option<String>,
    /// 1-based line within the element.
    line: usize,
    /// 1-based byte of that line.
    column: usize,
}

fn parse(element: &[u8]) -> Result<Value, Malformed> {
    let text = std::str::from_utf8(element).map_err(|error| {
        let before = &element[..error.valid_up_to()];
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Malformed { words: None, line, column: before.len() - start + 1 }
    })?;
    if text.is_empty() {
        return Err(Malformed { words: Some("expected an object".to_owned()), line: 1, column: 1 });
    }
    serde_json::from_str(text).map_err(|error| Malformed {
        words: Some(parser_words(&error)),
        line: error.line().max(1),
        column: error.column(),
    })
}
