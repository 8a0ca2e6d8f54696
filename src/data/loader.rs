//! A data set -> optimizer steps of packed micro-batches, prepared ahead on a thread.
//!
//! The order of the groups is a pure function of (seed, epoch), the cut of a step into micro-batches one of the
//! step's groups, so a resumed run begins at another first step and sees what the first run would have seen.
//! Everything that can be wrong with the budgets is found when the loader is made.
//!
//! With mixtures the order is [`super::mixture`]'s: two groups that are mixed stand side by side in one step and go into one
//! micro-batch.
//!
//! Boundary: which group when, and beside which others; the layout of a micro-batch is [`super::batch`]'s.

use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::batch::{Batch, Spans, Step, StepTotals, pack_mixed};
use super::dataset::Dataset;
use super::error::DataError;
use super::group::{Answer, Group};
use super::mixture::{Halves, Mixing, Mixture};
use super::order::permutation;
use super::role::Role;
use super::work::Work;

/// Steps packed ahead of the one in use.
const AHEAD: usize = 2;

/// How a data set becomes steps.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Of the shuffle.
    pub seed: u64,
    /// Whether each epoch has an order of its own; otherwise every epoch keeps that of the data set.
    pub shuffle: bool,
    /// Groups per optimizer step; an epoch's last step may have fewer.
    pub batch_size: usize,
    /// Upper bound of a micro-batch's tokens T; 0 for none.
    pub token_budget: usize,
    /// Upper bound of a micro-batch's response rows R; 0 for none.
    pub row_budget: usize,
    /// Micro-batches per step, as equal in groups as can be (as many as there are groups where those are
    /// fewer); `None` to let the budgets decide.
    pub parts: Option<usize>,
    /// What is packed.
    pub spans: Spans,
    /// What is packed for scoring before, where that is more.
    pub scored: Option<Spans>,
    /// How groups are mixed, if they are.
    pub mixing: Option<Mixing>,
}

/// What a run's steps come to: the largest micro-batch in each respect, for the memory plan, and the sum of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Tokens T.
    pub tokens: usize,
    /// Response rows R.
    pub rows: usize,
    /// Groups.
    pub groups: usize,
    /// Micro-batches of one step.
    pub batches: usize,
    /// Micro-batches of all steps.
    pub all_batches: usize,
    /// What is in those with gradients.
    pub work: Work,
    /// What is in those that are scored before, where that is more ([`LoaderConfig::scored`]).
    pub scoring: Work,
}

/// An iterator over the steps of a run.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while it is being dropped or once it has ended.
    steps: Option<Receiver<Step>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// A loader of the steps `first_step..=last_step`, counted from 1 over all epochs.
    ///
    /// # Errors
    /// A group or a prescribed part that exceeds a budget; settings that make no sense; a data set without groups.
    pub fn new(
        dataset: Arc<Dataset>,
        config: LoaderConfig,
        first_step: usize,
        last_step: usize,
    ) -> Result<Self, DataError> {
        let plan = Plan::new(dataset, config, first_step..=last_step)?;
        plan.extent()?;
        let (sender, receiver) = sync_channel(AHEAD);
        let work = move || {
            let mut epoch = Epoch::default();
            for index in plan.steps.clone() {
                // The receiver is gone once the loader is dropped.
                if sender.send(plan.step(index, &mut epoch)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("data loader".to_owned()).spawn(work);
        let thread = thread
            .map_err(|_| DataError::LoaderSetting("the system refuses a thread for the data loader"))?;
        Ok(Self { steps: Some(receiver), thread: Some(thread) })
    }

    /// The largest micro-batch that a loader of these steps would yield and the sum of all, without making one.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn measure(
        dataset: Arc<Dataset>,
        config: LoaderConfig,
        first_step: usize,
        last_step: usize,
    ) -> Result<Extent, DataError> {
        Plan::new(dataset, config, first_step..=last_step)?.extent()
    }

    /// The packed tokens of every step that a loader of these would yield.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn tokens_by_step(
        dataset: Arc<Dataset>,
        config: LoaderConfig,
        last_step: usize,
    ) -> Result<Vec<u64>, DataError> {
        let (spans, mut epoch) = (config.spans, Epoch::default());
        let plan = Plan::new(dataset, config, 1..=last_step)?;
        let tokens = |group: &&Group| spans.tokens(group) as u64;
        Ok((1..=last_step)
            .map(|step| plan.members(step, &mut epoch).groups.iter().map(tokens).sum())
            .collect())
    }

    /// Optimizer steps of one epoch.
    pub fn steps_per_epoch(groups: usize, batch_size: usize) -> usize {
        groups.div_ceil(batch_size.max(1))
    }

    fn join(&mut self) -> std::thread::Result<()> {
        self.steps = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Iterator for Loader {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.steps.as_ref().and_then(|steps| steps.recv().ok()) {
            return Some(step);
        }
        // Without this a panic of the thread would look like the end of the data.
        if let Err(panic) = self.join() {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // A panic of the thread has no one left to tell.
        let _ = self.join();
    }
}

/// The pure part: what each step holds.
struct Plan {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    /// Of the data set, where groups are mixed.
    halves: Option<Halves>,
    steps: RangeInclusive<usize>,
}

/// The groups of a step in its order, and which of them are mixed.
struct Members<'a> {
    groups: Vec<&'a Group>,
    mixtures: Vec<Mixture>,
}

/// Groups of a step that belong into one micro-batch.
struct Unit {
    places: Vec<usize>,
    tokens: usize,
    rows: usize,
}

impl Members<'_> {
    /// Two groups that are mixed, or one that is not.
    fn units(&self, spans: Spans) -> Vec<Unit> {
        let mut mixtures = self.mixtures.iter().peekable();
        let mut place = 0;
        let mut units = Vec::new();
        while place < self.groups.len() {
            let mixture = mixtures.next_if(|mixture| mixture.first == place);
            let places: Vec<usize> = (place..=mixture.map_or(place, |mixture| mixture.second)).collect();
            place += places.len();
            let sum =
                |size: &dyn Fn(&Group) -> usize| places.iter().map(|place| size(self.groups[*place])).sum();
            let tokens: usize = sum(&|group| spans.tokens(group));
            let rows: usize = sum(&|group| spans.rows(group));
            let mixed = mixture.map_or(0, |mixture| mixture.rows(&self.groups));
            units.push(Unit { places, tokens, rows: rows + mixed });
        }
        units
    }

    fn mixed_rows(&self) -> usize {
        self.mixtures.iter().map(|mixture| mixture.rows(&self.groups)).sum()
    }
}

/// The order of the epoch in use, made once an epoch.
#[derive(Default)]
struct Epoch {
    number: Option<usize>,
    order: Vec<usize>,
}

impl Plan {
    fn new(
        dataset: Arc<Dataset>,
        config: LoaderConfig,
        steps: RangeInclusive<usize>,
    ) -> Result<Self, DataError> {
        let setting = |wrong: bool, message| match wrong {
            true => Err(DataError::LoaderSetting(message)),
            false => Ok(()),
        };
        setting(dataset.groups.is_empty(), "the data set has no rows to make steps of")?;
        let silent = |answer: &Answer| answer.scored_tokens() == 0;
        let hollow = |group: &Group| group.prompt.is_empty() || group.answers.iter().any(silent);
        setting(
            dataset.groups.iter().any(hollow),
            "the data set has a prompt without tokens or an answer without scored tokens",
        )?;
        let lopsided =
            |answer: &Answer| answer.scored.as_ref().is_some_and(|scored| scored.len() != answer.ids.len());
        setting(
            dataset.groups.iter().flat_map(|group| &group.answers).any(lopsided),
            "the data set has an answer whose mask is not as long as its tokens",
        )?;
        setting(config.batch_size == 0, "the batch size must be at least 1")?;
        setting(config.parts == Some(0), "a step must have at least 1 micro-batch")?;
        setting(*steps.start() == 0, "steps are counted from 1")?;
        let halves = config.mixing.and_then(|_| Halves::of(&dataset.groups));
        if config.mixing.is_some() {
            setting(halves.is_none(), "rows are mixed by their confidence, and a row has none")?;
            setting(config.batch_size % 2 == 1, "rows are mixed in pairs: --batch-size must be even")?;
            setting(dataset.groups.len() < 2, "rows are mixed in pairs, and there is only one row")?;
        }
        let plan = Self { dataset, config, halves, steps };
        let most = plan.config.scored.unwrap_or(plan.config.spans);
        plan.check_groups("tokens", plan.config.token_budget, |group| most.tokens(group))?;
        plan.check_groups("scored rows", plan.config.row_budget, |group| most.rows(group))?;
        Ok(plan)
    }

    fn check_groups(
        &self,
        unit: &'static str,
        budget: usize,
        need: impl Fn(&Group) -> usize,
    ) -> Result<(), DataError> {
        let groups = &self.dataset.groups;
        let Some(group) = groups.iter().find(|group| budget > 0 && need(group) > budget) else {
            return Ok(());
        };
        let location = match self.dataset.report.locate(group.row) {
            Some(place) => place.to_string(),
            None => "counted from 0".to_owned(),
        };
        let enough = groups.iter().map(&need).max().unwrap_or(0);
        Err(DataError::GroupTooLarge { row: group.row, location, unit, needed: need(group), budget, enough })
    }

    /// Goes through all steps without packing them.
    fn extent(&self) -> Result<Extent, DataError> {
        let mut extent = Extent::default();
        let mut epoch = Epoch::default();
        for step in self.steps.clone() {
            let members = self.members(step, &mut epoch);
            for (parts, part) in self.parts(&members) {
                extent.batches = extent.batches.max(parts);
                extent.all_batches += 1;
                let Unit { places, tokens, rows } = part;
                for (unit, needed, budget) in [
                    ("tokens", tokens, self.config.token_budget),
                    ("scored rows", rows, self.config.row_budget),
                ] {
                    if budget > 0 && needed > budget {
                        // Cut by the budget, a micro-batch is too large only where two groups have to stay together.
                        if self.config.parts.is_none() {
                            let rows = [0, 1].map(|place| members.groups[places[place]].row);
                            return Err(DataError::PairTooLarge { rows, unit, needed, budget });
                        }
                        return Err(DataError::PartTooLarge { step, parts, unit, needed, budget });
                    }
                }
                if u32::try_from(tokens).is_err() {
                    return Err(DataError::LoaderSetting(
                        "a micro-batch of 2^32 tokens or more; set a budget of tokens",
                    ));
                }
                extent.tokens = extent.tokens.max(tokens);
                extent.rows = extent.rows.max(rows);
                extent.groups = extent.groups.max(places.len());
            }
            let mixed = Work { rows: members.mixed_rows() as u64, ..Work::default() };
            let groups = &members.groups;
            let work = |spans| mixed + groups.iter().map(|group| Work::of_group(group, spans)).sum::<Work>();
            extent.work = extent.work + work(self.config.spans);
            extent.scoring = extent.scoring + self.config.scored.map(work).unwrap_or_default();
        }
        Ok(extent)
    }

    /// The groups of a step in its order.
    fn members(&self, step: usize, epoch: &mut Epoch) -> Members<'_> {
        let groups = &self.dataset.groups;
        let per_epoch = Loader::steps_per_epoch(groups.len(), self.config.batch_size);
        let number = (step - 1) / per_epoch;
        if epoch.number != Some(number) {
            let LoaderConfig { seed, shuffle, .. } = self.config;
            epoch.order = match &self.halves {
                Some(halves) => halves.order(seed, number, shuffle),
                None if shuffle => permutation(groups.len(), seed, number as u64),
                None => (0..groups.len()).collect(),
            };
            epoch.number = Some(number);
        }
        let start = (step - 1) % per_epoch * self.config.batch_size;
        let end = (start + self.config.batch_size).min(groups.len());
        let groups: Vec<&Group> = epoch.order[start..end].iter().map(|index| &groups[*index]).collect();
        let mixing = self.config.mixing;
        let mixtures =
            mixing.map_or(Vec::new(), |mixing| mixing.of_step(groups.len(), self.config.seed, step));
        Members { groups, mixtures }
    }

    fn step(&self, index: usize, epoch: &mut Epoch) -> Step {
        let members = self.members(index, epoch);
        let pack_all = |spans: Spans| -> Vec<Batch> {
            let parts = cut(members.units(spans), &self.config);
            parts.iter().map(|part| batch(&members, &part.places, spans)).collect()
        };
        let batches = pack_all(self.config.spans);
        let scoring = self.config.scored.map(pack_all).unwrap_or_default();
        let per_epoch = Loader::steps_per_epoch(self.dataset.groups.len(), self.config.batch_size);
        let mut totals = StepTotals::of(members.groups.iter().copied());
        totals.answer_tokens[Role::Mixed] = members.mixed_rows();
        Step { index, epoch: index as f64 / per_epoch as f64, batches, scoring, totals }
    }

    /// The number of micro-batches of a step and one of them after the other: those with gradients, then those that are scored
    /// before.
    fn parts(&self, members: &Members<'_>) -> impl Iterator<Item = (usize, Unit)> + use<> {
        let all = [Some(self.config.spans), self.config.scored].into_iter().flatten().map(|spans| {
            let parts = cut(members.units(spans), &self.config);
            let count = parts.len();
            parts.into_iter().map(move |part| (count, part))
        });
        all.flatten().collect::<Vec<_>>().into_iter()
    }
}

fn batch(members: &Members<'_>, part: &[usize], spans: Spans) -> Batch {
    let groups: Vec<&Group> = part.iter().map(|place| members.groups[*place]).collect();
    // Both groups of a mixture are in one part, and a part's places ascend.
    let within = |mixture: &Mixture| {
        let first = part.binary_search(&mixture.first).ok()?;
        Some(Mixture { first, second: first + 1, ..*mixture })
    };
    let mixtures: Vec<Mixture> = members.mixtures.iter().filter_map(within).collect();
    let mut batch = pack_mixed(&groups, spans, &mixtures);
    for (entry, place) in batch.groups.iter_mut().zip(part) {
        entry.group = *place as u32;
    }
    batch
}

/// Cuts a step into micro-batches of whole units: places ascending within each, batches by their first place.
fn cut(units: Vec<Unit>, config: &LoaderConfig) -> Vec<Unit> {
    match config.parts {
        Some(parts) => {
            let parts = parts.min(units.len());
            cut_evenly(units, parts)
        }
        None => cut_by_budget(units, config),
    }
}

impl Unit {
    const EMPTY: Self = Self { places: Vec::new(), tokens: 0, rows: 0 };

    fn add(&mut self, other: Unit) {
        self.places.extend(other.places);
        self.tokens += other.tokens;
        self.rows += other.rows;
    }
}

/// Runs of units whose counts differ by one at most, the larger ones first.
fn cut_evenly(units: Vec<Unit>, parts: usize) -> Vec<Unit> {
    let (size, larger) = (units.len() / parts, units.len() % parts);
    let mut units = units.into_iter();
    let mut part = |part| {
        let mut all = Unit::EMPTY;
        units.by_ref().take(size + usize::from(part < larger)).for_each(|unit| all.add(unit));
        all
    };
    (0..parts).map(&mut part).collect()
}

/// First fit by decreasing length: the longest unit not yet placed goes into the first micro-batch that has
/// room for it, else into a new one.
fn cut_by_budget(mut units: Vec<Unit>, config: &LoaderConfig) -> Vec<Unit> {
    let fits = |used: usize, more: usize, budget: usize| budget == 0 || used + more <= budget;
    // A stable sort: equal lengths stay in the order of the step.
    units.sort_by_key(|unit| Reverse(unit.tokens));
    let mut parts: Vec<Unit> = Vec::new();
    for unit in units {
        let room = parts.iter_mut().find(|part| {
            fits(part.tokens, unit.tokens, config.token_budget)
                && fits(part.rows, unit.rows, config.row_budget)
        });
        match room {
            Some(part) => part.add(unit),
            None => parts.push(unit),
        }
    }
    for part in &mut parts {
        part.places.sort_unstable();
    }
    parts.sort_unstable_by_key(|part| part.places[0]);
    parts
}
