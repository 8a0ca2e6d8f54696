//! What an objective gives back: the loss of each group and its derivative with respect to every log-prob.

use crate::data::{BatchGroup, ByRole, Role, Span};

/// `d loss / d logp` of the tokens of one span, in f64 until it is written, so that several terms add up before the one
/// rounding to f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Slope {
    /// The same for every token, as for every objective that sees a span only through the sum or mean of its log-probs.
    Uniform(f64),
    /// One for each token.
    Tokens(Vec<f64>),
}

impl Default for Slope {
    fn default() -> Self {
        Slope::Uniform(0.0)
    }
}

impl Slope {
    /// The slope of one token.
    pub fn at(&self, token: usize) -> f64 {
        match self {
            Slope::Uniform(slope) => *slope,
            Slope::Tokens(slopes) => slopes[token],
        }
    }

    /// Adds `weight` times another slope of the same span.
    pub fn add(&mut self, other: &Slope, weight: f64) {
        match (&mut *self, other) {
            (Slope::Uniform(slope), Slope::Uniform(more)) => *slope += weight * more,
            (Slope::Uniform(slope), Slope::Tokens(more)) => {
                *self = Slope::Tokens(more.iter().map(|more| *slope + weight * more).collect());
            }
            (Slope::Tokens(slopes), more) => {
                for (token, slope) in slopes.iter_mut().enumerate() {
                    *slope += weight * more.at(token);
                }
            }
        }
    }

    /// Writes the slope of every token of the span.
    pub fn write(&self, out: &mut [f32]) {
        match self {
            Slope::Uniform(slope) => out.fill(*slope as f32),
            Slope::Tokens(slopes) => {
                for (out, slope) in out.iter_mut().zip(slopes) {
                    *out = *slope as f32;
                }
            }
        }
    }
}

/// One group's part of the loss of its step, with its final 1/N, and the derivatives. What is absent from the group has a
/// slope of 0 here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLoss {
    /// In nats: the values of all groups add up to the step's loss.
    pub value: f64,
    /// Of the prompt's tokens.
    pub prompt: Slope,
    /// Of every answer's tokens.
    pub answers: ByRole<Slope>,
}

impl GroupLoss {
    /// Adds the same slope to every token of an answer.
    pub fn push(&mut self, role: Role, slope: f64) {
        self.answers[role].add(&Slope::Uniform(slope), 1.0);
    }

    /// Adds `weight` times another loss of the same group.
    pub fn add(&mut self, other: &GroupLoss, weight: f64) {
        self.value += weight * other.value;
        self.prompt.add(&other.prompt, weight);
        for (role, slope) in self.answers.iter_mut() {
            slope.add(&other.answers[role], weight);
        }
    }

    /// Writes the coefficients of a unit's spans, which address `out`.
    pub fn write(&self, unit: &BatchGroup, out: &mut [f32]) {
        let mut write = |span: Span, slope: &Slope| slope.write(&mut out[span.range()]);
        if let Some(span) = unit.prompt {
            write(span, &self.prompt);
        }
        for (role, span) in unit.answers.present() {
            write(*span, &self.answers[role]);
        }
    }
}

/// 1 / count; 0 for a count of 0, whose sum has no terms.
pub(super) fn reciprocal(count: usize) -> f64 {
    if count == 0 { 0.0 } else { 1.0 / count as f64 }
}
