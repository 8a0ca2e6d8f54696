//! What an objective sees: log-probs of the scored spans of a group, with everything else that is known of them.

use std::ops::Range;

use crate::data::{Annotations, AnswerAnnotations, BatchGroup, ByRole, Reference, Role, Span};

/// The log-probs of one span.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// One natural-log probability per scored token of the span.
    pub logps: &'a [f32],
    /// What is known of the answer beside: reference log-probs, weights, ... Nothing of a prompt.
    pub given: &'a AnswerAnnotations,
    /// Where [`Objective::statistics`](super::Objective::statistics) asks for them.
    pub statistics: Option<Statistics<'a>>,
}

/// What the head finds of the distributions that a span's tokens were drawn from, one number per token.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    /// `log(sum over v of p_v^2)`.
    pub log_sum_squares: &'a [f32],
    /// Entropy in nats.
    pub entropy: &'a [f32],
    /// Mean logit over the vocabulary.
    pub mean_logit: &'a [f32],
}

impl<'a> Statistics<'a> {
    /// Those of some rows.
    fn slice(self, rows: Range<usize>) -> Self {
        Self {
            log_sum_squares: &self.log_sum_squares[rows.clone()],
            entropy: &self.entropy[rows.clone()],
            mean_logit: &self.mean_logit[rows],
        }
    }
}

/// What the head found of the response rows of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[R]`: log-probs of the targets.
    pub logp: &'a [f32],
    /// `[R]` each, where they were asked for.
    pub statistics: Option<Statistics<'a>>,
}

impl<'a> From<&'a [f32]> for Rows<'a> {
    fn from(logp: &'a [f32]) -> Self {
        Self { logp, statistics: None }
    }
}

/// The same, kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowScores {
    /// `[R]`: log-probs of the targets.
    pub logp: Vec<f32>,
    /// `[R]`: whether the target is the most probable token; empty where that is not known.
    pub is_top1: Vec<bool>,
    /// `[R]` each, in the order of the fields of [`Statistics`].
    pub statistics: Option<[Vec<f32>; 3]>,
}

impl From<Vec<f32>> for RowScores {
    fn from(logp: Vec<f32>) -> Self {
        Self { logp, is_top1: Vec::new(), statistics: None }
    }
}

impl RowScores {
    /// A view of them.
    pub fn rows(&self) -> Rows<'_> {
        let statistics = self.statistics.as_ref().map(|[log_sum_squares, entropy, mean_logit]| Statistics {
            log_sum_squares,
            entropy,
            mean_logit,
        });
        Rows { logp: &self.logp, statistics }
    }
}

impl<'a> Scored<'a> {
    /// A span of which only the log-probs are known.
    pub fn new(logps: &'a [f32]) -> Self {
        Self { logps, given: AnswerAnnotations::NONE, statistics: None }
    }

    /// The same with what is known of it.
    pub fn with(self, given: &'a AnswerAnnotations) -> Self {
        Self { given, ..self }
    }

    /// Tokens of the span.
    pub fn tokens(&self) -> usize {
        self.logps.len()
    }

    /// `s`: the log-probs added up in f64, in order, so that the same span gives the same bits anywhere.
    pub fn sum(&self) -> f64 {
        self.logps.iter().fold(0.0, |sum, &logp| sum + f64::from(logp))
    }

    /// `a = s / T`. Only for spans that are not empty, as [`GroupLogps::is_valid`] says of answers.
    pub fn mean(&self) -> f64 {
        self.sum() / self.tokens() as f64
    }

    /// The summed log-prob under the first reference model.
    ///
    /// # Panics
    ///
    /// If there is none: whoever calls an objective fills in what [`Objective::reference`](super::Objective::reference)
    /// asks for.
    pub fn reference(&self) -> f64 {
        self.given.references.first().expect(FILLED_IN).sum()
    }

    /// The log-prob of every token under the first reference model.
    ///
    /// # Panics
    ///
    /// If there is none, or only a sum.
    pub fn reference_tokens(&self) -> &'a [f32] {
        match self.given.references.first().expect(FILLED_IN) {
            Reference::Tokens(logps) => logps,
            Reference::Sum(_) => panic!("{FILLED_IN}, token by token"),
        }
    }

    /// `r = s - s_ref`.
    ///
    /// # Panics
    ///
    /// As [`Scored::reference`].
    pub fn log_ratio(&self) -> f64 {
        self.sum() - self.reference()
    }
}

const FILLED_IN: &str =
    "an objective that needs a reference is only given groups whose reference log-probs are filled in";

/// The scored spans of one group. A span that was not scored, or is not at hand yet, is `None`.
#[derive(Clone, Copy, Debug)]
pub struct GroupLogps<'a> {
    /// The prompt's tokens 1..P, present where the NLL covers them; empty if the prompt is one token long.
    pub prompt: Option<Scored<'a>>,
    /// The answers.
    pub answers: ByRole<Option<Scored<'a>>>,
    /// What is known of the group beside.
    pub given: &'a Annotations,
}

impl Default for GroupLogps<'_> {
    fn default() -> Self {
        Self { prompt: None, answers: ByRole::default(), given: Annotations::NONE }
    }
}

impl<'a> GroupLogps<'a> {
    /// A preference pair.
    pub fn pair(chosen: Scored<'a>, rejected: Scored<'a>) -> Self {
        Self::default().with(Role::Chosen, chosen).with(Role::Rejected, rejected)
    }

    /// The same with an answer in this role.
    pub fn with(mut self, role: Role, answer: Scored<'a>) -> Self {
        self.answers[role] = Some(answer);
        self
    }

    /// The spans of a unit out of the rows of a micro-batch.
    pub fn of(unit: &'a BatchGroup, rows: Rows<'a>) -> Self {
        let given = unit.annotations();
        let scored = |span: Span| Scored {
            logps: &rows.logp[span.range()],
            given: AnswerAnnotations::NONE,
            statistics: rows.statistics.map(|statistics| statistics.slice(span.range())),
        };
        let answers = ByRole::from_fn(|role| Some(scored(unit.answers[role]?).with(&given.answers[role])));
        Self { prompt: unit.prompt.map(scored), answers, given }
    }

    /// The chosen answer.
    pub fn chosen(&self) -> Option<&Scored<'a>> {
        self.answers[Role::Chosen].as_ref()
    }

    /// The rejected answer.
    pub fn rejected(&self) -> Option<&Scored<'a>> {
        self.answers[Role::Rejected].as_ref()
    }

    /// Whether every answer present has a token. The loader drops rows with an empty answer; should one come
    /// through all the same, objectives give 0 for its group rather than divide by zero.
    pub fn is_valid(&self) -> bool {
        self.answers.present().all(|(_, answer)| answer.tokens() > 0)
    }
}
