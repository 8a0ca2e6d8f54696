//! What one row of data is after encoding: a prompt and the answers given to it.
//!
//! Boundary: token ids and plain facts; how a group is laid out in memory is [`super::batch`]'s business.

use std::ops::Range;
use std::sync::Arc;

use super::annotations::{Annotations, Reference};
use super::role::{ByRole, Role};

/// One answer to a group's prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it is to the prompt.
    pub role: Role,
    /// Its tokens, the end token included; never empty in a loaded dataset.
    pub ids: Vec<u32>,
    /// `[ids]` which of them are scored, at least one in a loaded dataset; `None`: all. The others (the user's words
    /// in a conversation that goes on) are context: later tokens see them, nothing is learnt from predicting them.
    pub scored: Option<Vec<bool>>,
    /// The answer as rendered, before truncation, for display; kept only where the encoder was told to.
    pub text: Option<String>,
}

impl Answer {
    /// Whether the token at this position is scored.
    pub fn is_scored(&self, position: usize) -> bool {
        self.scored.as_ref().is_none_or(|scored| scored[position])
    }

    /// How many tokens are scored.
    pub fn scored_tokens(&self) -> usize {
        self.scored.as_ref().map_or(self.ids.len(), |scored| scored.iter().filter(|scored| **scored).count())
    }

    /// The first run of scored tokens: the turn that a model given everything before it is to write.
    pub fn first_turn(&self) -> Range<usize> {
        let positions = 0..self.ids.len();
        let start = positions.clone().find(|position| self.is_scored(*position)).unwrap_or(positions.end);
        let end = (start..positions.end).find(|position| !self.is_scored(*position)).unwrap_or(positions.end);
        start..end
    }
}

/// A prompt and its answers, as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// 0-based row of the data file, blank lines not counted; rows of a second file go on counting.
    pub row: usize,
    /// The prompt's tokens, BOS included; never empty in a loaded dataset.
    pub prompt: Vec<u32>,
    /// The answers, at most one of each role.
    pub answers: Vec<Answer>,
    /// What is known of it beside, if anything is.
    pub annotations: Option<Arc<Annotations>>,
}

impl Group {
    /// The answer in this role, if the group has one.
    pub fn answer(&self, role: Role) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.role == role)
    }

    /// What is known of it beside.
    pub fn annotations(&self) -> &Annotations {
        self.annotations.as_deref().unwrap_or(Annotations::NONE)
    }

    /// The same, to be changed.
    pub fn annotations_mut(&mut self) -> &mut Annotations {
        Arc::make_mut(self.annotations.get_or_insert_default())
    }

    /// Adds the log-probs of the answers under one more reference model.
    pub fn push_references(&mut self, references: ByRole<Option<Reference>>) {
        self.annotations_mut().push_references(references);
    }

    /// What a model is given to write the [first turn](Answer::first_turn) of the answer in this role: the prompt, and
    /// whatever the answer begins with that is not scored.
    pub fn context(&self, role: Role) -> Vec<u32> {
        let before = self.answer(role).map_or(&[][..], |answer| &answer.ids[..answer.first_turn().start]);
        [&self.prompt, before].concat()
    }
}
