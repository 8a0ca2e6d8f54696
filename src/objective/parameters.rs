//! Parameters of objectives: what a user may type, and how each objective declares what it takes.
//!
//! One declaration ([`Number`], [`Choice`]) carries a parameter's name, default, range and help, so that the check,
//! the listing and the value in use cannot disagree. Boundary: flags and files are merged elsewhere.

use std::fmt::{self, Debug, Display};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{NllOn, NllReduction, ObjectiveError};

/// The parameters as typed, on the command line or in a file: `None` means not typed, and the objective's default
/// holds. Which of them an objective has is in its [`Entry`](super::registry::Entry).
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Objective")]
pub struct Parameters {
    /// asft: weight of the NLL term
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c: Option<f64>,
    /// asft, orpo: weight of the alignment term (TRL calls orpo's beta)
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// asft: temperature of the log-odds; dpo: of the log-ratios
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// asft, orpo: mean log-prob beyond which the odds are continued linearly
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_eps: Option<f64>,
    /// asft, sft, orpo: how token NLLs become one number: sequence or token
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_reduction: Option<NllReduction>,
    /// asft, sft, orpo: which tokens the NLL covers: response or prompt-and-response
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_on: Option<NllOn>,
    /// dpo: share of pairs assumed to be labelled the wrong way round
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
}

impl Parameters {
    /// Names of the parameters that were typed.
    pub fn typed(&self) -> Vec<&'static str> {
        // Taken apart without `..`: a field added and forgotten here does not compile.
        let Self { c, lambda, beta, logit_eps, nll_reduction, nll_on, label_smoothing } = self;
        [
            ("c", c.is_some()),
            ("lambda", lambda.is_some()),
            ("beta", beta.is_some()),
            ("logit_eps", logit_eps.is_some()),
            ("nll_reduction", nll_reduction.is_some()),
            ("nll_on", nll_on.is_some()),
            ("label_smoothing", label_smoothing.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, typed)| typed.then_some(name))
        .collect()
    }
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
    /// Checks what was typed and fills in the default where nothing was.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError::OutOfRange`], naming `objective`.
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

impl<T: Copy + Display + Debug + Sync> Parameter for Choice<T> {
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

    fn resolve(&self, _objective: &'static str, parameters: &mut Parameters) -> Result<(), ObjectiveError> {
        *(self.slot)(parameters) = Some(self.get(parameters));
        Ok(())
    }
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
    /// Temperatures: 0 would make the term constant.
    pub const TEMPERATURE: Range = Range { low: Bound::Excluding(0.0), high: Bound::Including(LARGEST) };

    /// `low <= x <= high`
    pub const fn closed(low: f64, high: f64) -> Range {
        Range { low: Bound::Including(low), high: Bound::Including(high) }
    }

    /// `low <= x < high`
    pub const fn half_open(low: f64, high: f64) -> Range {
        Range { low: Bound::Including(low), high: Bound::Excluding(high) }
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
