//! What one row of data is after encoding: a prompt and the answers given to it.
//!
//! Boundary: token ids and plain facts; how a group is laid out in memory is [`super::batch`]'s business.

/// What an answer is to its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// The preferred answer.
    Chosen,
    /// The answer it was preferred to.
    Rejected,
}

impl Role {
    /// The role's column name: `chosen`, `rejected`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Chosen => "chosen",
            Role::Rejected => "rejected",
        }
    }
}

/// One answer to a group's prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it is to the prompt.
    pub role: Role,
    /// Its tokens, the end token included; never empty in a loaded dataset.
    pub ids: Vec<u32>,
    /// The answer as rendered, before truncation, for display; kept only where the encoder was told to.
    pub text: Option<String>,
}

/// Summed log-probabilities under the reference model, filled in before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// Of the chosen answer's tokens.
    pub chosen: f64,
    /// Of the rejected answer's tokens.
    pub rejected: f64,
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
    /// Filled in by whoever computes reference log-probabilities.
    pub reference: Option<Reference>,
}

impl Group {
    /// The answer in this role, if the group has one.
    pub fn answer(&self, role: Role) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.role == role)
    }
}
