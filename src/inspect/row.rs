//! One row as the tokens that training would make of it: the text of each, and what it is for.
//!
//! Boundary: from a [`Group`] that was encoded without a bound; `max_length` is applied here, so that what it cuts can be
//! shown.

use crate::data::{Group, Spans, Tokenizer};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The model learns to predict it.
    Scored,
    /// The model only reads it.
    Unscored,
    /// It is beyond the maximum length and never seen.
    Cut,
}

impl Use {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Use::Scored => "scored",
            Use::Unscored => "unscored",
            Use::Cut => "cut",
        }
    }
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text. Where several tokens make one character, the last one has it and the others have none.
    pub text: String,
    /// Whether it is a special token.
    pub special: bool,
    /// What it is for.
    pub used: Use,
}

/// A prompt or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `prompt`, or the answer's role.
    pub name: &'static str,
    /// Its tokens, those that are cut included.
    pub tokens: Vec<Token>,
}

impl Part {
    /// How many of its tokens are used so.
    pub fn count(&self, used: Use) -> usize {
        self.tokens.iter().filter(|token| token.used == used).count()
    }

    /// The tokens in runs of one use.
    pub fn runs(&self) -> impl Iterator<Item = &[Token]> {
        self.tokens.chunk_by(|one, next| one.used == next.used)
    }
}

/// A row's prompt and answers, in the order in which they are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowTokens {
    /// The prompt, then the answers.
    pub parts: Vec<Part>,
}

impl RowTokens {
    /// The tokens of a group that was encoded without a bound. `max_length` bounds prompt + each answer; `spans` says what
    /// the objective scores besides the answers' scored tokens.
    pub fn new(
        group: &Group,
        tokenizer: Option<&Tokenizer>,
        max_length: Option<usize>,
        spans: Spans,
    ) -> Self {
        let fits = |position: usize| max_length.is_none_or(|bound| position < bound);
        let token = |id: u32, text: String, position: usize, scored: bool| Token {
            id,
            text,
            special: tokenizer.is_some_and(|tokenizer| tokenizer.is_special(id)),
            used: match (fits(position), scored) {
                (false, _) => Use::Cut,
                (true, true) => Use::Scored,
                (true, false) => Use::Unscored,
            },
        };
        let prompt = group.prompt.iter().zip(texts(tokenizer, &[], &group.prompt)).enumerate();
        // Nothing predicts the first token.
        let prompt =
            prompt.map(|(position, (id, text))| token(*id, text, position, spans.prompt && position > 0));
        let mut parts = vec![Part { name: "prompt", tokens: prompt.collect() }];
        for answer in &group.answers {
            let texts = texts(tokenizer, &group.prompt, &answer.ids);
            let tokens = answer.ids.iter().zip(texts).enumerate().map(|(index, (id, text))| {
                token(*id, text, group.prompt.len() + index, answer.is_scored(index))
            });
            parts.push(Part { name: answer.role.name(), tokens: tokens.collect() });
        }
        Self { parts }
    }
}

/// The text of each token behind `context`; ids in angle brackets where there is no tokenizer.
fn texts(tokenizer: Option<&Tokenizer>, context: &[u32], ids: &[u32]) -> Vec<String> {
    match tokenizer {
        Some(tokenizer) => tokenizer.texts(context, ids),
        None => ids.iter().map(|id| format!("<{id}>")).collect(),
    }
}
