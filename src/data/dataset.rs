//! Files -> a [`Dataset`] of usable groups with a report of what was read, dropped and cut; or, for scoring,
//! every row in order with the reason where it cannot be used. Also the evaluation split.
//!
//! Boundary: this file knows where a row came from, counts, and spreads the encoding over threads. Which reader
//! a file gets is decided in `open`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::encode::{Encoded, Encoder, Notes, Reason};
use super::error::{DataError, RowError};
use super::group::Group;
use super::order::{SPLIT_STREAM, permutation};
use super::rows::{JsonlReader, Row};
use super::shape::{FileShape, RowKind};

/// Rows encoded at a time: enough to keep every thread busy, few enough that their JSON stays small.
const CHUNK: usize = 2048;

/// What is trained or evaluated on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The usable rows in the order of the files.
    pub groups: Vec<Group>,
    /// What became of all rows.
    pub report: LoadReport,
    /// xxh3 of the token ids of all groups in order, of their borders and of which are scored.
    pub fingerprint: u64,
}

/// What loading did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// The files in the order given.
    pub files: Vec<FileRows>,
    /// Rows read, blank lines not counted.
    pub rows: usize,
    /// Rows of plain text, of conversations, of token ids.
    pub kinds: Kinds,
    /// Rows that cannot be used.
    pub dropped: Vec<Skipped>,
    /// Rows whose split moved back to the common prefix.
    pub moved_splits: usize,
    /// Answers cut by the maximum length.
    pub truncated_answers: usize,
    /// Answers that lost their end token by it.
    pub lost_ends: usize,
    /// Usable rows whose two answers have the same tokens.
    pub identical_answers: usize,
    /// Special tokens written in the text of usable rows.
    pub special_tokens: usize,
    /// Tokens of the longest prompt + answer, after truncation.
    pub longest: usize,
}

/// How many rows were of which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Plain text.
    pub text: usize,
    /// Lists of messages.
    pub conversation: usize,
    /// Token ids.
    pub tokens: usize,
}

/// The rows of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRows {
    /// The file.
    pub path: PathBuf,
    /// The number of its first row.
    pub first_row: usize,
    /// The 1-based line of each of its rows.
    pub lines: Vec<u32>,
    /// How they were read; `None` where there are none.
    pub shape: Option<FileShape>,
}

/// A row that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// 0-based row, as in [`Group::row`].
    pub row: usize,
    /// 1-based line of its file.
    pub line: usize,
    /// Why.
    pub reason: Reason,
}

/// Loads preference data; rows of the files count on from file to file.
///
/// # Errors
/// The first row, in the order of the files, that is not what it must be; no rows at all; no usable row.
pub fn load(paths: &[PathBuf], encoder: &Encoder) -> Result<Dataset, DataError> {
    let mut report = LoadReport::default();
    let mut groups = Vec::new();
    for path in paths {
        read_file(path, encoder, &mut report, |outcome| groups.extend(outcome.ok()))?;
    }
    if report.rows == 0 {
        return Err(DataError::Empty { paths: paths.to_vec() });
    }
    if groups.is_empty() {
        let summary = report.dropped_summary();
        return Err(DataError::AllDropped { paths: paths.to_vec(), rows: report.rows, summary });
    }
    Ok(Dataset::new(groups, report))
}

/// Every row of a file in order, for scoring: a group, or why there is none; and what loading did.
///
/// # Errors
/// As [`load`], but a file without (usable) rows is no error.
pub fn load_rows(
    path: &Path,
    encoder: &Encoder,
) -> Result<(Vec<Result<Group, Skipped>>, LoadReport), DataError> {
    let (mut rows, mut report) = (Vec::new(), LoadReport::default());
    read_file(path, encoder, &mut report, |outcome| rows.push(outcome))?;
    Ok((rows, report))
}

impl Dataset {
    /// A data set of these groups, with its fingerprint.
    pub fn new(groups: Vec<Group>, report: LoadReport) -> Self {
        let fingerprint = fingerprint(&groups);
        Self { groups, report, fingerprint }
    }

    /// Holds out a fraction of the groups: (training, evaluation), both in the order of the files and both
    /// carrying the report of the whole. Groups with one prompt go to one side, so that nothing held out was
    /// trained on; which prompts are held out is a pure function of the seed. At least one group is held out.
    ///
    /// # Errors
    /// A fraction outside (0, 1), or so few prompts that nothing would be left to train on.
    pub fn split(self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(DataError::SplitFraction { fraction });
        }
        let by_prompt = rows_by_prompt(&self.groups);
        let target = ((self.groups.len() as f64 * fraction).round() as usize).max(1);
        let order = permutation(by_prompt.len(), seed, SPLIT_STREAM);
        let mut held_out = vec![false; self.groups.len()];
        let mut count = 0;
        let mut hold_out = |prompt: usize| {
            for index in &by_prompt[prompt] {
                held_out[*index] = true;
            }
            by_prompt[prompt].len()
        };
        for prompt in &order {
            if count + by_prompt[*prompt].len() <= target {
                count += hold_out(*prompt);
            }
        }
        if count == 0 {
            // Every prompt has more rows than the target: the one with the fewest is nearest.
            if let Some(prompt) = order.iter().min_by_key(|prompt| by_prompt[**prompt].len()) {
                count += hold_out(*prompt);
            }
        }
        if count == self.groups.len() {
            let (groups, prompts) = (self.groups.len(), by_prompt.len());
            return Err(DataError::SplitTooSmall { fraction, groups, prompts });
        }
        let mut sides = (Vec::with_capacity(self.groups.len() - count), Vec::with_capacity(count));
        for (group, held_out) in self.groups.into_iter().zip(held_out) {
            if held_out { sides.1.push(group) } else { sides.0.push(group) }
        }
        Ok((Dataset::new(sides.0, self.report.clone()), Dataset::new(sides.1, self.report)))
    }
}

/// Indices of the groups of each distinct prompt, prompts in order of first appearance.
fn rows_by_prompt(groups: &[Group]) -> Vec<Vec<usize>> {
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    let mut by_prompt: Vec<Vec<usize>> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let prompt = *known.entry(&group.prompt).or_insert_with(|| {
            by_prompt.push(Vec::new());
            by_prompt.len() - 1
        });
        by_prompt[prompt].push(index);
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
    }
    hash.digest()
}

/// The reader of a file, by its name.
fn open(path: &Path) -> Result<impl Iterator<Item = Result<Row, DataError>> + use<>, DataError> {
    JsonlReader::open(path)
}

/// Encodes a file chunk by chunk, on all threads, and hands the outcomes over in the order of the rows.
fn read_file(
    path: &Path,
    encoder: &Encoder,
    report: &mut LoadReport,
    mut each: impl FnMut(Result<Group, Skipped>),
) -> Result<(), DataError> {
    let first_row = report.rows;
    let mut reader = open(path)?;
    let mut file = FileRows { path: path.to_owned(), first_row, lines: Vec::new(), shape: None };
    loop {
        let (rows, failure) = next_chunk(&mut reader);
        let last = rows.len() < CHUNK;
        let wrong = |line, problem| DataError::Row { path: path.to_owned(), line, problem };
        let shape = match (file.shape.take(), rows.first()) {
            (None, Some(first)) => Some(encoder.shape(first).map_err(|problem| wrong(first.line, problem))?),
            (known, _) => known,
        };
        let encoded: Vec<_> = match &shape {
            Some(shape) => rows.into_par_iter().map(|row| encode(&row, first_row, shape, encoder)).collect(),
            None => Vec::new(),
        };
        if let Some(shape) = &shape {
            report.kinds.add(shape.shape.kind(), encoded.len());
        }
        file.shape = shape;
        for (line, outcome) in encoded {
            let outcome = outcome.map_err(|problem| wrong(line, problem))?;
            let row = report.rows;
            report.rows += 1;
            // A file of more than 2^32 lines does not fit in memory as tokens either.
            file.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
            each(match outcome {
                Encoded::Group(group, notes) => {
                    report.note(&group, notes);
                    Ok(group)
                }
                Encoded::Unusable(reason) => {
                    let skipped = Skipped { row, line, reason };
                    report.dropped.push(skipped);
                    Err(skipped)
                }
            });
        }
        // Only now: an earlier row of the chunk may have been wrong in its own way.
        if let Some(error) = failure {
            return Err(error);
        }
        if last {
            break;
        }
    }
    report.files.push(file);
    Ok(())
}

/// Up to [`CHUNK`] rows, fewer at the end of the file or before a row that cannot be read.
fn next_chunk(reader: &mut impl Iterator<Item = Result<Row, DataError>>) -> (Vec<Row>, Option<DataError>) {
    let mut rows = Vec::with_capacity(CHUNK);
    for row in reader.take(CHUNK) {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => return (rows, Some(error)),
        }
    }
    (rows, None)
}

fn encode(
    row: &Row,
    first_row: usize,
    shape: &FileShape,
    encoder: &Encoder,
) -> (usize, Result<Encoded, RowError>) {
    (row.line, encoder.encode_row(shape, first_row + row.index, row))
}

impl Kinds {
    fn add(&mut self, kind: RowKind, rows: usize) {
        match kind {
            RowKind::Text => self.text += rows,
            RowKind::Messages | RowKind::Transcript => self.conversation += rows,
            RowKind::Tokens => self.tokens += rows,
        }
    }
}

impl LoadReport {
    /// Logs how each file is read: its columns, and which of them are not used.
    pub fn log_shapes(&self) {
        for file in &self.files {
            let Some(FileShape { shape, used, ignored, .. }) = &file.shape else { continue };
            let ignored = match ignored.is_empty() {
                true => String::new(),
                false => format!("; ignored: {}", ignored.join(", ")),
            };
            tracing::info!("{}: {shape}; columns used: {}{ignored}", file.path.display(), used.join(", "));
        }
    }

    /// Logs what was cut or changed, so that nothing is silently.
    pub fn warn(&self, what: &str) {
        for (count, text) in [
            (self.truncated_answers, "answers cut by --max-length"),
            (self.lost_ends, "answers lost their end token by it"),
            (self.moved_splits, "prompts end in tokens that merge with an answer; the split moved back"),
            (
                self.identical_answers,
                "pairs have two answers of the same tokens; kept (--drop-identical drops them)",
            ),
            (
                self.special_tokens,
                "special tokens are written in the data's text; each is encoded as the token it names",
            ),
        ] {
            if count > 0 {
                tracing::warn!("{what}: {count} {text}");
            }
        }
    }

    fn note(&mut self, group: &Group, notes: Notes) {
        self.moved_splits += usize::from(notes.moved_split);
        self.truncated_answers += notes.truncated;
        self.lost_ends += notes.lost_end;
        self.identical_answers += usize::from(notes.identical);
        self.special_tokens += notes.special_tokens;
        let longest = group.answers.iter().map(|answer| group.prompt.len() + answer.ids.len()).max();
        self.longest = self.longest.max(longest.unwrap_or(0));
    }

    /// The file and the 1-based line of a row.
    pub fn locate(&self, row: usize) -> Option<(&Path, usize)> {
        let file = self.files.iter().rev().find(|file| file.first_row <= row)?;
        let line = file.lines.get(row - file.first_row)?;
        Some((&file.path, *line as usize))
    }

    /// The dropped rows by reason, in the order of the reasons.
    pub fn dropped_by_reason(&self) -> BTreeMap<Reason, Vec<Skipped>> {
        let mut by_reason: BTreeMap<Reason, Vec<Skipped>> = BTreeMap::new();
        for skipped in &self.dropped {
            by_reason.entry(skipped.reason).or_default().push(*skipped);
        }
        by_reason
    }

    /// One line for people: `2 empty chosen (lines 3, 17); 1 prompt of max-length or more (line 4)`, the first
    /// five lines of each reason; empty where nothing was dropped.
    pub fn dropped_summary(&self) -> String {
        const SHOWN: usize = 5;
        let parts = self.dropped_by_reason().into_iter().map(|(reason, rows)| {
            let shown: Vec<String> = rows.iter().take(SHOWN).map(|skipped| self.place(skipped)).collect();
            let more = if rows.len() > SHOWN { ", ..." } else { "" };
            let word = if rows.len() == 1 { "line" } else { "lines" };
            format!("{} {reason} ({word} {}{more})", rows.len(), shown.join(", "))
        });
        parts.collect::<Vec<_>>().join("; ")
    }

    /// A line by its number, with the file where there are several.
    fn place(&self, skipped: &Skipped) -> String {
        match (self.files.len(), self.locate(skipped.row)) {
            (2.., Some((path, line))) => format!("{}:{line}", path.display()),
            _ => skipped.line.to_string(),
        }
    }
}
