//! What is known of a group beside its tokens: what the data say of it, and log-probs that other models gave it.
//!
//! Per-token lists are as long as the answer has *scored* tokens, in their order, as a span is. Boundary: values only;
//! columns are read in [`super::columns`], reference log-probs filled in by whoever computes them.

use serde::{Deserialize, Serialize};

use super::role::{ByRole, Role, Roles};

/// Log-probs of one answer under one reference model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reference {
    /// Of its scored tokens together.
    Sum(f64),
    /// Of every scored token.
    Tokens(Box<[f32]>),
}

impl Reference {
    /// The summed log-prob; tokens are added up in f64, in order, as [`crate::objective::Scored::sum`] does.
    pub fn sum(&self) -> f64 {
        match self {
            Reference::Sum(sum) => *sum,
            Reference::Tokens(logps) => logps.iter().fold(0.0, |sum, &logp| sum + f64::from(logp)),
        }
    }
}

/// What the data may say of a row beside its prompt and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Annotation {
    /// Whether the completion is one to learn: `label`.
    Label,
    /// What each answer was given by a judge: `score`, or `score_chosen` and `score_rejected`.
    Score,
    /// How sure the preference is: `soft_label`.
    SoftLabel,
    /// A weight for every token of both answers: `chosen_weights`, `rejected_weights`.
    Weights,
    /// An advantage for every token of the completion: `advantages`.
    Advantages,
    /// The log-prob of every token of the completion under the policy that wrote it: `old_logps`.
    OldLogps,
    /// An embedding of the prompt: `prompt_embedding`.
    PromptEmbedding,
    /// How sure models were of the answer: `confidence`.
    Confidence,
}

impl Annotation {
    /// The columns that hold it, for rows with these answers.
    pub fn columns(self, answers: Roles) -> &'static [&'static str] {
        match self {
            Annotation::Label => &["label"],
            Annotation::Score if answers.contains(Role::Completion) => &["score"],
            Annotation::Score => &["score_chosen", "score_rejected"],
            Annotation::SoftLabel => &["soft_label"],
            Annotation::Weights => &["chosen_weights", "rejected_weights"],
            Annotation::Advantages => &["advantages"],
            Annotation::OldLogps => &["old_logps"],
            Annotation::PromptEmbedding => &["prompt_embedding"],
            Annotation::Confidence => &["confidence"],
        }
    }
}

/// What is known of one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerAnnotations {
    /// One for each reference model, in the order in which they were named.
    pub references: Vec<Reference>,
    /// What a judge or a reward model gave it.
    pub score: Option<f64>,
    /// How much each token counts (TIS-DPO), or 1 where it differs from the other answer's (BMC).
    pub weights: Option<Box<[f32]>>,
    /// Advantage of each token (APA).
    pub advantages: Option<Box<[f32]>>,
    /// Log-prob of each token under the policy that wrote it (APA).
    pub old_logps: Option<Box<[f32]>>,
}

impl AnswerAnnotations {
    /// Nothing is known.
    pub const NONE: &AnswerAnnotations = &EMPTY;
}

const EMPTY: AnswerAnnotations = AnswerAnnotations {
    references: Vec::new(),
    score: None,
    weights: None,
    advantages: None,
    old_logps: None,
};

/// What is known of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Annotations {
    /// Whether the completion is one to learn (KTO's `label`).
    pub label: Option<bool>,
    /// Probability that the chosen answer is the better one.
    pub soft_label: Option<f64>,
    /// An embedding of the prompt, of one length in the whole data set.
    pub prompt_embedding: Option<Box<[f32]>>,
    /// How sure models were of the answer; larger is surer.
    pub confidence: Option<f64>,
    /// Of each answer.
    pub answers: ByRole<AnswerAnnotations>,
}

impl Annotations {
    /// Nothing is known.
    pub const NONE: &Annotations = &Annotations {
        label: None,
        soft_label: None,
        prompt_embedding: None,
        confidence: None,
        answers: ByRole::new([EMPTY; Role::ALL.len()]),
    };

    /// Adds the log-probs of the answers under one more reference model.
    pub fn push_references(&mut self, references: ByRole<Option<Reference>>) {
        for (role, reference) in references.present() {
            self.answers[role].references.push(reference.clone());
        }
    }
}
