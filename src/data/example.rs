//! What one row says: a prompt and the answers given to it, as text, as messages, or as token ids already.
//!
//! Boundary: plain data between reading ([`super::shape`]) and encoding ([`super::encode`]).

use super::encode::Reason;
use super::message::Message;
use super::role::Role;
use super::template::Variables;

/// A row in one of the three kinds there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Plain text.
    Text(Parts<String>),
    /// Messages; the answers hold those that follow the prompt's.
    Conversation(Box<Conversation>),
    /// Token ids, used as they are: BOS is in the prompt, the end token in the answer.
    Tokens(Parts<Vec<u32>>),
    /// Nothing that could be encoded.
    Unusable(Reason),
}

/// A prompt and its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts<T> {
    /// What is answered; empty where two conversations share nothing.
    pub prompt: T,
    /// The column that the prompt was found in, for errors.
    pub prompt_column: String,
    /// The answers in the order of their roles.
    pub answers: Vec<Part<T>>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Part<T> {
    /// What it is to the prompt.
    pub role: Role,
    /// The column it was found in, for errors.
    pub column: String,
    /// The answer without the prompt.
    pub content: T,
}

/// A conversation with one or two endings.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// The messages.
    pub parts: Parts<Vec<Message>>,
    /// What the row gives the chat template besides.
    pub variables: Variables,
    /// Whether it comes from a transcript, which is text also without a chat template.
    pub transcript: bool,
}

impl<T> Parts<T> {
    /// A pair under the usual names of its columns; without a rejected answer, a demonstration.
    pub fn new(prompt: T, chosen: T, rejected: Option<T>) -> Self {
        let part = |role: Role, content| Part { role, column: role.name().to_owned(), content };
        let answers = std::iter::once(part(Role::Chosen, chosen));
        let answers = answers.chain(rejected.map(|rejected| part(Role::Rejected, rejected))).collect();
        Self { prompt, prompt_column: "prompt".to_owned(), answers }
    }
}

impl Conversation {
    /// A conversation that gives the template nothing but its messages.
    pub fn new(parts: Parts<Vec<Message>>) -> Self {
        Self { parts, variables: Variables::default(), transcript: false }
    }
}
