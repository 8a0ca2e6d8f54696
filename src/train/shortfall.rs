//! A plan that is larger than the memory, and the settings that would make it fit.
//!
//! Every setting that shrinks a plan is tried: alone, and where none is enough alone, together, those that cost the least
//! first. What is found has been planned, not estimated.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::TrainError;
use super::fit::{Demand, Fitted, Fitting, Knobs, Needs};
use crate::backend::{DeviceKind, Element};
use crate::data::{Dataset, Group};
use crate::model::{OptimizerState, Precision, Recompute};

/// Rows of logits at a time below which the head's products get slow and little is saved.
const FEW_HEAD_ROWS: usize = 128;
/// No shorter `--max-length` is proposed.
const SHORTEST: usize = 64;

/// A plan that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Bytes of the smallest plan.
    pub needed: u64,
    /// Bytes free.
    pub available: u64,
    /// T of its micro-batches.
    pub tokens: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Changes of the settings, each of which makes it fit.
    pub remedies: Vec<Remedy>,
    /// Bytes with every setting at its smallest.
    pub least: u64,
}

/// Settings that make a plan fit, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// As they are typed, or what to leave out.
    pub settings: Vec<String>,
    /// Bytes of the smallest plan with them.
    pub bytes: u64,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.settings.join(" and "), gibibytes(self.bytes))
    }
}

impl Shortfall {
    /// What to do, as a sentence.
    pub fn advice(&self) -> String {
        if self.remedies.is_empty() {
            return format!(
                "No setting makes it fit: with all of them at their smallest it takes {}. Choose a smaller model, or a \
                 machine with more memory",
                gibibytes(self.least)
            );
        }
        let remedies: Vec<String> = self.remedies.iter().map(Remedy::to_string).collect();
        format!("It would fit with {}", remedies.join(", or with "))
    }
}

/// Bytes as a person reads them.
pub fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}

/// One setting made smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    FreeTokens,
    FreeParts(usize),
    Recompute,
    NoSamples,
    Logits,
    HeadRows,
    Dtype,
    Optimizer(OptimizerState),
    MaxLength(usize),
}

impl Change {
    fn apply(self, mut knobs: Knobs) -> Knobs {
        match self {
            Change::FreeTokens => knobs.tokens = None,
            Change::FreeParts(_) => knobs.parts = None,
            Change::Recompute => knobs.recompute = Some(Recompute::Blocks),
            Change::NoSamples => knobs.samples = 0,
            Change::Logits => knobs.precision.logits = Element::Bf16,
            Change::HeadRows => knobs.head_rows = Some(FEW_HEAD_ROWS),
            Change::Dtype => knobs.precision = Precision::BF16,
            Change::Optimizer(state) => {
                // Only bf16 weights go with less than f32.
                if knobs.precision.storage == Element::Bf16 {
                    knobs.precision.optimizer = state;
                }
            }
            Change::MaxLength(_) => {}
        }
        knobs
    }

    fn typed(self) -> String {
        match self {
            Change::FreeTokens => "no --max-tokens-per-batch".to_owned(),
            Change::FreeParts(groups) => {
                format!("--batch-size {groups} in place of --per-device-train-batch-size")
            }
            Change::Recompute => format!("--recompute {}", Recompute::Blocks.name()),
            Change::NoSamples => "--sample-answers 0".to_owned(),
            Change::Logits => "--head-logits bf16".to_owned(),
            Change::HeadRows => format!("--head-rows {FEW_HEAD_ROWS}"),
            Change::Dtype => "--dtype bf16".to_owned(),
            Change::Optimizer(state) => format!("--optimizer-state {}", state.name()),
            Change::MaxLength(length) => format!("--max-length {length}"),
        }
    }
}

impl Fitting<'_> {
    /// By how much the smallest plan is too large, and what to do about it.
    pub(super) fn shortfall(
        &self,
        knobs: Knobs,
        needs: &Needs,
        smallest: &Fitted,
    ) -> Result<Shortfall, TrainError> {
        let settings = self.changes(knobs, needs);
        let mut remedies = Vec::new();
        for alternatives in &settings {
            for &change in alternatives {
                if let Some(bytes) = self.bytes_with(knobs, &[change])?.filter(|&bytes| self.fits(bytes)) {
                    remedies.push(Remedy { settings: vec![change.typed()], bytes });
                    break;
                }
            }
        }
        let all: Vec<Change> =
            settings.iter().filter_map(|alternatives| alternatives.last().copied()).collect();
        let least = self.bytes_with(knobs, &all)?.unwrap_or(smallest.bytes());
        if remedies.is_empty() && self.fits(least) {
            remedies.push(self.together(knobs, &settings)?);
        }
        Ok(Shortfall {
            needed: smallest.bytes(),
            available: self.target.memory.unwrap_or(u64::MAX),
            tokens: smallest.layout.activations.budget.tokens,
            longest: needs.longest,
            remedies,
            least,
        })
    }

    /// What could be made smaller: for each setting its alternatives, the strongest last; the settings that cost the least
    /// first.
    fn changes(&self, knobs: Knobs, needs: &Needs) -> Vec<Vec<Change>> {
        let precision = knobs.precision;
        let cuda = self.target.kind == DeviceKind::Cuda;
        let mut settings = Vec::new();
        let mut offer = |sensible: bool, alternatives: Vec<Change>| {
            if sensible && !alternatives.is_empty() {
                settings.push(alternatives);
            }
        };
        offer(knobs.tokens.is_some_and(|tokens| tokens > needs.tokens), vec![Change::FreeTokens]);
        offer(knobs.parts.is_some(), vec![Change::FreeParts(self.config.batch.groups)]);
        offer(knobs.recompute.is_some_and(|level| level != Recompute::Blocks), vec![Change::Recompute]);
        offer(knobs.samples > 0, vec![Change::NoSamples]);
        offer(precision.logits == Element::F32 && precision.storage == Element::Bf16, vec![Change::Logits]);
        offer(knobs.head_rows.is_none_or(|rows| rows > FEW_HEAD_ROWS), vec![Change::HeadRows]);
        offer(cuda && precision.storage == Element::F32, vec![Change::Dtype]);
        let states = match precision.optimizer {
            OptimizerState::F32 => vec![OptimizerState::Bf16, OptimizerState::EightBit],
            OptimizerState::Bf16 => vec![OptimizerState::EightBit],
            OptimizerState::EightBit => Vec::new(),
        };
        offer(cuda, states.into_iter().map(Change::Optimizer).collect());
        let halves =
            std::iter::successors(Some(needs.longest.next_power_of_two() / 2), |length| Some(length / 2));
        let lengths = halves.take_while(|&length| length >= SHORTEST);
        offer(true, lengths.map(Change::MaxLength).collect());
        settings
    }

    /// The fewest settings that are enough together: all at their smallest until it fits, then each taken back as far as it
    /// still does.
    fn together(&self, knobs: Knobs, settings: &[Vec<Change>]) -> Result<Remedy, TrainError> {
        let fits = |changes: &[Change]| -> Result<Option<u64>, TrainError> {
            Ok(self.bytes_with(knobs, changes)?.filter(|&bytes| self.fits(bytes)))
        };
        let mut chosen: Vec<Option<Change>> = vec![None; settings.len()];
        let flat = |chosen: &[Option<Change>]| chosen.iter().flatten().copied().collect::<Vec<_>>();
        for (place, alternatives) in settings.iter().enumerate() {
            chosen[place] = alternatives.last().copied();
            if fits(&flat(&chosen))?.is_some() {
                break;
            }
        }
        for (place, alternatives) in settings.iter().enumerate() {
            let strongest = chosen[place];
            let milder = std::iter::once(None).chain(alternatives.iter().copied().map(Some));
            for candidate in milder.take_while(|candidate| *candidate != strongest) {
                chosen[place] = candidate;
                if fits(&flat(&chosen))?.is_some() {
                    break;
                }
                chosen[place] = strongest;
            }
        }
        let changes = flat(&chosen);
        let bytes = self.bytes_with(knobs, &changes)?.unwrap_or_default();
        Ok(Remedy { settings: changes.into_iter().map(Change::typed).collect(), bytes })
    }

    /// Bytes of the smallest plan with these changes; none where they leave nothing to train on.
    fn bytes_with(&self, knobs: Knobs, changes: &[Change]) -> Result<Option<u64>, TrainError> {
        let knobs = changes.iter().fold(knobs, |knobs, change| change.apply(knobs));
        let length = changes.iter().find_map(|change| match change {
            Change::MaxLength(length) => Some(*length),
            _ => None,
        });
        let Some(length) = length else { return self.least_bytes(knobs).map(Some) };
        let mut config = self.config.clone();
        config.data.max_length = length;
        let demand = match &self.demand {
            unknown @ Demand::Unknown { .. } => unknown.clone(),
            Demand::Data { train, held_out, loader, steps } => {
                let groups = truncated(&train.groups, length);
                if groups.len() < if loader.mixing.is_some() { 2 } else { 1 } {
                    return Ok(None);
                }
                Demand::Data {
                    train: Arc::new(Dataset { groups, report: train.report.clone(), fingerprint: 0 }),
                    held_out: Cow::Owned(truncated(held_out, length)),
                    loader: loader.clone(),
                    steps: *steps,
                }
            }
        };
        Fitting { config: &config, demand, ..self.clone() }.least_bytes(knobs).map(Some)
    }
}

/// What a shorter `--max-length` would leave of the groups.
fn truncated(groups: &[Group], length: usize) -> Vec<Group> {
    let cut = |group: &Group| {
        let room = length.checked_sub(group.prompt.len())?;
        let mut group = group.clone();
        for answer in &mut group.answers {
            answer.ids.truncate(room);
            if let Some(scored) = &mut answer.scored {
                scored.truncate(room);
            }
        }
        group.answers.iter().all(|answer| answer.scored_tokens() > 0).then_some(group)
    };
    groups.iter().filter_map(cut).collect()
}
