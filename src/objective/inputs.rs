//! What the model is given for the tokens of a batch in training.

/// How the embeddings that enter the first layer come about, and what of their gradient reaches the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inputs {
    /// k, from 0 to 1: every scored token x goes in as `(1 - k) E[x] + k E[yhat]`, yhat the token that the model finds most
    /// probable in its place, from a forward pass without gradients before. 0: x itself, without that pass.
    pub predicted: f64,
    /// Whether gradients of the inputs reach the embedding table. Without, it is trained as a tied head at most.
    pub train_embedding: bool,
}

impl Inputs {
    /// The tokens' own embeddings.
    pub const TOKENS: Self = Self { predicted: 0.0, train_embedding: true };

    /// Whether a forward pass comes before the one with gradients, to find predictions.
    pub fn are_predicted(self) -> bool {
        self.predicted > 0.0
    }
}
