//! RPO: DPO with an SFT term as a regulariser (arXiv 2405.16436; not the *relative* preference optimisation of 2402.10958).
//!
//! ```text
//! L = mean over pairs of softplus(-beta D) + eta * beta * (-s_w)      (--nll-reduction sum: the authors' code)
//! L = mean over pairs of softplus(-beta D) + eta * (-s_w / T_w)       (--nll-reduction sequence: OpenRLHF)
//! ```
//!
//! Parameters: `beta` 0.1; `eta` 0.005, `nll_reduction` sum (the authors' gemma recipe, with beta 0.05 there; OpenRLHF's form goes
//! with eta 0.2). TRL 1.16 has no `rpo_alpha` any more; its equivalent is `--objective dpo:1,sft:ALPHA`, a mean over tokens.
//!
//! Limits: as DPO's; the NLL's slope is constant. Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::objective::nll::Nll;
use crate::objective::parameters::{Choice, Number, Range};
use crate::objective::registry::Entry;
use crate::objective::{NllOn, NllReduction};

static ETA: Number = Number {
    name: "eta",
    default: 0.005,
    range: Range::WEIGHT,
    help: "weight of the NLL of the chosen answer",
    slot: |parameters| &mut parameters.eta,
};
static NLL_REDUCTION: Choice<NllReduction> = Choice {
    name: "nll_reduction",
    default: NllReduction::Sum,
    choices: &[NllReduction::Sum, NllReduction::Sequence],
    help: "sum: eta * beta times the summed NLL (the authors' code); sequence: eta times its mean (OpenRLHF)",
    slot: |parameters| &mut parameters.nll_reduction,
};

/// RPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "rpo",
    formula: "L = softplus(-beta D) + eta beta (-s_w)",
    when: "DPO over-optimises: it makes even the chosen answers unlikely",
    parameters: &[&BETA, &ETA, &NLL_REDUCTION, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let (beta, eta, reduction) =
            (BETA.get(parameters), ETA.get(parameters), NLL_REDUCTION.get(parameters));
        let weight = if reduction == NllReduction::Sum { eta * beta } else { eta };
        let dpo = Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Rpo { beta });
        Ok(dpo.with_nll(weight, Nll::new(reduction, NllOn::Response)).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Rpo {
    beta: f64,
}

impl PairLoss for Rpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), 0.0).scaled(self.beta).into()
    }
}
