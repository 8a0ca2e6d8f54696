//! A row with its prompt in a column of its own, by the rules with which training finds it (`docs/data.md`).
//!
//! | read as | written as |
//! |---|---|
//! | token ids | the same |
//! | text | the strings `prompt`, `chosen`, `rejected`; or `prompt`, `completion` |
//! | conversations, transcripts | the same names, as message lists |
//! | `messages` | `prompt`: what stands before the assistant's first turn; `completion`: the rest |
//!
//! Every other column stays as it is. The new row gives the token ids that the old one gave (a test). Boundary: nothing is
//! rendered or encoded.

use serde_json::{Map, Value};

use super::{Made, PrepareError, Report, Task};
use crate::data::{Example, Message, Parts};
use crate::progress::Progress;

/// Writes a file of explicit prompts.
///
/// # Errors
/// As [`Task::each_row`].
pub fn extract_prompt(task: &Task, progress: &mut dyn Progress) -> Result<Report, PrepareError> {
    task.each_row(false, progress, |shaped| Ok(explicit(shaped.example()?, &shaped.row.columns)))
}

/// The row of an example, with the columns that say something else taken over from the row it was read from.
pub fn explicit(example: Example, columns: &Map<String, Value>) -> Made {
    let made = match example {
        Example::Text(parts) => with_parts(parts, columns, Value::from),
        Example::Conversation(conversation) => with_parts(conversation.parts, columns, list),
        Example::Tokens(_) => columns.clone(),
        Example::Unusable(reason) => return Made::Nothing(reason.to_string()),
    };
    Made::Rows(vec![made])
}

/// Messages as a column.
pub fn list(messages: Vec<Message>) -> Value {
    messages.into_iter().map(|message| Value::Object(message.into_fields())).collect()
}

fn with_parts<T>(
    parts: Parts<T>,
    columns: &Map<String, Value>,
    value: impl Fn(T) -> Value,
) -> Map<String, Value> {
    let Parts { prompt, prompt_column, answers } = parts;
    let mut row = Map::new();
    let mut old = vec!["prompt".to_owned(), prompt_column];
    row.insert("prompt".to_owned(), value(prompt));
    for answer in answers {
        // One whole conversation of which every turn of the assistant's is learnt: the rest of it answers the prompt.
        let name = if answer.column == "messages" { "completion" } else { &answer.column };
        row.insert(name.to_owned(), value(answer.content));
        old.push(answer.column);
    }
    let others = columns.iter().filter(|(name, _)| !old.contains(name));
    row.extend(others.map(|(name, value)| (name.clone(), value.clone())));
    row
}
