//! The plane of the two probabilities: loss and gradient of DPO, ASFT and ORPO as functions of `x1`, which belongs to the chosen
//! answer, and `x2`, which belongs to the rejected one (figure 1 and theorem A.1 of arXiv 2409.10571, after Feng et al.,
//! arXiv 2404.04626).
//!
//! For DPO they are ratios to the reference, `x1 = pi(y_w) / pi_ref(y_w)` and `x2 = pi(y_l) / pi_ref(y_l)`, above 0. For ASFT and
//! ORPO they are the answers' length-normalised probabilities `p_w` and `p_l`, between 0 and 1. The derivatives of ASFT and
//! ORPO are derived, not quoted: the statement of theorem A.2 could not be read.
//!
//! What training does at a point is `-grad`: up with the chosen answer, down with the rejected one. `|d1 / d2|` says which of the
//! two moves faster, and where it crosses 1 is what the paper argues with: DPO pushes the rejected answer down faster than it
//! lifts the chosen one as soon as it prefers the chosen one at all; ASFT does so only where the two probabilities add up to
//! more than 1.
//!
//! Boundary: closed formulas in f64. That they are those of [`crate::objective`] is a test (`tests/objective/planes.rs`).

use crate::objective::odds::{sigmoid, softplus};

/// A loss over the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plane {
    /// `-log(x1^beta / (x1^beta + x2^beta))`.
    Dpo {
        /// The temperature.
        beta: f64,
    },
    /// `-c log x1 - lambda [log x1 + log(1 - x2)]`: ASFT at beta 1. With `c` 0 it is the align term alone.
    Asft {
        /// Weight of the SFT term.
        c: f64,
        /// Weight of the align term.
        lambda: f64,
    },
    /// `-c log x1 + lambda softplus(logit x2 - logit x1)`. With `c` 0 it is the odds-ratio term alone.
    Orpo {
        /// Weight of the SFT term.
        c: f64,
        /// Weight of the odds-ratio term.
        lambda: f64,
    },
}

/// A loss and its derivatives at one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Height {
    /// The loss.
    pub loss: f64,
    /// d loss / d x1.
    pub d1: f64,
    /// d loss / d x2.
    pub d2: f64,
}

impl Height {
    /// `|d1 / d2|`: above 1 where the chosen answer moves faster.
    pub fn ratio(&self) -> f64 {
        (self.d1 / self.d2).abs()
    }

    /// The length of the gradient.
    pub fn slope(&self) -> f64 {
        self.d1.hypot(self.d2)
    }
}

impl Plane {
    /// The loss at a point of the open unit square; DPO's at any point with positive coordinates.
    pub fn at(self, x1: f64, x2: f64) -> Height {
        match self {
            Plane::Dpo { beta } => {
                // x2^b / (x1^b + x2^b), without overflow at any beta.
                let difference = beta * (x1.ln() - x2.ln());
                let wrong = sigmoid(-difference);
                Height { loss: softplus(-difference), d1: -beta * wrong / x1, d2: beta * wrong / x2 }
            }
            Plane::Asft { c, lambda } => Height {
                loss: -(c + lambda) * x1.ln() - lambda * (-x2).ln_1p(),
                d1: -(c + lambda) / x1,
                d2: lambda / (1.0 - x2),
            },
            Plane::Orpo { c, lambda } => {
                let difference = logit(x2) - logit(x1);
                let unranked = lambda * sigmoid(difference);
                Height {
                    loss: -c * x1.ln() + lambda * softplus(difference),
                    d1: -c / x1 - unranked / (x1 * (1.0 - x1)),
                    d2: unranked / (x2 * (1.0 - x2)),
                }
            }
        }
    }
}

fn logit(x: f64) -> f64 {
    x.ln() - (-x).ln_1p()
}
