//! The names of columns: which ones are known, how a file may name them otherwise, and what type they have.
//!
//! Boundary: one column of one row at a time; which columns belong together is [`super::shape`]'s business.

use serde_json::{Map, Value};

use super::error::RowError;
use super::message::Message;
use super::rows::kind;

/// The columns of the shapes of data that are known, as `--map` names them.
pub const CANONICAL: [&str; 29] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "messages",
    "prompt_input_ids",
    "chosen_input_ids",
    "rejected_input_ids",
    "tools",
    "documents",
    "chat_template_kwargs",
    "reference_response",
    "reference_response_input_ids",
    "label",
    "score",
    "score_chosen",
    "score_rejected",
    "soft_label",
    "chosen_weights",
    "rejected_weights",
    "advantages",
    "old_logps",
    "prompt_embedding",
    "confidence",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "ref_logps",
    "candidates",
    "scores",
];

const TEXT_OR_MESSAGES: &str = "a string or a list of messages";
const TOKEN_IDS: &str = "a list of token ids";

/// Which columns of a file go by another name: pairs of (canonical, actual).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap(Vec<(&'static str, String)>);

/// Why a column map cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnMapError {
    /// Not of the form `canonical=actual`.
    #[error("\"{entry}\" is not of the form CANONICAL=ACTUAL, such as prompt=question")]
    NotAPair {
        /// What was given.
        entry: String,
    },
    /// The canonical name is none.
    #[error("there is no column \"{name}\" to map; the columns are {}", CANONICAL.join(", "))]
    Unknown {
        /// What was given.
        name: String,
    },
    /// One canonical name for two columns.
    #[error("column \"{name}\" is mapped twice")]
    Twice {
        /// The canonical name.
        name: &'static str,
    },
}

impl ColumnMap {
    /// Reads entries of the form `canonical=actual`.
    ///
    /// # Errors
    /// An entry of another form, a name that is not in [`CANONICAL`], or one that is given twice.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, ColumnMapError> {
        let mut map = Self::default();
        for entry in entries {
            let pair = entry.split_once('=').filter(|(name, actual)| !name.is_empty() && !actual.is_empty());
            let (name, actual) = pair.ok_or_else(|| ColumnMapError::NotAPair { entry: entry.to_owned() })?;
            let known = CANONICAL.into_iter().find(|canonical| *canonical == name);
            let name = known.ok_or_else(|| ColumnMapError::Unknown { name: name.to_owned() })?;
            if map.get(name).is_some() {
                return Err(ColumnMapError::Twice { name });
            }
            map.0.push((name, actual.to_owned()));
        }
        Ok(map)
    }

    /// The entries that [`ColumnMap::new`] reads.
    pub fn entries(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, actual)| format!("{name}={actual}"))
    }

    fn get(&self, canonical: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == canonical).map(|(_, actual)| actual.as_str())
    }

    /// The name that a column has in the file.
    pub fn actual<'a>(&'a self, canonical: &'a str) -> &'a str {
        self.get(canonical).unwrap_or(canonical)
    }

    /// The canonical name of a column that is mapped.
    pub fn canonical(&self, actual: &str) -> Option<&'static str> {
        self.0.iter().find(|(_, name)| name == actual).map(|(name, _)| *name)
    }

    /// The first mapped column that a row lacks, as (canonical, actual).
    pub fn missing_in(&self, row: &Map<String, Value>) -> Option<(&'static str, &str)> {
        let missing = self.0.iter().find(|(_, actual)| !row.contains_key(actual));
        missing.map(|(name, actual)| (*name, actual.as_str()))
    }
}

/// A row's columns under their canonical names. A column that holds null counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    row: &'a Map<String, Value>,
    map: &'a ColumnMap,
}

/// A column that is a text or a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A string.
    Text(String),
    /// A list of messages.
    Messages(Vec<Message>),
}

impl Content {
    /// What it is, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Content::Text(_) => "a string",
            Content::Messages(_) => "a list of messages",
        }
    }
}

impl<'a> Columns<'a> {
    /// The columns of a row.
    pub fn new(row: &'a Map<String, Value>, map: &'a ColumnMap) -> Self {
        Self { row, map }
    }

    /// What a column holds, if the row has it.
    pub fn get(&self, canonical: &str) -> Option<&'a Value> {
        let actual = match self.map.get(canonical) {
            Some(actual) => actual,
            // A column that goes by another name is not to be found under its own.
            None if self.map.0.iter().any(|(_, actual)| actual == canonical) => return None,
            None => canonical,
        };
        self.row.get(actual).filter(|value| !value.is_null())
    }

    /// Whether the row has a column.
    pub fn has(&self, canonical: &str) -> bool {
        self.get(canonical).is_some()
    }

    /// The column's name in the file.
    pub fn name(&self, canonical: &str) -> String {
        self.map.actual(canonical).to_owned()
    }

    /// The error that a row lacks a column.
    pub fn missing(&self, canonical: &str) -> RowError {
        RowError::MissingColumn { column: self.name(canonical), found: self.present() }
    }

    /// The columns a row has, at most eight of them by name.
    pub fn present(&self) -> String {
        const SHOWN: usize = 8;
        if self.row.is_empty() {
            return "no columns".to_owned();
        }
        let mut list = self.row.keys().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        if self.row.len() > SHOWN {
            list.push_str(&format!(" and {} more", self.row.len() - SHOWN));
        }
        list
    }

    /// A column that must be there, as text or messages.
    ///
    /// # Errors
    /// [`RowError::MissingColumn`], [`RowError::MistypedColumn`].
    pub fn content(&self, canonical: &str) -> Result<Content, RowError> {
        let name = self.name(canonical);
        match self.get(canonical).ok_or_else(|| self.missing(canonical))? {
            Value::String(text) => Ok(Content::Text(text.clone())),
            Value::Array(list) => {
                let messages =
                    list.iter().enumerate().map(|(index, value)| Message::read(&name, index, value));
                messages.collect::<Result<_, _>>().map(Content::Messages)
            }
            other => Err(mistyped(name, String::new(), kind(other).to_owned(), TEXT_OR_MESSAGES)),
        }
    }

    /// A column that must be there, as token ids.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub fn token_ids(&self, canonical: &str) -> Result<Vec<u32>, RowError> {
        let name = self.name(canonical);
        let list = match self.get(canonical).ok_or_else(|| self.missing(canonical))? {
            Value::Array(list) => list,
            other => return Err(mistyped(name, String::new(), kind(other).to_owned(), TOKEN_IDS)),
        };
        let ids = list.iter().enumerate().map(|(position, value)| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| {
                let found = match value {
                    Value::Number(number) => number.to_string(),
                    other => kind(other).to_owned(),
                };
                mistyped(name.clone(), format!(", position {position},"), found, "a token id")
            })
        });
        ids.collect()
    }

    /// A column of JSON for the chat template: given as it is, or, as data sets with one schema must, as a string.
    ///
    /// # Errors
    /// [`RowError::MistypedColumn`] where it is no `expected` (`"a list"`, `"an object"`).
    pub fn json(&self, canonical: &str, expected: &'static str) -> Result<Option<Value>, RowError> {
        let Some(value) = self.get(canonical) else { return Ok(None) };
        let value = match value {
            Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
            value => value.clone(),
        };
        match kind(&value) == expected {
            true => Ok(Some(value)),
            false => Err(mistyped(self.name(canonical), String::new(), kind(&value).to_owned(), expected)),
        }
    }
}

fn mistyped(column: String, place: String, found: String, expected: &'static str) -> RowError {
    RowError::MistypedColumn { column, place, found, expected }
}
