//! What an objective asks of a packed batch, and what a batch tells it about the step.

/// Which spans of a group are scored. The chosen answer always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// The negative log-likelihood covers the prompt: its tokens 1..P, each predicted by the row before.
    pub prompt: bool,
    /// The rejected answer is scored; `false` packs no rejected answer at all.
    pub rejected: bool,
}

/// Counts over one optimizer step, known before its first backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Groups in the step.
    pub groups: usize,
    /// Tokens of all chosen answers.
    pub chosen_tokens: usize,
    /// Prompt tokens that have a predictor: the sum of P - 1.
    pub prompt_tokens: usize,
    /// Tokens of all rejected answers.
    pub rejected_tokens: usize,
}
