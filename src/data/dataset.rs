//! A [`Dataset`]: groups with a report of where they come from and a fingerprint of their tokens; and the evaluation
//! split.
//!
//! Boundary: groups in memory; files are [`super::files`]'s.

use std::collections::{HashMap, HashSet};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::error::DataError;
use super::group::Group;
use super::mismatch::add_mismatched;
use super::order::{SPLIT_STREAM, permutation};
use super::report::LoadReport;

/// What is trained or evaluated on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The usable rows in the order of the files. A row that a weight repeats is there several times.
    pub groups: Vec<Group>,
    /// What became of all rows.
    pub report: LoadReport,
    /// xxh3 of the token ids of all groups in order, of their borders, of which are scored, and of what is said of them
    /// beside.
    pub fingerprint: u64,
}

impl Dataset {
    /// A data set of these groups, with its fingerprint.
    pub fn new(groups: Vec<Group>, report: LoadReport) -> Self {
        let fingerprint = fingerprint(&groups);
        Self { groups, report, fingerprint }
    }

    /// Where a group comes from: file and line, if they are known.
    pub fn place(&self, group: &Group) -> String {
        match self.report.locate(group.row) {
            Some(place) => place.to_string(),
            None => format!("row {}", group.row),
        }
    }

    /// The same with a mismatched completion for every row ([`add_mismatched`]).
    pub fn with_mismatched(mut self, max_length: Option<usize>) -> Self {
        add_mismatched(&mut self.groups, max_length);
        Self::new(self.groups, self.report)
    }

    /// Holds out a fraction of the rows: (training, evaluation), both in the order of the files and both carrying
    /// the report of the whole. Rows with one prompt go to one side, so that nothing held out was trained on; which
    /// prompts are held out is a pure function of the seed. At least one row is held out. A row that is repeated
    /// is held out once.
    ///
    /// # Errors
    /// A fraction outside (0, 1), or so few prompts that nothing would be left to train on.
    pub fn split(self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(DataError::SplitFraction { fraction });
        }
        let by_prompt = rows_by_prompt(&self.groups);
        let rows: usize = by_prompt.iter().map(Vec::len).sum();
        let target = ((rows as f64 * fraction).round() as usize).max(1);
        let held_out = hold_out(&by_prompt, target, seed);
        if held_out.len() == rows {
            let prompts = by_prompt.len();
            return Err(DataError::SplitTooSmall { fraction, groups: rows, prompts });
        }
        let (mut train, mut eval) =
            (Vec::with_capacity(self.groups.len()), Vec::with_capacity(held_out.len()));
        let mut once = HashSet::new();
        for group in self.groups {
            if !held_out.contains(&group.row) {
                train.push(group);
            } else if once.insert(group.row) {
                eval.push(group);
            }
        }
        Ok((Dataset::new(train, self.report.clone()), Dataset::new(eval, self.report)))
    }
}

/// The rows to hold out: those of prompts drawn by the seed, as many as there is room for in `target`. Those of one prompt stay
/// together; where every prompt has more rows than the target, it is the one with the fewest.
pub(crate) fn hold_out(by_prompt: &[Vec<usize>], target: usize, seed: u64) -> HashSet<usize> {
    let order = permutation(by_prompt.len(), seed, SPLIT_STREAM);
    let mut held_out: HashSet<usize> = HashSet::new();
    for prompt in &order {
        if held_out.len() + by_prompt[*prompt].len() <= target {
            held_out.extend(&by_prompt[*prompt]);
        }
    }
    if held_out.is_empty() {
        let fewest = order.iter().min_by_key(|prompt| by_prompt[**prompt].len());
        held_out.extend(fewest.into_iter().flat_map(|prompt| &by_prompt[*prompt]));
    }
    held_out
}

/// The rows of each distinct prompt, each row once, prompts in order of first appearance.
fn rows_by_prompt(groups: &[Group]) -> Vec<Vec<usize>> {
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    let mut seen: HashSet<usize> = HashSet::new();
    let mut by_prompt: Vec<Vec<usize>> = Vec::new();
    for group in groups {
        if !seen.insert(group.row) {
            continue;
        }
        let prompt = *known.entry(&group.prompt).or_insert_with(|| {
            by_prompt.push(Vec::new());
            by_prompt.len() - 1
        });
        by_prompt[prompt].push(group.row);
    }
    by_prompt
}

fn fingerprint(groups: &[Group]) -> u64 {
    let mut hash = Xxh3::new();
    let mut add = |ids: &[u32]| {
        hash.update(&(ids.len() as u64).to_le_bytes());
        for id in ids {
            hash.update(&id.to_le_bytes());
        }
    };
    for group in groups {
        add(&group.prompt);
        for answer in &group.answers {
            // The role as a one-id list: two answers exchanged make other data. With a mask it has two ids.
            match answer.scored.as_ref().filter(|scored| scored.contains(&false)) {
                None => add(&[answer.role as u32]),
                Some(scored) => {
                    add(&[answer.role as u32, 0]);
                    add(&scored.iter().map(|scored| u32::from(*scored)).collect::<Vec<_>>());
                }
            }
            add(&answer.ids);
        }
        if let Some(annotations) = &group.annotations {
            // As they are printed for debugging, which gives every bit of a number and forgets no field.
            let said = xxh3_64(format!("{annotations:?}").as_bytes());
            add(&[said as u32, (said >> 32) as u32]);
        }
    }
    hash.digest()
}
