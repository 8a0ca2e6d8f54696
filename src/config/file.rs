//! A TOML file as a flat list of keys, each with its line, so that every error can name both.

use std::collections::HashMap;
use std::path::Path;

use toml::de::DeTable;
use toml::{Spanned, Value};

use super::ConfigError;

/// One `key = value` of the file.
pub(crate) struct Entry {
    /// The key as it is written.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The line of the key, from 1.
    pub line: usize,
}

/// Reads the top-level entries of a TOML file in the order of the file.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let syntax = |(line, column): (usize, usize), message: String| ConfigError::Syntax {
        path: path.to_owned(),
        line,
        column,
        message,
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        syntax(position(&valid, valid.len()), "not UTF-8".to_owned())
    })?;
    let entries: HashMap<Spanned<String>, Spanned<Value>> = toml::from_str(text).map_err(|error| {
        // The parser goes on after a mistake; what it meets later is often only a consequence of the first.
        let (_, errors) = DeTable::parse_recoverable(text);
        let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let first = errors.into_iter().min_by_key(start).unwrap_or(error);
        syntax(position(text, start(&first)), first.message().replace('\n', ", "))
    })?;
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (Spanned<String>, Spanned<Value>)| Entry {
        line: position(text, key.span().start).0,
        key: key.into_inner(),
        value: value.into_inner(),
    };
    Ok(entries.into_iter().map(entry).collect())
}

/// Line and column (in characters) of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
