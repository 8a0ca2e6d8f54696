//! One message of a conversation, as a chat template sees it.
//!
//! Boundary: the form of a message and nothing else; which roles make sense together is found in [`super::encode`] and by
//! the template.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::error::RowError;
use super::rows::kind;

/// The role whose turns are answers.
pub const ASSISTANT: &str = "assistant";
/// The role that asks.
pub const USER: &str = "user";

const MESSAGE: &str = "an object with \"role\" and \"content\"";

/// One message of a conversation: an object with the string `role` and, unless it calls tools, the string `content`.
/// Further fields (`name`, `tool_calls`, ...) are kept for the chat template.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of these two fields.
    pub fn new(role: &str, content: &str) -> Self {
        let fields = [("role", role), ("content", content)];
        Self(fields.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect())
    }

    /// Reads message `index` (from 0) of a column.
    ///
    /// Content may be a list of parts, if all of them are text. Fields that are null are left out: data sets of one schema
    /// have them where a message has no such field.
    ///
    /// # Errors
    /// A [`RowError::MistypedColumn`] naming the message and what was found, such as a part that is no text.
    pub fn read(column: &str, index: usize, value: &Value) -> Result<Self, RowError> {
        let place = format!(", message {}", index + 1);
        let mistyped = |place: String, found: String, expected: &'static str| RowError::MistypedColumn {
            column: column.to_owned(),
            place,
            found,
            expected,
        };
        let Value::Object(fields) = value else {
            return Err(mistyped(place, kind(value).to_owned(), MESSAGE));
        };
        let given = fields.iter().filter(|(key, value)| !value.is_null() || key.as_str() == "content");
        let fields: Map<String, Value> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
        match fields.get("role") {
            Some(Value::String(_)) => {}
            Some(other) => {
                let found = kind(other).to_owned();
                return Err(mistyped(format!("{place}, \"role\""), found, "a string"));
            }
            None if fields.contains_key("from") => {
                let found = "\"from\" and no \"role\"".to_owned();
                return Err(mistyped(
                    place,
                    found,
                    "the names \"role\" and \"content\" for \"from\" and \"value\"",
                ));
            }
            None => return Err(mistyped(place, "no \"role\"".to_owned(), MESSAGE)),
        }
        let place = format!("{place}, \"content\"");
        match fields.get("content") {
            Some(Value::String(_)) => {}
            Some(Value::Array(parts)) => {
                for (part, value) in parts.iter().enumerate() {
                    text_of(value).map_err(|found| {
                        let place = format!("{place}, part {}", part + 1);
                        mistyped(place, found, "a part of type \"text\": nothing else can be trained on")
                    })?;
                }
            }
            None | Some(Value::Null) if fields.contains_key("tool_calls") => {}
            Some(other) => {
                let found = kind(other).to_owned();
                return Err(mistyped(place, found, "a string or a list of text parts"));
            }
            None => {
                let place = format!(", message {}", index + 1);
                return Err(mistyped(place, "no \"content\"".to_owned(), MESSAGE));
            }
        }
        Ok(Self(fields))
    }

    /// Who speaks: `system`, `user`, `assistant`, ...
    pub fn role(&self) -> &str {
        self.field("role")
    }

    /// What is said, parts one after the other; empty for a message that only calls tools.
    pub fn content(&self) -> Cow<'_, str> {
        match self.0.get("content") {
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| text_of(part).ok()).collect(),
            _ => Cow::Borrowed(self.field("content")),
        }
    }

    /// All its fields, in the order of the row.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// All its fields, taken out.
    pub fn into_fields(self) -> Map<String, Value> {
        self.0
    }

    /// The same message saying this instead.
    pub fn with_content(mut self, content: &str) -> Self {
        self.0.insert("content".to_owned(), Value::from(content));
        self
    }

    /// Whether this is a turn of the assistant's.
    pub fn is_answer(&self) -> bool {
        self.role() == ASSISTANT
    }

    /// Whether it says nothing and calls nothing.
    pub fn is_silent(&self) -> bool {
        self.content().is_empty() && !self.0.contains_key("tool_calls")
    }

    fn field(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The text of a part of some content; or what it is instead.
fn text_of(part: &Value) -> Result<&str, String> {
    match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err("a part without \"text\"".to_owned()),
        (Some(other), _) => Err(format!("a part of type \"{other}\"")),
        (None, _) => Err(kind(part).to_owned()),
    }
}
