//! `split`: a file in two, for training and for evaluation, so that no prompt is in both.
//!
//! Which prompts are held out is drawn as `--eval-split` draws them, and depends on the seed and on the order in which prompts
//! first appear. What a row's prompt is says its shape ([`crate::data::shape`]); rows of another shape have the column `prompt`.
//! Where there is no prompt (two conversations that share no message, a transcript that is none), a row stays by itself.
//!
//! The file is read twice, so that nothing of it but a few bytes for each row is in memory. Boundary: rows are written as they
//! are.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::explicit::explicit;
use super::{Input, Made, Output, PrepareError, Report, Task};
use crate::data::dataset::hold_out;
use crate::data::{ColumnMap, DataError, FileShape, RowError};
use crate::progress::Progress;

/// What is held out, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitConfig {
    /// How many rows.
    pub held_out: HeldOut,
    /// The file for them; the others go to the task's.
    pub output: Output,
    /// Decides which.
    pub seed: u64,
}

/// How many rows are held out, as far as prompts with several rows allow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeldOut {
    /// A share of them, between 0 and 1.
    Fraction(f64),
    /// This many.
    Rows(usize),
}

/// Writes both files, the rows in their order.
///
/// # Errors
/// Rows that are not what they must be, too few prompts, files that cannot be read or written.
pub fn split(task: &Task, config: &SplitConfig, progress: &mut dyn Progress) -> Result<Report, PrepareError> {
    task.output.check()?;
    config.output.check()?;
    let mut report = Report::new(&task.data);
    let by_prompt = rows_by_prompt(task, &mut report, progress)?;
    let held_out = choose(&by_prompt, config, &report)?;
    let rows = Input::open(&task.data, &task.columns, progress)?;
    let (kept, held) = task.output.write(|kept| {
        config.output.write(|held| {
            for row in rows {
                let row = row?;
                match held_out.contains(&row.index) {
                    true => held.write(&row.columns)?,
                    false => kept.write(&row.columns)?,
                }
            }
            Ok((kept.written(), held.written()))
        })
    })?;
    report.written = vec![(task.output.path.clone(), kept), (config.output.path.clone(), held)];
    report.notes.push((by_prompt.len(), "distinct prompts, none of them in both files".to_owned()));
    Ok(report)
}

/// The rows of each distinct prompt, in the order of first appearance.
fn rows_by_prompt(
    task: &Task,
    report: &mut Report,
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<usize>>, PrepareError> {
    let mut input = Input::open(&task.data, &task.columns, progress)?;
    let (mut known, mut by_prompt): (HashMap<u128, usize>, Vec<Vec<usize>>) = Default::default();
    let mut keys = None;
    while let Some(row) = input.next().transpose()? {
        let wrong = |problem| input.wrong(&row, problem);
        let keys = match &keys {
            Some(keys) => keys,
            None => keys.insert(Keys::of(&row.columns, (input.numbering(), row.line)).map_err(wrong)?),
        };
        let key = keys.key(&row.columns).map_err(wrong)?;
        let index = *known.entry(xxh3_128(key.as_bytes())).or_insert(by_prompt.len());
        if index == by_prompt.len() {
            by_prompt.push(Vec::new());
        }
        by_prompt[index].push(row.index);
    }
    report.read = input.read();
    report.shape = match keys {
        None => return Err(DataError::Empty { paths: vec![task.data.clone()] }.into()),
        Some(Keys::Shape(shape)) => Some(shape.shape),
        Some(Keys::Prompt) => None,
    };
    Ok(by_prompt)
}

fn choose(
    by_prompt: &[Vec<usize>],
    config: &SplitConfig,
    report: &Report,
) -> Result<HashSet<usize>, PrepareError> {
    let (rows, prompts) = (report.read, by_prompt.len());
    let wanted = match config.held_out {
        HeldOut::Fraction(fraction) => ((rows as f64 * fraction).round() as usize).max(1),
        HeldOut::Rows(wanted) => wanted,
    };
    let held_out = hold_out(by_prompt, wanted, config.seed);
    match wanted < rows && held_out.len() < rows {
        true => Ok(held_out),
        false => Err(PrepareError::SplitTooSmall { wanted, rows, prompts }),
    }
}

/// How the prompts of a file are told from each other.
enum Keys {
    /// By the prompt that training would find.
    Shape(Box<FileShape>),
    /// By the column `prompt`.
    Prompt,
}

impl Keys {
    fn of(row: &Map<String, Value>, place: (crate::data::Numbering, usize)) -> Result<Self, RowError> {
        match FileShape::of(row, place, &ColumnMap::default(), false) {
            Ok(shape) => Ok(Keys::Shape(Box::new(shape))),
            Err(RowError::MissingColumn { .. }) if row.contains_key("prompt") => Ok(Keys::Prompt),
            Err(problem) => Err(problem),
        }
    }

    fn key(&self, row: &Map<String, Value>) -> Result<String, RowError> {
        let whole = || Value::from(row.clone()).to_string();
        let Keys::Shape(shape) = self else {
            return Ok(row.get("prompt").map_or_else(whole, Value::to_string));
        };
        let rows = match explicit(shape.read(row, &ColumnMap::default())?, row) {
            Made::Rows(rows) => rows,
            Made::Nothing(_) => return Ok(whole()),
        };
        let prompt = rows.first().and_then(|row| row.get("prompt").or_else(|| row.get("prompt_input_ids")));
        let empty = |prompt: &&Value| {
            prompt.as_array().is_some_and(Vec::is_empty) || prompt.as_str().is_some_and(str::is_empty)
        };
        Ok(prompt.filter(|prompt| !empty(prompt)).map_or_else(whole, Value::to_string))
    }
}
