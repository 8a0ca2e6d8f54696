//! `facts.json`: what a run knows before its first step and nothing else in its folder says, for who reads the run later
//! (`asft report`, `asft watch`): its length, the device, the memory plan, figures about the data.
//!
//! Boundary: facts of the beginning. What happens later is in the records.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Prepared;
use crate::checkpoint::{CheckpointError, atomic};
use crate::data::{Dataset, Spans};
use crate::inspect::{Lengths, Stats};
use crate::plan::ARENAS;

/// The file in the run folder.
pub const FACTS_FILE: &str = "facts.json";

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFacts {
    /// The objective, or the names and weights of a sum.
    pub objective: String,
    /// What the logs call the device.
    pub device: String,
    /// Parameters of the model.
    pub parameters: usize,
    /// Optimizer steps of the whole run.
    pub steps: usize,
    /// Passes over the data.
    pub epochs: f64,
    /// Bytes of the memory plan, part by part.
    pub planned: Vec<PlannedBytes>,
    /// What is trained on.
    pub data: DataFacts,
    /// What is held out.
    pub eval_data: Option<DataFacts>,
}

/// Bytes of one part of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBytes {
    /// What it holds.
    pub what: String,
    /// How many.
    pub bytes: u64,
}

/// Figures about a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataFacts {
    /// Rows read.
    pub rows: usize,
    /// Rows of an epoch.
    pub used: usize,
    /// Rows that cannot be used.
    pub dropped: usize,
    /// Answers cut by the maximum length.
    pub truncated_answers: usize,
    /// Rows whose two answers are the same.
    pub identical_answers: usize,
    /// Lengths in tokens of the parts of a row.
    pub lengths: Vec<PartLengths>,
    /// Tokens of an epoch that the model learns to predict.
    pub scored_tokens: usize,
    /// Tokens of an epoch, each prompt once.
    pub packed_tokens: usize,
    /// Tokens of an epoch if each answer had a copy of its prompt.
    pub separate_tokens: usize,
}

/// Lengths of one part of the rows, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLengths {
    /// `prompt`, `chosen`, ..., `prompt + answer`.
    pub part: String,
    /// The shortest.
    pub min: usize,
    /// Half of them are no longer.
    pub median: usize,
    /// 90% of them are no longer.
    pub p90: usize,
    /// The longest.
    pub max: usize,
}

impl RunFacts {
    /// Of a run that is about to start on the device.
    pub(super) fn of(prepared: &Prepared, device: &str) -> Self {
        let objective = prepared.objective.as_ref();
        let spans = Spans { answers: objective.learns_from(), ..objective.spans() };
        let plan = &prepared.layout.plan;
        let planned = ARENAS
            .into_iter()
            .map(|arena| PlannedBytes { what: arena.title().to_owned(), bytes: plan.bytes(arena) as u64 });
        Self {
            objective: objective.name().to_owned(),
            device: device.to_owned(),
            parameters: prepared.layout.model.table.count(),
            steps: prepared.steps,
            epochs: prepared.epochs,
            planned: planned.filter(|part| part.bytes > 0).collect(),
            data: DataFacts::of(&prepared.train, spans),
            eval_data: prepared.eval.as_ref().map(|eval| DataFacts::of(eval, spans)),
        }
    }

    /// Bytes of the whole plan.
    pub fn planned_bytes(&self) -> u64 {
        self.planned.iter().map(|part| part.bytes).sum()
    }

    /// Writes the file, whole or not at all.
    pub(super) fn save(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(FACTS_FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CheckpointError::file(&path, format!("cannot be written as JSON: {error}")))?;
        atomic::save_bytes(&path, (text + "\n").as_bytes())
    }
}

impl DataFacts {
    fn of(data: &Dataset, spans: Spans) -> Self {
        let stats = Stats::of(&data.groups, spans);
        let part = |part: &str, lengths: Lengths| PartLengths {
            part: part.to_owned(),
            min: lengths.min,
            median: lengths.median,
            p90: lengths.p90,
            max: lengths.max,
        };
        let answers = stats.answers.iter().map(|(role, lengths)| part(role.name(), *lengths));
        let lengths = std::iter::once(part("prompt", stats.prompt))
            .chain(answers)
            .chain([part("prompt + longest answer", stats.sequence)]);
        Self {
            rows: data.report.rows,
            used: data.groups.len(),
            dropped: data.report.dropped.len(),
            truncated_answers: data.report.truncated_answers,
            identical_answers: data.report.identical_answers,
            lengths: lengths.collect(),
            scored_tokens: stats.scored,
            packed_tokens: stats.packed,
            separate_tokens: stats.separate,
        }
    }
}
