//! A row's columns -> a typed preference row.
//!
//! Boundary: this file alone knows column names. It checks types and nothing else: whether an answer is empty
//! or a conversation makes sense to the template is found in [`super::encode`].

use serde_json::{Map, Value};

use super::error::RowError;
use super::rows::kind;

/// One message of a conversation: an object with at least the strings `role` and `content`. Further fields
/// (`name`, ...) are kept for the chat template.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of these two fields.
    pub fn new(role: &str, content: &str) -> Self {
        let fields = [("role", role), ("content", content)];
        Self(fields.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect())
    }

    /// Who speaks: `system`, `user`, `assistant`, ...
    pub fn role(&self) -> &str {
        self.field("role")
    }

    /// What is said.
    pub fn content(&self) -> &str {
        self.field("content")
    }

    /// All its fields, in the order of the row.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    fn field(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A preference row in one of the three kinds a file may hold; all three columns are of the same kind.
#[derive(Clone, Debug, PartialEq)]
pub enum PreferenceRow {
    /// Plain text.
    Text {
        /// What is answered.
        prompt: String,
        /// The preferred answer.
        chosen: String,
        /// The other one.
        rejected: String,
    },
    /// Lists of messages; the answers hold the messages that follow the prompt's.
    Conversation {
        /// The messages up to the answer.
        prompt: Vec<Message>,
        /// The messages of the preferred answer, usually one.
        chosen: Vec<Message>,
        /// The messages of the other one.
        rejected: Vec<Message>,
    },
    /// Token ids, used as they are.
    Tokens {
        /// The prompt's, BOS included.
        prompt: Vec<u32>,
        /// The preferred answer's, end token included, without the prompt.
        chosen: Vec<u32>,
        /// The other one's.
        rejected: Vec<u32>,
    },
}

const TEXT: [&str; 3] = ["prompt", "chosen", "rejected"];
const TOKENS: [&str; 3] = ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"];

const TEXT_OR_MESSAGES: &str = "a string or a list of messages";
const TOKEN_IDS: &str = "a list of token ids";

impl PreferenceRow {
    /// Reads the columns `prompt`, `chosen`, `rejected`, or their `*_input_ids` where any of those is present.
    /// Other columns are ignored.
    ///
    /// # Errors
    /// A [`RowError`] naming the missing or mistyped column and what was found.
    pub fn from_columns(columns: &Map<String, Value>) -> Result<Self, RowError> {
        if TOKENS.iter().any(|name| columns.contains_key(*name)) {
            let [prompt, chosen, rejected] = TOKENS.map(|name| token_ids(columns, name));
            return Ok(Self::Tokens { prompt: prompt?, chosen: chosen?, rejected: rejected? });
        }
        let [prompt, chosen, rejected] = TEXT.map(|name| text_or_messages(columns, name));
        let (prompt, chosen, rejected) = (prompt?, chosen?, rejected?);
        match (prompt, chosen, rejected) {
            (Content::Text(prompt), Content::Text(chosen), Content::Text(rejected)) => {
                Ok(Self::Text { prompt, chosen, rejected })
            }
            (Content::Messages(prompt), Content::Messages(chosen), Content::Messages(rejected)) => {
                Ok(Self::Conversation { prompt, chosen, rejected })
            }
            (prompt, chosen, rejected) => {
                let (column, found) = if chosen.kind() == prompt.kind() {
                    ("rejected", rejected.kind())
                } else {
                    ("chosen", chosen.kind())
                };
                Err(RowError::MixedColumns { prompt: prompt.kind(), column, found })
            }
        }
    }
}

/// A column that may be either.
pub(crate) enum Content {
    /// A string.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Content {
    fn kind(&self) -> &'static str {
        match self {
            Content::Text(_) => "a string",
            Content::Messages(_) => "a list of messages",
        }
    }
}

fn column<'a>(columns: &'a Map<String, Value>, name: &'static str) -> Result<&'a Value, RowError> {
    columns.get(name).ok_or_else(|| RowError::MissingColumn { column: name, found: present(columns) })
}

/// The columns a row has, at most eight of them by name.
fn present(columns: &Map<String, Value>) -> String {
    const SHOWN: usize = 8;
    if columns.is_empty() {
        return "no columns".to_owned();
    }
    let mut list = columns.keys().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if columns.len() > SHOWN {
        list.push_str(&format!(" and {} more", columns.len() - SHOWN));
    }
    list
}

pub(crate) fn text_or_messages(
    columns: &Map<String, Value>,
    name: &'static str,
) -> Result<Content, RowError> {
    match column(columns, name)? {
        Value::String(text) => Ok(Content::Text(text.clone())),
        Value::Array(list) => {
            let messages = list.iter().enumerate().map(|(index, value)| message(name, index, value));
            messages.collect::<Result<_, _>>().map(Content::Messages)
        }
        other => Err(mistyped(name, String::new(), kind(other).to_owned(), TEXT_OR_MESSAGES)),
    }
}

fn message(name: &'static str, index: usize, value: &Value) -> Result<Message, RowError> {
    let place = format!(", message {}", index + 1);
    let Value::Object(fields) = value else {
        let expected = "an object with \"role\" and \"content\"";
        return Err(mistyped(name, place, kind(value).to_owned(), expected));
    };
    for key in ["role", "content"] {
        match fields.get(key) {
            Some(Value::String(_)) => {}
            Some(other) => {
                let place = format!("{place}, \"{key}\"");
                return Err(mistyped(name, place, kind(other).to_owned(), "a string"));
            }
            None => {
                let found = format!("no \"{key}\"");
                return Err(mistyped(name, place, found, "an object with \"role\" and \"content\""));
            }
        }
    }
    Ok(Message(fields.clone()))
}

pub(crate) fn token_ids(columns: &Map<String, Value>, name: &'static str) -> Result<Vec<u32>, RowError> {
    let list = match column(columns, name)? {
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
            mistyped(name, format!(", position {position},"), found, "a token id")
        })
    });
    ids.collect()
}

fn mistyped(column: &'static str, place: String, found: String, expected: &'static str) -> RowError {
    RowError::MistypedColumn { column, place, found, expected }
}
