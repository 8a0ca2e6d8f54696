//! What can be wrong with a choice of objective, told to the person who typed it.

use super::parameters::{Range, flag};

/// A choice of objective or parameters that cannot be used. Each message names what was typed and what would do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// No objective of that name.
    #[error("unknown objective `{typed}`{}; `asft objectives` lists all there are", did_you_mean(suggestion))]
    UnknownObjective {
        /// As typed.
        typed: String,
        /// The name nearest in spelling, if one is near.
        suggestion: Option<&'static str>,
    },

    /// The objective does not have that parameter.
    #[error("{objective}: {advice} ({} is not a parameter of {objective})", flag(parameter))]
    NotAParameter {
        /// Name of the objective.
        objective: &'static str,
        /// Name of the parameter, in snake case.
        parameter: &'static str,
        /// What to use instead.
        advice: String,
    },

    /// The value lies outside what the parameter accepts.
    #[error("{objective}: {} = {value}, but it must be {range}", flag(parameter))]
    OutOfRange {
        /// Name of the objective.
        objective: &'static str,
        /// Name of the parameter, in snake case.
        parameter: &'static str,
        /// As typed.
        value: f64,
        /// What is accepted.
        range: Range,
    },

    /// A word that is not among the choices of a parameter.
    #[error("{} = `{typed}`, but it must be {choices}", flag(parameter))]
    UnknownChoice {
        /// Name of the parameter, in snake case.
        parameter: &'static str,
        /// As typed.
        typed: String,
        /// What is accepted.
        choices: String,
    },

    /// A word that the parameter accepts, but not for this objective.
    #[error("{objective}: {} = {value}, but it must be {choices}", flag(parameter))]
    NotAChoice {
        /// Name of the objective.
        objective: &'static str,
        /// Name of the parameter, in snake case.
        parameter: &'static str,
        /// As typed.
        value: String,
        /// What is accepted.
        choices: String,
    },

    /// A sum of objectives that cannot be read.
    #[error(
        "--objective {typed}: {problem}; a sum is written as names with weights above 0, such as dpo:0.8,sft:0.2"
    )]
    Sum {
        /// As typed.
        typed: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Parameters that contradict each other.
    #[error("{objective}: {problem}")]
    Contradiction {
        /// Name of the objective.
        objective: &'static str,
        /// What is wrong, naming the flags.
        problem: String,
    },

    /// Every term of the loss has weight 0.
    #[error("{objective}: {weights} are all 0, so there is nothing to learn; set one of them above 0")]
    NothingToLearn {
        /// Name of the objective.
        objective: &'static str,
        /// The weights, as flags.
        weights: &'static str,
    },
}

fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}
