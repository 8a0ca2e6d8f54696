//! DPO on log-ratios per token (TRL's `sigmoid_norm`; arXiv 2405.14734 compares it with SimPO).
//!
//! ```text
//! L = mean over pairs of softplus(-beta (r_w / T_w - r_l / T_l))
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16; means are small, so values of 1 and above make sense). Limits: as DPO's.
//! Not to be confused with RSO's sigmoid-norm loss, which is DPO.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::objective::registry::Entry;

/// DPO per token in the registry.
pub static ENTRY: Entry = Entry {
    name: "sigmoid_norm",
    aliases: &["ln_dpo"],
    formula: "L = softplus(-beta (r_w / T_w - r_l / T_l))",
    when: "as dpo, where answers of very different lengths must not differ by their length alone",
    parameters: &[&BETA, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::MeanLogRatio, beta, SigmoidNorm { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct SigmoidNorm {
    beta: f64,
}

impl PairLoss for SigmoidNorm {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), 0.0).scaled(self.beta).into()
    }
}
