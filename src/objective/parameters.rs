//! Parameters of objectives: what a user may type, and how each objective declares what it takes.
//!
//! One declaration ([`Number`], [`Choice`]) carries a parameter's name, default, range and help, so that the check,
//! the listing and the value in use cannot disagree. Boundary: flags and files are merged elsewhere.

use std::fmt::{self, Debug, Display};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

use super::ift::{EmbeddingPolicy, Propagation};
use super::pairwise::{Divergence, Weighting};
use super::{NllOn, NllReduction, ObjectiveError};

/// Declares [`Parameters`]: for each field its help (with the objectives that have it), type and placeholder.
macro_rules! parameters {
    ($($(#[$attribute:meta])* $name:ident: $type:ty = $placeholder:literal,)*) => {
        /// The parameters as typed, on the command line or in a file: `None` means not typed, and the objective's default
        /// holds. Which of them an objective has is in its [`Entry`](super::registry::Entry); a letter means what the
        /// objective's paper means by it.
        #[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[command(next_help_heading = "Objective")]
        pub struct Parameters {
            $(
                $(#[$attribute])*
                #[arg(long, value_name = $placeholder)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )*
        }

        impl Parameters {
            /// Names of the parameters that were typed.
            pub fn typed(&self) -> Vec<&'static str> {
                let typed = [$((stringify!($name), self.$name.is_some())),*];
                typed.into_iter().filter_map(|(name, typed)| typed.then_some(name)).collect()
            }

            /// Forgets those that `keep` does not want.
            pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
                $(
                    if !keep(stringify!($name)) {
                        self.$name = None;
                    }
                )*
            }
        }
    };
}

parameters! {
    /// Weight of the NLL term (asft)
    c: f64 = "NUMBER",
    /// Weight of the second term (asft, orpo, dpop, slic_hf), share of predicted tokens (ift)
    #[arg(alias = "ift-lambda")]
    #[serde(alias = "ift_lambda")]
    lambda: f64 = "NUMBER",
    /// Temperature of the rewards: of log-odds (asft), of log-ratios (dpo and all with a reference), of log-probs
    beta: f64 = "NUMBER",
    /// Margin that the chosen answer is to win by (simpo, tpo_l, alphapo), discount per token (ift)
    #[arg(alias = "simpo-gamma", alias = "tpo-l-gamma", alias = "ift-gamma")]
    #[serde(alias = "simpo_gamma", alias = "tpo_l_gamma", alias = "ift_gamma")]
    gamma: f64 = "NUMBER",
    /// Margin or bound, by objective (slic_hf, bmc)
    delta: f64 = "NUMBER",
    /// Weight of the NLL term (cpo, tpo), shape of the reward (alphapo), of the weights of mixtures (sftmix)
    #[arg(alias = "cpo-alpha", alias = "tpo-alpha")]
    #[serde(alias = "cpo_alpha", alias = "tpo_alpha")]
    alpha: f64 = "NUMBER",
    /// Weight of the cross-entropy of mixtures (sftmix)
    mu: f64 = "NUMBER",
    /// Softness, by objective (discopop, relative_po)
    #[arg(alias = "discopop-tau")]
    #[serde(alias = "discopop_tau")]
    tau: f64 = "NUMBER",
    /// Weight or width, by objective (rpo, mrpo)
    eta: f64 = "NUMBER",
    /// Price of a large temperature (ada_dpo)
    rho: f64 = "NUMBER",
    /// Smallest temperature (ada_dpo)
    tau_min: f64 = "NUMBER",
    /// Largest temperature (ada_dpo)
    tau_max: f64 = "NUMBER",
    /// Mean log-prob beyond which the odds are continued linearly (asft, orpo)
    logit_eps: f64 = "NUMBER",
    /// Share of pairs assumed to be labelled the wrong way round (dpo, robust, exo, aot, cpo, simpo, ...)
    label_smoothing: f64 = "NUMBER",
    /// LD-DPO: weight of an answer's tokens beyond the length of its partner (with a reference)
    ld_alpha: f64 = "NUMBER",
    /// Coefficient of --f-divergence alpha
    #[arg(alias = "f-alpha-divergence-coef")]
    #[serde(alias = "f_alpha_divergence_coef")]
    f_alpha: f64 = "NUMBER",
    /// Weight of desirable completions (kto, apo_zero_unpaired)
    desirable_weight: f64 = "NUMBER",
    /// Weight of undesirable completions (kto, apo_zero_unpaired)
    undesirable_weight: f64 = "NUMBER",
    /// Divergence from the reference model: reverse-kl, forward-kl, js or alpha (dpo and its kin)
    #[arg(alias = "f-divergence-type")]
    #[serde(alias = "f_divergence_type")]
    f_divergence: Divergence = "NAME",
    /// Weight of each pair: none or wpo (with a reference)
    weighting: Weighting = "NAME",
    /// How token NLLs become one number: sequence, token or sum (asft, sft, orpo, rpo)
    nll_reduction: NllReduction = "NAME",
    /// Which tokens the NLL covers: response or prompt-and-response (asft, sft, orpo)
    nll_on: NllOn = "NAME",
    /// How losses of later tokens weigh earlier ones: released, paper-linear or none (ift)
    ift_propagation: Propagation = "NAME",
    /// Take the released weights as constants instead of differentiating through them (ift)
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    ift_detach_weights: bool = "BOOL",
    /// What the embedding table learns from mixed inputs: live or frozen (ift)
    ift_embedding: EmbeddingPolicy = "NAME",
}

/// What a listing shows of a parameter, and how a default gets its place.
pub trait Parameter: Sync + Debug {
    /// In snake case, as in a configuration file.
    fn name(&self) -> &'static str;
    /// The default, as one would type it.
    fn default(&self) -> String;
    /// The values accepted, in words or as a range.
    fn accepts(&self) -> String;
    /// One sentence, lower case, without a full stop.
    fn help(&self) -> &'static str;
    /// The parameters with this one at every end of what it accepts: both ends of a range, or every choice.
    fn extremes(&self, parameters: &Parameters) -> Vec<Parameters>;
    /// Checks what was typed and fills in the default where nothing was.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError::OutOfRange`] or [`ObjectiveError::NotAChoice`], naming `objective`.
    fn resolve(&self, objective: &'static str, parameters: &mut Parameters) -> Result<(), ObjectiveError>;
}

/// A parameter that is a number.
#[derive(Debug)]
pub struct Number {
    /// In snake case.
    pub name: &'static str,
    /// Used where nothing was typed.
    pub default: f64,
    /// What is accepted; never NaN or infinite.
    pub range: Range,
    /// One sentence, lower case, without a full stop.
    pub help: &'static str,
    /// Its field.
    pub slot: fn(&mut Parameters) -> &mut Option<f64>,
}

impl Number {
    /// The value typed, else the default.
    pub fn get(&self, parameters: &Parameters) -> f64 {
        let mut copy = *parameters;
        (self.slot)(&mut copy).unwrap_or(self.default)
    }
}

impl Parameter for Number {
    fn name(&self) -> &'static str {
        self.name
    }

    fn default(&self) -> String {
        short(self.default)
    }

    fn accepts(&self) -> String {
        self.range.to_string()
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn extremes(&self, parameters: &Parameters) -> Vec<Parameters> {
        self.range.ends().map(|end| with(parameters, self.slot, end)).into()
    }

    fn resolve(&self, objective: &'static str, parameters: &mut Parameters) -> Result<(), ObjectiveError> {
        let value = self.get(parameters);
        if !self.range.contains(value) {
            let (parameter, range) = (self.name, self.range);
            return Err(ObjectiveError::OutOfRange { objective, parameter, value, range });
        }
        *(self.slot)(parameters) = Some(value);
        Ok(())
    }
}

/// A parameter that is one of a few words.
#[derive(Debug)]
pub struct Choice<T: 'static> {
    /// In snake case.
    pub name: &'static str,
    /// Used where nothing was typed.
    pub default: T,
    /// Every value.
    pub choices: &'static [T],
    /// One sentence, lower case, without a full stop.
    pub help: &'static str,
    /// Its field.
    pub slot: fn(&mut Parameters) -> &mut Option<T>,
}

impl<T: Copy> Choice<T> {
    /// The value typed, else the default.
    pub fn get(&self, parameters: &Parameters) -> T {
        let mut copy = *parameters;
        (self.slot)(&mut copy).unwrap_or(self.default)
    }
}

impl<T: Copy + PartialEq + Display + Debug + Sync> Parameter for Choice<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn default(&self) -> String {
        self.default.to_string()
    }

    fn accepts(&self) -> String {
        alternatives(self.choices)
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn extremes(&self, parameters: &Parameters) -> Vec<Parameters> {
        self.choices.iter().map(|&choice| with(parameters, self.slot, choice)).collect()
    }

    fn resolve(&self, objective: &'static str, parameters: &mut Parameters) -> Result<(), ObjectiveError> {
        let value = self.get(parameters);
        if !self.choices.contains(&value) {
            let (parameter, value, choices) = (self.name, value.to_string(), alternatives(self.choices));
            return Err(ObjectiveError::NotAChoice { objective, parameter, value, choices });
        }
        *(self.slot)(parameters) = Some(value);
        Ok(())
    }
}

fn with<T>(parameters: &Parameters, slot: fn(&mut Parameters) -> &mut Option<T>, value: T) -> Parameters {
    let mut changed = *parameters;
    *slot(&mut changed) = Some(value);
    changed
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives<T: Display>(choices: &[T]) -> String {
    let words: Vec<String> = choices.iter().map(T::to_string).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The choice that displays as `typed`; `_` equals `-`.
pub(super) fn choose<T: Copy + Display>(
    parameter: &'static str,
    typed: &str,
    choices: &[T],
) -> Result<T, ObjectiveError> {
    let wanted = typed.replace('_', "-");
    choices.iter().copied().find(|choice| choice.to_string() == wanted).ok_or_else(|| {
        ObjectiveError::UnknownChoice { parameter, typed: typed.to_owned(), choices: alternatives(choices) }
    })
}

/// A number as one would type it: `0.5`, `1e-5`, `1e6`.
fn short(number: f64) -> String {
    let plain = number == 0.0 || (1e-3..1e6).contains(&number.abs());
    if plain { number.to_string() } else { format!("{number:e}") }
}

/// How a parameter is typed on the command line: `logit_eps` -> `--logit-eps`.
pub fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// An interval of finite numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: Bound,
    high: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Including(f64),
    Excluding(f64),
}

/// The largest weight or temperature accepted. With [`LOGIT_EPS`](super::odds::LOGIT_EPS) at least 1e-12 every
/// coefficient then stays below 1e24, far inside f32.
const LARGEST: f64 = 1e6;

impl Range {
    /// Weights of a term: 0 switches it off.
    pub const WEIGHT: Range = Range::closed(0.0, LARGEST);
    /// Weights of an objective within a sum.
    pub const SHARE: Range = Range { low: Bound::Excluding(0.0), high: Bound::Including(LARGEST) };
    /// Temperatures: 0 would make the term constant.
    pub const TEMPERATURE: Range = Range { low: Bound::Excluding(0.0), high: Bound::Including(LARGEST) };

    /// Temperatures whose inverse enters a loss: bounded below, so that its square stays far inside f64 and its slope
    /// inside f32.
    pub const INVERTIBLE: Range = Range::closed(1e-6, LARGEST);

    /// `low <= x <= high`
    pub const fn closed(low: f64, high: f64) -> Range {
        Range { low: Bound::Including(low), high: Bound::Including(high) }
    }

    /// `low < x < high`
    pub const fn open(low: f64, high: f64) -> Range {
        Range { low: Bound::Excluding(low), high: Bound::Excluding(high) }
    }

    /// `low <= x < high`
    pub const fn half_open(low: f64, high: f64) -> Range {
        Range { low: Bound::Including(low), high: Bound::Excluding(high) }
    }

    /// The smallest and the largest number inside.
    pub fn ends(&self) -> [f64; 2] {
        let low = match self.low {
            Bound::Including(low) => low,
            Bound::Excluding(low) => low.next_up(),
        };
        let high = match self.high {
            Bound::Including(high) => high,
            Bound::Excluding(high) => high.next_down(),
        };
        [low, high]
    }

    /// Whether `value` lies inside; NaN never does.
    pub fn contains(&self, value: f64) -> bool {
        let above = match self.low {
            Bound::Including(low) => value >= low,
            Bound::Excluding(low) => value > low,
        };
        let below = match self.high {
            Bound::Including(high) => value <= high,
            Bound::Excluding(high) => value < high,
        };
        above && below
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.low {
            Bound::Including(low) => write!(f, "at least {} and ", short(low))?,
            Bound::Excluding(low) => write!(f, "above {} and ", short(low))?,
        }
        match self.high {
            Bound::Including(high) => write!(f, "at most {}", short(high)),
            Bound::Excluding(high) => write!(f, "below {}", short(high)),
        }
    }
}
