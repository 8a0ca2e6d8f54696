//! Log-probs of whole data sets under the weights as they are: for `asft score`, for evaluations during training, and
//! for a reference model's log-probs.

mod scorer;

pub use scorer::{Scorer, largest};

pub use crate::progress::{Progress, Silent};
