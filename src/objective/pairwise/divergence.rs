//! Rewards from divergences other than the reverse KL (f-DPO, arXiv 2309.16240): `x = f'(pi / pi_ref)` up to a constant,
//! as a function of the log-ratio `r`.
//!
//! ```text
//! reverse-kl  x = r                          slope 1
//! forward-kl  x = 1 - e^-r                   slope e^-r
//! js          x = ln 2 + log sigmoid(r)      slope sigmoid(-r)
//! alpha       x = (e^((alpha - 1) r) - 1) / (alpha - 1)     slope e^((alpha - 1) r); reverse-kl at alpha 1
//! ```
//!
//! Limits: an exponential is continued by its tangent beyond [`STEEPEST`], so that values and slopes stay finite and agree;
//! TRL lets forward-kl overflow and clamps alpha at e^80, where the gradient vanishes.

use std::f64::consts::LN_2;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::objective::ObjectiveError;
use crate::objective::odds::{Term, sigmoid, softplus};
use crate::objective::parameters::{Choice, Number, Range, choose};

/// The divergence from the reference model that the policy is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// KL(pi, pi_ref): DPO's own.
    #[serde(alias = "reverse_kl")]
    ReverseKl,
    /// KL(pi_ref, pi).
    #[serde(alias = "forward_kl")]
    ForwardKl,
    /// Jensen and Shannon's.
    #[serde(alias = "js_divergence")]
    Js,
    /// The alpha-divergence.
    #[serde(alias = "alpha_divergence")]
    Alpha,
}

const ALL: &[Divergence] = &[Divergence::ReverseKl, Divergence::ForwardKl, Divergence::Js, Divergence::Alpha];

impl Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Divergence::ReverseKl => "reverse-kl",
            Divergence::ForwardKl => "forward-kl",
            Divergence::Js => "js",
            Divergence::Alpha => "alpha",
        })
    }
}

impl FromStr for Divergence {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        let short = typed.trim_end_matches("_divergence").trim_end_matches("-divergence");
        choose("f_divergence", short, ALL)
    }
}

/// `--f-divergence`.
pub static DIVERGENCE: Choice<Divergence> = Choice {
    name: "f_divergence",
    default: Divergence::ReverseKl,
    choices: ALL,
    help: "divergence from the reference that the policy is held to (arXiv 2309.16240)",
    slot: |parameters| &mut parameters.f_divergence,
};

/// `--f-alpha`.
pub static F_ALPHA: Number = Number {
    name: "f_alpha",
    default: 0.5,
    range: Range::closed(-10.0, 10.0),
    help: "coefficient of --f-divergence alpha; 1 is the reverse KL",
    slot: |parameters| &mut parameters.f_alpha,
};

/// Exponents from which on an exponential goes on as its tangent: e^30 is 1e13 times any ordinary slope, and with every
/// weight at its largest still inside f32.
pub const STEEPEST: f64 = 30.0;

/// `e^z` with its slope in z, continued linearly beyond [`STEEPEST`].
pub fn bounded_exp(z: f64) -> Term {
    let edge = z.min(STEEPEST).exp();
    Term { value: edge * (1.0 + (z - STEEPEST).max(0.0)), slope: edge }
}

/// `e^z - 1`, as [`bounded_exp`], exact near 0.
pub fn bounded_exp_m1(z: f64) -> Term {
    if z.abs() < 1.0 {
        return Term { value: z.exp_m1(), slope: z.exp() };
    }
    let power = bounded_exp(z);
    Term { value: power.value - 1.0, slope: power.slope }
}

/// A divergence with its coefficient, as a function of the log-ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Which.
    pub divergence: Divergence,
    /// That of the alpha-divergence.
    pub alpha: f64,
}

impl Score {
    /// x(r) and its slope.
    pub fn of(&self, r: f64) -> Term {
        match self.divergence {
            Divergence::ReverseKl => Term { value: r, slope: 1.0 },
            Divergence::ForwardKl => {
                let power = bounded_exp_m1(-r);
                Term { value: -power.value, slope: power.slope }
            }
            Divergence::Js => Term { value: LN_2 - softplus(-r), slope: sigmoid(-r) },
            // As TRL, which takes the limit where the quotient would lose its digits.
            Divergence::Alpha if (self.alpha - 1.0).abs() < 1e-6 => Term { value: r, slope: 1.0 },
            Divergence::Alpha => {
                let power = bounded_exp_m1((self.alpha - 1.0) * r);
                Term { value: power.value / (self.alpha - 1.0), slope: power.slope }
            }
        }
    }
}
