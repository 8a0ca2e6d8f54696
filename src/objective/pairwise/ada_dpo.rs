//! Ada-DPO: a temperature of its own for every pair (arXiv 2406.02764).
//!
//! ```text
//! L = mean over pairs of min over tau in [tau_min, tau_max] of tau softplus(-D / tau) + rho tau
//! dL/dD = -sigmoid(-D / tau*)
//! ```
//!
//! `1 / tau` takes beta's place. The minimum has a closed form (our own derivation, checked against a search): in the interior
//! `D / tau*` is `u*` or `-u*`, the same for every pair, with `softplus(-u) + u sigmoid(-u) = -rho`, whose left side, the entropy
//! of sigmoid(u), falls from ln 2 to 0. So `tau* = |D| / u*`, clipped. The paper's undamped Newton iteration oscillates
//! for some D.
//!
//! Parameters: `rho` -0.4, `tau_min` 0.1, `tau_max` 5 (the paper's illustration; rho is its rho_0 - ln 2, above -ln 2). With rho >= 0 tau
//! is always `tau_min`, with rho <= -ln 2 always `tau_max`. Limits: |dL/dD| <= 1.
//!
//! Coupling: group. Reference: needed.

use std::f64::consts::LN_2;

use super::{DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward};
use crate::objective::ObjectiveError;
use crate::objective::odds::{Term, sigmoid, softplus};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static RHO: Number = Number {
    name: "rho",
    default: -0.4,
    range: Range::closed(-1.0, 1.0),
    help: "price of a large temperature: from -ln 2 (always tau_max) to 0 (always tau_min)",
    slot: |parameters| &mut parameters.rho,
};
static TAU_MIN: Number = Number {
    name: "tau_min",
    default: 0.1,
    range: Range::closed(1e-6, 1e6),
    help: "smallest temperature: 1 / tau_min is the largest beta",
    slot: |parameters| &mut parameters.tau_min,
};
static TAU_MAX: Number = Number {
    name: "tau_max",
    default: 5.0,
    range: Range::closed(1e-6, 1e6),
    help: "largest temperature: 1 / tau_max is the smallest beta",
    slot: |parameters| &mut parameters.tau_max,
};

/// Ada-DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "ada_dpo",
    formula: "L = min over tau of tau softplus(-D / tau) + rho tau",
    when: "some of your pairs are clear and others nearly ties, and no label says which",
    parameters: &[&RHO, &TAU_MIN, &TAU_MAX, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let (tau_min, tau_max) = (TAU_MIN.get(parameters), TAU_MAX.get(parameters));
        if tau_min > tau_max {
            let problem = format!("--tau-min = {tau_min} is above --tau-max = {tau_max}");
            return Err(ObjectiveError::Contradiction { objective: ENTRY.name, problem });
        }
        let rho = RHO.get(parameters);
        let loss = AdaDpo { rho, tau_min, tau_max, u: solution(rho) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, 1.0, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct AdaDpo {
    rho: f64,
    tau_min: f64,
    tau_max: f64,
    /// u*: 0 where the temperature is always the largest, infinite where always the smallest.
    u: f64,
}

/// `u >= 0` with `softplus(-u) + u sigmoid(-u) = -rho`, by bisection: the left side falls.
fn solution(rho: f64) -> f64 {
    if rho >= 0.0 {
        return f64::INFINITY;
    }
    if rho <= -LN_2 {
        return 0.0;
    }
    // The entropy at 800 is below every number above 0.
    let (mut low, mut high) = (0.0, 800.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        let entropy = softplus(-middle) + middle * sigmoid(-middle);
        if entropy > -rho { low = middle } else { high = middle }
    }
    low
}

impl PairLoss for AdaDpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let d = pair.difference();
        // 0 / 0 would be NaN: at D = 0 the sign of rho + ln 2 decides.
        let tau = match (d == 0.0, self.u) {
            (true, 0.0) => self.tau_max,
            (true, _) => self.tau_min,
            (false, u) => (d.abs() / u).clamp(self.tau_min, self.tau_max),
        };
        let value = tau * softplus(-d / tau) + self.rho * tau;
        Term { value, slope: -sigmoid(-d / tau) }.into()
    }
}
