//! DPO: direct preference optimisation (arXiv 2305.18290), with label smoothing as in cDPO (Mitchell 2023).
//!
//! ```text
//! L = mean over pairs of (1 - e) * softplus(-beta * D) + e * softplus(beta * D)
//! D = x_w - x_l,   x = r = s - s_ref    (or the score of another divergence)
//! dL/dD = beta * [e * sigmoid(beta * D) - (1 - e) * sigmoid(-beta * D)]
//! ```
//!
//! `s` are sums of token log-probs, so every token of the chosen answer gets dL/dD / N and every token of the rejected
//! one its negative; `e` is the label smoothing. RSO's sigmoid-norm loss (arXiv 2309.06657) is this one.
//!
//! Parameters: `beta` 0.1, `label_smoothing` 0 (TRL 1.16's defaults; its `sigmoid` loss ignores label smoothing, ours is
//! the cDPO that earlier versions had), and those of its family. Limits: |dL/dD| <= beta; policy equal to the reference
//! gives ln 2 exactly.
//!
//! Coupling: group. Reference: needed.

use super::{
    BETA, DEFAULTS, DIVERGENCES, LABEL_SMOOTHING, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward,
    logistic,
};
use crate::objective::registry::Entry;

/// DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "dpo",
    aliases: &["sigmoid", "rso_sigmoid_norm"],
    formula: "L = (1 - e) softplus(-beta D) + e softplus(beta D),  D = (s_w - ref_w) - (s_l - ref_l),  \
              e = label_smoothing,  s = sum of logp",
    when: "you have preference pairs and a model that is instruction-tuned already and must not drift far",
    parameters: &[&BETA, &LABEL_SMOOTHING, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    advice: &[("lambda", "the weight of the preference is --beta here")],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let dpo = Dpo { beta, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, dpo).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Dpo {
    beta: f64,
    label_smoothing: f64,
}

impl PairLoss for Dpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), self.label_smoothing).scaled(self.beta).into()
    }
}
