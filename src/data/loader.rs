//! A data set -> optimizer steps of packed micro-batches, prepared ahead on a thread.
//!
//! The order of the groups is a pure function of (seed, epoch), the cut of a step into micro-batches one of the
//! step's groups, so a resumed run begins at another first step and sees what the first run would have seen.
//! Everything that can be wrong with the budgets is found when the loader is made.
//!
//! Boundary: which group when, and beside which others; the layout of a micro-batch is [`super::batch`]'s.

use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::batch::{Batch, Spans, Step, StepTotals, pack};
use super::dataset::Dataset;
use super::error::DataError;
use super::group::{Answer, Group};
use super::order::permutation;
use super::work::Work;

/// Steps packed ahead of the one in use.
const AHEAD: usize = 2;

/// How a data set becomes steps.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        Ok((1..=last_step).map(|step| plan.groups(step, &mut epoch).iter().map(tokens).sum()).collect())
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
    steps: RangeInclusive<usize>,
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
        let plan = Self { dataset, config, steps };
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
            let groups = self.groups(step, &mut epoch);
            for (spans, parts, part) in self.parts(&groups) {
                extent.batches = extent.batches.max(parts);
                extent.all_batches += 1;
                let sum =
                    |size: &dyn Fn(&Group) -> usize| part.iter().map(|place| size(groups[*place])).sum();
                let tokens: usize = sum(&|group| spans.tokens(group));
                let rows: usize = sum(&|group| spans.rows(group));
                for (unit, needed, budget) in [
                    ("tokens", tokens, self.config.token_budget),
                    ("scored rows", rows, self.config.row_budget),
                ] {
                    if budget > 0 && needed > budget {
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
                extent.groups = extent.groups.max(part.len());
            }
            let work = |spans: Spans| groups.iter().map(|group| Work::of_group(group, spans)).sum::<Work>();
            extent.work = extent.work + work(self.config.spans);
            extent.scoring = extent.scoring + self.config.scored.map(work).unwrap_or_default();
        }
        Ok(extent)
    }

    /// The groups of a step in its order.
    fn groups(&self, step: usize, epoch: &mut Epoch) -> Vec<&Group> {
        let groups = &self.dataset.groups;
        let per_epoch = Loader::steps_per_epoch(groups.len(), self.config.batch_size);
        let number = (step - 1) / per_epoch;
        if epoch.number != Some(number) {
            epoch.order = match self.config.shuffle {
                true => permutation(groups.len(), self.config.seed, number as u64),
                false => (0..groups.len()).collect(),
            };
            epoch.number = Some(number);
        }
        let start = (step - 1) % per_epoch * self.config.batch_size;
        let end = (start + self.config.batch_size).min(groups.len());
        epoch.order[start..end].iter().map(|index| &groups[*index]).collect()
    }

    fn step(&self, index: usize, epoch: &mut Epoch) -> Step {
        let groups = self.groups(index, epoch);
        let pack_all = |spans: Spans| -> Vec<Batch> {
            let parts = cut(&groups, &self.config, spans);
            parts.iter().map(|part| batch(&groups, part, spans)).collect()
        };
        let batches = pack_all(self.config.spans);
        let scoring = self.config.scored.map(pack_all).unwrap_or_default();
        let per_epoch = Loader::steps_per_epoch(self.dataset.groups.len(), self.config.batch_size);
        let totals = StepTotals::of(groups.iter().copied());
        Step { index, epoch: index as f64 / per_epoch as f64, batches, scoring, totals }
    }

    /// What is packed of a step, its number of micro-batches and one of them after the other: those with gradients, then
    /// those that are scored before.
    fn parts(&self, groups: &[&Group]) -> impl Iterator<Item = (Spans, usize, Vec<usize>)> {
        let all = [Some(self.config.spans), self.config.scored].into_iter().flatten().map(|spans| {
            let parts = cut(groups, &self.config, spans);
            parts.clone().into_iter().map(move |part| (spans, parts.len(), part))
        });
        all.flatten().collect::<Vec<_>>().into_iter()
    }
}

fn batch(groups: &[&Group], part: &[usize], spans: Spans) -> Batch {
    let members: Vec<&Group> = part.iter().map(|place| groups[*place]).collect();
    let mut batch = pack(&members, spans);
    for (entry, place) in batch.groups.iter_mut().zip(part) {
        entry.group = *place as u32;
    }
    batch
}

/// Cuts a step into micro-batches: places in `groups`, ascending within each, batches by their first place.
fn cut(groups: &[&Group], config: &LoaderConfig, spans: Spans) -> Vec<Vec<usize>> {
    match config.parts {
        Some(parts) => cut_evenly(groups.len(), parts.min(groups.len())),
        None => cut_by_budget(groups, config, spans),
    }
}

/// Runs of groups whose sizes differ by one at most, the larger ones first.
fn cut_evenly(groups: usize, parts: usize) -> Vec<Vec<usize>> {
    let (size, larger) = (groups / parts, groups % parts);
    let mut next = 0;
    let part = |part| {
        let start = next;
        next += size + usize::from(part < larger);
        (start..next).collect()
    };
    (0..parts).map(part).collect()
}

/// First fit by decreasing length: the longest group not yet placed goes into the first micro-batch that has
/// room for it, else into a new one.
fn cut_by_budget(groups: &[&Group], config: &LoaderConfig, spans: Spans) -> Vec<Vec<usize>> {
    struct Part {
        places: Vec<usize>,
        tokens: usize,
        rows: usize,
    }
    let fits = |used: usize, more: usize, budget: usize| budget == 0 || used + more <= budget;
    let mut order: Vec<usize> = (0..groups.len()).collect();
    // A stable sort: equal lengths stay in the order of the step.
    order.sort_by_key(|place| Reverse(spans.tokens(groups[*place])));
    let mut parts: Vec<Part> = Vec::new();
    for place in order {
        let (tokens, rows) = (spans.tokens(groups[place]), spans.rows(groups[place]));
        let room = parts.iter_mut().find(|part| {
            fits(part.tokens, tokens, config.token_budget) && fits(part.rows, rows, config.row_budget)
        });
        match room {
            Some(part) => {
                part.places.push(place);
                part.tokens += tokens;
                part.rows += rows;
            }
            None => parts.push(Part { places: vec![place], tokens, rows }),
        }
    }
    let mut parts: Vec<Vec<usize>> = parts.into_iter().map(|part| part.places).collect();
    for part in &mut parts {
        part.sort_unstable();
    }
    parts.sort_unstable_by_key(|part| part[0]);
    parts
}
