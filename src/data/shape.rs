//! The shape of a file: which columns hold what. The first row decides, every other row must agree.
//!
//! | columns | read as |
//! |---|---|
//! | `prompt_input_ids`, `chosen_input_ids`, `rejected_input_ids` | token ids |
//! | `prompt`, `chosen`, `rejected`: strings | plain text |
//! | `prompt`, `chosen`, `rejected`: message lists | conversations |
//! | `chosen`, `rejected`: message lists | whole conversations; the prompt is what both begin with |
//! | the same beside a string `prompt` | the same: the string says again what is in the lists (TRL's rule) |
//! | `chosen`, `rejected`: HH transcripts | the same, after [`super::hh::parse`] |
//! | `chosen`, `rejected`: other strings | plain text; the prompt is the text both begin with |
//! | `prompt`, `completion` | a demonstration |
//! | `messages`, or `chosen` alone as a whole conversation | a demonstration of every turn of the assistant's |
//!
//! Boundary: from columns to an [`Example`]; nothing is rendered or encoded. Not looked at: any other column.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::columns::{ColumnMap, Columns, Content};
use super::encode::Reason;
use super::error::RowError;
use super::example::{Conversation, Example, Part, Parts};
use super::hh;
use super::message::Message;
use super::place::Numbering;
use super::prompt::{before_first_answer, shared_messages, shared_text};
use super::role::Role;
use super::template::Variables;

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    layout: Layout,
    kind: RowKind,
    /// Whether there is a rejected answer.
    rejected: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Layout {
    /// `prompt`, `chosen`, `rejected`.
    Prompted,
    /// `chosen`, `rejected`, each with the prompt in it.
    Whole,
    /// [`Layout::Whole`] beside a string `prompt`.
    WholeBesidePrompt,
    /// `prompt`, `completion`.
    Completion,
    /// `messages`.
    Messages,
}

/// What a row's columns hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// Token ids.
    Tokens,
    /// Strings.
    Text,
    /// Lists of messages.
    Messages,
    /// Strings that are HH transcripts.
    Transcript,
}

/// How the rows of one file are read, and what the log says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileShape {
    /// The shape of every row.
    pub shape: Shape,
    /// 1-based line of the row that decided it.
    pub line: usize,
    /// How places in the file are counted.
    pub numbering: Numbering,
    /// The columns in use, under their names in the file.
    pub used: Vec<String>,
    /// The other columns of that row.
    pub ignored: Vec<String>,
}

impl Shape {
    /// Whether every row has a rejected answer.
    pub fn has_rejected(self) -> bool {
        self.rejected
    }

    /// What its columns hold.
    pub fn kind(self) -> RowKind {
        self.kind
    }

    /// The columns of this shape, the optional ones for the chat template last.
    fn columns(self) -> Vec<&'static str> {
        let rejected = self.rejected.then_some("rejected");
        let mut columns = match (self.layout, self.kind) {
            (_, RowKind::Tokens) => {
                let rejected = self.rejected.then_some("rejected_input_ids");
                ["prompt_input_ids", "chosen_input_ids"].into_iter().chain(rejected).collect()
            }
            (Layout::Prompted, _) => ["prompt", "chosen"].into_iter().chain(rejected).collect(),
            (Layout::Whole | Layout::WholeBesidePrompt, _) => {
                std::iter::once("chosen").chain(rejected).collect()
            }
            (Layout::Completion, _) => vec!["prompt", "completion"],
            (Layout::Messages, _) => vec!["messages"],
        };
        if self.kind == RowKind::Messages {
            columns.extend(VARIABLES);
        }
        columns
    }
}

/// Columns that a chat template gets.
const VARIABLES: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let required = columns.iter().filter(|column| !VARIABLES.contains(column));
        write!(f, "{}", required.copied().collect::<Vec<_>>().join(", "))?;
        f.write_str(match (self.layout, self.kind) {
            (_, RowKind::Tokens) => " as token ids",
            (Layout::Messages, _) => " as a list",
            (Layout::Whole | Layout::WholeBesidePrompt, RowKind::Messages) => " as whole conversations",
            (_, RowKind::Transcript) => " as Human/Assistant transcripts",
            (Layout::Whole, _) => " as strings that begin with the prompt",
            (_, RowKind::Messages) => " as message lists",
            (_, RowKind::Text) => " as strings",
        })?;
        if self.layout == Layout::WholeBesidePrompt {
            f.write_str(" (the string prompt beside them is not used)")?;
        }
        Ok(())
    }
}

impl fmt::Display for FileShape {
    /// The shape, the columns in use, and those that are not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; columns used: {}", self.shape, self.used.join(", "))?;
        match self.ignored.as_slice() {
            [] => Ok(()),
            ignored => write!(f, "; ignored: {}", ignored.join(", ")),
        }
    }
}

impl FileShape {
    /// The shape of the file whose first row this is, at this place.
    ///
    /// # Errors
    /// A mapped column that is not there, columns that make no shape or are of the wrong type, or no rejected answers
    /// where they are needed.
    pub fn of(
        row: &Map<String, Value>,
        (numbering, line): (Numbering, usize),
        map: &ColumnMap,
        needs_rejected: bool,
    ) -> Result<Self, RowError> {
        let columns = Columns::new(row, map);
        if let Some((canonical, actual)) = map.missing_in(row) {
            let found = columns.present();
            return Err(RowError::MappedColumn { canonical, actual: actual.to_owned(), found });
        }
        let (shape, _) = read(&columns, None)?;
        if needs_rejected && !shape.rejected {
            return Err(match shape.layout {
                Layout::Prompted if shape.kind == RowKind::Tokens => columns.missing("rejected_input_ids"),
                Layout::Prompted | Layout::Whole | Layout::WholeBesidePrompt => columns.missing("rejected"),
                _ => RowError::NotAPair { shape },
            });
        }
        let known = shape.columns();
        let used: Vec<String> = known
            .into_iter()
            .filter(|column| columns.has(column))
            .map(|column| columns.name(column))
            .collect();
        let ignored = row.keys().filter(|name| !used.contains(name)).cloned().collect();
        Ok(Self { shape, line, numbering, used, ignored })
    }

    /// Reads a row of the file.
    ///
    /// # Errors
    /// Columns that are missing or mistyped, or another shape than the file's.
    pub fn read(&self, row: &Map<String, Value>, map: &ColumnMap) -> Result<Example, RowError> {
        let transcripts = Some(self.shape.kind == RowKind::Transcript);
        let columns = Columns::new(row, map);
        let (shape, example) = read(&columns, transcripts)?;
        if shape == self.shape {
            return Ok(example);
        }
        if self.shape.rejected && !shape.rejected && shape.layout == self.shape.layout {
            let tokens = shape.kind == RowKind::Tokens;
            return Err(columns.missing(if tokens { "rejected_input_ids" } else { "rejected" }));
        }
        Err(RowError::OtherShape {
            shape,
            first: self.shape,
            numbering: self.numbering,
            first_line: self.line,
        })
    }
}

/// Reads a row by itself. Strings without a prompt are transcripts or not, as the file's first row says; of the first row
/// itself, as it begins.
fn read(columns: &Columns<'_>, transcripts: Option<bool>) -> Result<(Shape, Example), RowError> {
    let has = |name| columns.has(name);
    if ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"].into_iter().any(has) {
        return read_tokens(columns);
    }
    if has("chosen") || has("rejected") || (has("prompt") && !has("completion")) {
        return read_answers(columns, transcripts);
    }
    if has("completion") {
        return read_completion(columns);
    }
    if has("messages") {
        return match columns.content("messages")? {
            Content::Messages(messages) => {
                let shape = Shape { layout: Layout::Messages, kind: RowKind::Messages, rejected: false };
                Ok((shape, demonstration(columns, "messages", messages, variables(columns)?, false)))
            }
            Content::Text(_) => Err(RowError::MistypedColumn {
                column: columns.name("messages"),
                place: String::new(),
                found: "a string".to_owned(),
                expected: "a list of messages",
            }),
        };
    }
    Err(RowError::NoShape { found: columns.present() })
}

fn read_tokens(columns: &Columns<'_>) -> Result<(Shape, Example), RowError> {
    let prompt = columns.token_ids("prompt_input_ids")?;
    let mut answers =
        vec![part(columns, Role::Chosen, "chosen_input_ids", columns.token_ids("chosen_input_ids")?)];
    let rejected = columns.has("rejected_input_ids");
    if rejected {
        let ids = columns.token_ids("rejected_input_ids")?;
        answers.push(part(columns, Role::Rejected, "rejected_input_ids", ids));
    }
    let shape = Shape { layout: Layout::Prompted, kind: RowKind::Tokens, rejected };
    Ok((shape, Example::Tokens(Parts { prompt, prompt_column: columns.name("prompt_input_ids"), answers })))
}

/// `chosen` and `rejected`, with or without `prompt`.
fn read_answers(columns: &Columns<'_>, transcripts: Option<bool>) -> Result<(Shape, Example), RowError> {
    let prompt = columns.has("prompt").then(|| columns.content("prompt")).transpose()?;
    let chosen = columns.content("chosen")?;
    let rejected = columns.has("rejected").then(|| columns.content("rejected")).transpose()?;
    let has_rejected = rejected.is_some();
    let shape = |layout, kind| Shape { layout, kind, rejected: has_rejected };
    let (chosen, rejected) = match (chosen, rejected) {
        (Content::Text(chosen), None) => (Content::Text(chosen), None),
        (Content::Text(chosen), Some(Content::Text(rejected))) => {
            (Content::Text(chosen), Some(Content::Text(rejected)))
        }
        (Content::Messages(chosen), rejected @ (None | Some(Content::Messages(_)))) => {
            (Content::Messages(chosen), rejected)
        }
        (chosen, Some(rejected)) => {
            return Err(mixed(columns, ("chosen", chosen.kind()), ("rejected", rejected.kind())));
        }
    };
    match (prompt, chosen) {
        (Some(Content::Text(prompt)), Content::Text(chosen)) => {
            let rejected = rejected.and_then(text);
            let parts = parts(columns, "prompt", prompt, chosen, rejected);
            Ok((shape(Layout::Prompted, RowKind::Text), Example::Text(parts)))
        }
        (Some(Content::Messages(prompt)), Content::Messages(chosen)) => {
            let parts = parts(columns, "prompt", prompt, chosen, rejected.and_then(messages));
            let example = conversation(parts, variables(columns)?, false);
            Ok((shape(Layout::Prompted, RowKind::Messages), example))
        }
        (Some(prompt @ Content::Messages(_)), chosen) => {
            Err(mixed(columns, ("prompt", prompt.kind()), ("chosen", chosen.kind())))
        }
        (prompt, Content::Messages(chosen)) => {
            let beside = prompt.is_some();
            let layout = if beside { Layout::WholeBesidePrompt } else { Layout::Whole };
            let rejected = rejected.and_then(messages);
            if beside && chosen.first().is_some_and(Message::is_answer) {
                return Err(RowError::PromptNotInLists {
                    prompt: columns.name("prompt"),
                    list: columns.name("chosen"),
                });
            }
            let example = whole(columns, chosen, rejected, variables(columns)?, false);
            Ok((shape(layout, RowKind::Messages), example))
        }
        (None, Content::Text(chosen)) => {
            let rejected = rejected.and_then(text);
            match transcripts.unwrap_or_else(|| hh::is_transcript(&chosen)) {
                true => Ok((
                    shape(Layout::Whole, RowKind::Transcript),
                    read_transcripts(columns, &chosen, rejected),
                )),
                false => {
                    let rejected = rejected.ok_or_else(|| columns.missing("prompt"))?;
                    Ok((shape(Layout::Whole, RowKind::Text), split_text(columns, &chosen, &rejected)))
                }
            }
        }
    }
}

fn read_completion(columns: &Columns<'_>) -> Result<(Shape, Example), RowError> {
    let (prompt, completion) = (columns.content("prompt")?, columns.content("completion")?);
    let shape = |kind| Shape { layout: Layout::Completion, kind, rejected: false };
    match (prompt, completion) {
        (Content::Text(prompt), Content::Text(completion)) => {
            let answers = vec![part(columns, Role::Chosen, "completion", completion)];
            let parts = Parts { prompt, prompt_column: columns.name("prompt"), answers };
            Ok((shape(RowKind::Text), Example::Text(parts)))
        }
        (Content::Messages(prompt), Content::Messages(completion)) => {
            let answers = vec![part(columns, Role::Chosen, "completion", completion)];
            let parts = Parts { prompt, prompt_column: columns.name("prompt"), answers };
            Ok((shape(RowKind::Messages), conversation(parts, variables(columns)?, false)))
        }
        (prompt, completion) => {
            Err(mixed(columns, ("prompt", prompt.kind()), ("completion", completion.kind())))
        }
    }
}

fn read_transcripts(columns: &Columns<'_>, chosen: &str, rejected: Option<String>) -> Example {
    let Some(chosen) = hh::parse(chosen) else {
        return Example::Unusable(Reason::NoTranscript(Role::Chosen));
    };
    let rejected = match rejected.map(|rejected| hh::parse(&rejected)) {
        Some(None) => return Example::Unusable(Reason::NoTranscript(Role::Rejected)),
        rejected => rejected.flatten(),
    };
    whole(columns, chosen, rejected, Variables::default(), true)
}

/// Conversations with the prompt in them.
fn whole(
    columns: &Columns<'_>,
    mut chosen: Vec<Message>,
    rejected: Option<Vec<Message>>,
    variables: Variables,
    transcript: bool,
) -> Example {
    let Some(mut rejected) = rejected else {
        return demonstration(columns, "chosen", chosen, variables, transcript);
    };
    let shared = shared_messages(&chosen, &rejected);
    let (answer, rejected) = (chosen.split_off(shared), rejected.split_off(shared));
    conversation(parts(columns, "chosen", chosen, answer, Some(rejected)), variables, transcript)
}

/// One conversation, of which every turn of the assistant's is an answer.
fn demonstration(
    columns: &Columns<'_>,
    column: &str,
    mut messages: Vec<Message>,
    variables: Variables,
    transcript: bool,
) -> Example {
    if messages.last().is_some_and(|last| !last.is_answer()) {
        return Example::Unusable(Reason::LastTurn(Role::Chosen));
    }
    let answer = messages.split_off(before_first_answer(&messages));
    let answers = vec![part(columns, Role::Chosen, column, answer)];
    let parts = Parts { prompt: messages, prompt_column: columns.name(column), answers };
    conversation(parts, variables, transcript)
}

fn split_text(columns: &Columns<'_>, chosen: &str, rejected: &str) -> Example {
    let border = shared_text(chosen, rejected);
    let (prompt, answer) = chosen.split_at(border);
    let [prompt, chosen, rejected] = [prompt, answer, &rejected[border..]].map(str::to_owned);
    Example::Text(parts(columns, "chosen", prompt, chosen, Some(rejected)))
}

fn conversation(parts: Parts<Vec<Message>>, variables: Variables, transcript: bool) -> Example {
    Example::Conversation(Box::new(Conversation { parts, variables, transcript }))
}

fn part<T>(columns: &Columns<'_>, role: Role, column: &str, content: T) -> Part<T> {
    Part { role, column: columns.name(column), content }
}

fn parts<T>(
    columns: &Columns<'_>,
    prompt_column: &str,
    prompt: T,
    chosen: T,
    rejected: Option<T>,
) -> Parts<T> {
    let chosen = part(columns, Role::Chosen, "chosen", chosen);
    let rejected = rejected.map(|rejected| part(columns, Role::Rejected, "rejected", rejected));
    let answers = std::iter::once(chosen).chain(rejected).collect();
    Parts { prompt, prompt_column: columns.name(prompt_column), answers }
}

fn variables(columns: &Columns<'_>) -> Result<Variables, RowError> {
    let more = match columns.json("chat_template_kwargs", "an object")? {
        Some(Value::Object(more)) => more,
        _ => Map::new(),
    };
    let list = |name| columns.json(name, "a list");
    Ok(Variables { tools: list("tools")?, documents: list("documents")?, more })
}

fn mixed(columns: &Columns<'_>, one: (&str, &'static str), other: (&str, &'static str)) -> RowError {
    let (first, second) = (columns.name(one.0), columns.name(other.0));
    RowError::MixedColumns { first, first_kind: one.1, second, second_kind: other.1 }
}

fn text(content: Content) -> Option<String> {
    match content {
        Content::Text(text) => Some(text),
        Content::Messages(_) => None,
    }
}

fn messages(content: Content) -> Option<Vec<Message>> {
    match content {
        Content::Messages(messages) => Some(messages),
        Content::Text(_) => None,
    }
}
