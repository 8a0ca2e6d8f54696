//! AlphaPO: SimPO with a reward of another shape (arXiv 2501.03884).
//!
//! ```text
//! L = mean over pairs of softplus(-(beta (R_w - R_l) - gamma)),   R = (1 - p^-alpha) / alpha,   p = e^a,  a = s / T
//! dR/da = p^-alpha
//! ```
//!
//! alpha = 0 is SimPO's reward `R = a`.
//!
//! Parameters: `alpha` 0.25 (the paper's Llama-3 setting, `memory`: not verified; TRL 1.16 has no default for it), `beta` 2.5 and `gamma` 0.5
//! (`memory`), `label_smoothing` 0. Limits: an exponential is continued by its tangent beyond e^30 (see
//! [`divergence`](super::divergence)); TRL overflows.
//!
//! Coupling: group. Reference: none.

use super::divergence::bounded_exp_m1;
use super::simpo::GAMMA;
use super::{LABEL_SMOOTHING, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::objective::odds::Term;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static ALPHA: Number = Number {
    name: "alpha",
    default: 0.25,
    range: Range::closed(-10.0, 10.0),
    help: "shape of the reward (1 - p^-alpha) / alpha; 0 is SimPO's",
    slot: |parameters| &mut parameters.alpha,
};
static BETA: Number = Number {
    name: "beta",
    default: 2.5,
    range: Range::TEMPERATURE,
    help: "scale of the rewards",
    slot: |parameters| &mut parameters.beta,
};

/// AlphaPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "alphapo",
    formula: "L = softplus(-(beta (R_w - R_l) - gamma)),  R = (1 - p^-alpha) / alpha,  p = exp(mean logp)",
    when: "SimPO pushes both likelihoods down too far, or too little",
    parameters: &[&BETA, &GAMMA, &ALPHA, &LABEL_SMOOTHING],
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's CPOConfig" },
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = AlphaPo {
            beta,
            gamma: GAMMA.get(parameters),
            alpha: ALPHA.get(parameters),
            label_smoothing: LABEL_SMOOTHING.get(parameters),
        };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::Mean, beta, loss).boxed())
    },
    ..Entry::REFERENCE_FREE
};

#[derive(Clone, Copy, Debug)]
struct AlphaPo {
    beta: f64,
    gamma: f64,
    alpha: f64,
    label_smoothing: f64,
}

impl AlphaPo {
    /// R(a) and its slope.
    fn reward(&self, a: f64) -> Term {
        // Below this the quotient has no digits left, and a is what it tends to.
        if self.alpha.abs() < 1e-9 {
            return Term { value: a, slope: 1.0 };
        }
        let power = bounded_exp_m1(-self.alpha * a);
        Term { value: -power.value / self.alpha, slope: power.slope }
    }
}

impl PairLoss for AlphaPo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let (w, l) = (self.reward(pair.chosen), self.reward(pair.rejected));
        let z = self.beta * (w.value - l.value) - self.gamma;
        let term = logistic(z, self.label_smoothing).scaled(self.beta);
        PairTerm { value: term.value, chosen: term.slope * w.slope, rejected: -term.slope * l.slope }
    }

    fn shown(&self, reward: f64) -> f64 {
        self.reward(reward).value
    }
}
