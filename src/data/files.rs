//! Data files -> a [`Dataset`] of the usable rows with a report of what was read, dropped and cut; or, for scoring,
//! every row in order with the reason where it cannot be used.
//!
//! Boundary: this file spreads the encoding over threads, counts, mixes files by their weights and asks the cache.
//! Which reader a file gets is [`super::source`]'s business, what a row means [`super::shape`]'s.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::cache::{Content, TokenCache};
use super::dataset::Dataset;
use super::encode::{Encoded, Encoder};
use super::error::DataError;
use super::group::Group;
use super::order::{MIX_STREAM, permutation};
use super::place::Place;
use super::report::{FileRows, Kinds, LoadReport, Skipped};
use super::rows::Row;
use super::shape::RowKind;
use super::source::{Rows, WeightedFile};
use crate::progress::{Progress, Silent};

/// Rows encoded at a time: enough to keep every thread busy, few enough that their JSON stays small.
const CHUNK: usize = 2048;
/// Seconds of tokenising that are mentioned in the log.
const WORTH_SAYING: f64 = 1.0;

/// What is loaded, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadConfig {
    /// The files in order.
    pub sources: Vec<WeightedFile>,
    /// Rows read of each file, from its beginning; `None`: all.
    pub max_rows: Option<usize>,
    /// Whether a row that cannot be used is an error.
    pub strict: bool,
    /// Decides which rows a fractional weight takes.
    pub seed: u64,
    /// Folder that keeps token ids from run to run; `None`: nothing is kept.
    pub cache: Option<PathBuf>,
}

/// One file, read; its rows count from 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FileData {
    /// The usable rows in order.
    pub groups: Vec<Group>,
    /// Of this one file.
    pub report: LoadReport,
}

impl LoadConfig {
    /// All rows of these files, once, without a cache.
    pub fn whole(paths: &[PathBuf]) -> Self {
        let sources = paths.iter().map(WeightedFile::whole).collect();
        Self { sources, max_rows: None, strict: false, seed: 0, cache: None }
    }

    /// Loads the files; their rows count on from file to file.
    ///
    /// # Errors
    /// The first row, in the order of the files, that is not what it must be; a file without rows or without usable
    /// rows; a row that cannot be used where none may be.
    pub fn load(&self, encoder: &Encoder, progress: &mut dyn Progress) -> Result<Dataset, DataError> {
        let (mut groups, mut report) = (Vec::new(), LoadReport::default());
        for source in &self.sources {
            let content = Content::of(&source.path);
            let data = self.file(&source.path, &content, encoder, progress)?;
            check_usable(&data, &source.path)?;
            let FileData { groups: mut new, report: mut of_file } = data;
            let copies = copies(new.len(), source.weight, || self.mixing_seed(&content));
            for file in &mut of_file.files {
                (file.weight, file.used) = (source.weight, copies.iter().sum());
            }
            new.iter_mut().for_each(|group| group.row += report.rows);
            groups.append(&mut repeated(new, &copies));
            report.append(of_file);
        }
        if self.sources.is_empty() {
            return Err(DataError::Empty { paths: Vec::new() });
        }
        if self.strict && !report.dropped.is_empty() {
            let (dropped, rows, summary) = (report.dropped.len(), report.rows, report.dropped_summary());
            return Err(DataError::Unusable { dropped, rows, summary });
        }
        Ok(Dataset::new(groups, report))
    }

    /// A file from the cache, or read and put there.
    fn file(
        &self,
        path: &Path,
        content: &Content,
        encoder: &Encoder,
        progress: &mut dyn Progress,
    ) -> Result<FileData, DataError> {
        let entry = self
            .cache
            .as_ref()
            .and_then(|folder| TokenCache::new(folder).entry(content, encoder, self.max_rows));
        if let Some(data) = entry.as_ref().and_then(|entry| entry.read(path)) {
            return Ok(data);
        }
        let (start, mut groups) = (Instant::now(), Vec::new());
        let report =
            read_file(path, encoder, self.max_rows, progress, |outcome| groups.extend(outcome.ok()))?;
        let seconds = start.elapsed().as_secs_f64();
        if seconds > WORTH_SAYING {
            tracing::info!("{}: {} rows tokenised in {seconds:.1} s", path.display(), report.rows);
        }
        let data = FileData { groups, report };
        if let Some(entry) = entry {
            entry.write(&data);
        }
        Ok(data)
    }

    /// Which rows a weight takes depends on the seed and on the file, not on its name or on the files beside it.
    fn mixing_seed(&self, content: &Content) -> u64 {
        let content = content.hash().unwrap_or_default();
        xxh3_64(&[&self.seed.to_le_bytes()[..], &content.to_le_bytes()].concat())
    }
}

/// Loads all rows of these files, without a cache.
///
/// # Errors
/// As [`LoadConfig::load`].
pub fn load(paths: &[PathBuf], encoder: &Encoder) -> Result<Dataset, DataError> {
    LoadConfig::whole(paths).load(encoder, &mut Silent)
}

/// Every row of a file in order, for scoring: a group, or why there is none; and what loading did.
///
/// # Errors
/// As [`load`], but a file without (usable) rows is no error.
pub fn load_rows(
    path: &Path,
    encoder: &Encoder,
    progress: &mut dyn Progress,
) -> Result<(Vec<Result<Group, Skipped>>, LoadReport), DataError> {
    let mut rows = Vec::new();
    let report = read_file(path, encoder, None, progress, |outcome| rows.push(outcome))?;
    Ok((rows, report))
}

/// A file that gives nothing is a mistake, also beside others that do.
fn check_usable(data: &FileData, path: &Path) -> Result<(), DataError> {
    let (rows, paths) = (data.report.rows, vec![path.to_owned()]);
    if rows == 0 {
        return Err(DataError::Empty { paths });
    }
    if data.groups.is_empty() {
        return Err(DataError::AllDropped { paths, rows, summary: data.report.dropped_summary() });
    }
    Ok(())
}

/// How often each of `rows` rows comes in an epoch: as often as the weight's whole part, and a share of them, drawn by the
/// seed, once more. At least one row comes.
fn copies(rows: usize, weight: f64, seed: impl FnOnce() -> u64) -> Vec<usize> {
    let whole = weight.floor();
    let mut copies = vec![whole as usize; rows];
    let mut more = ((weight - whole) * rows as f64).round() as usize;
    if whole == 0.0 {
        more = more.max(1);
    }
    if more > 0 {
        let order = permutation(rows, seed(), MIX_STREAM);
        order.iter().take(more).for_each(|row| copies[*row] += 1);
    }
    copies
}

/// The groups pass by pass: all that come at all, then all that come twice, and so on.
fn repeated(mut groups: Vec<Group>, copies: &[usize]) -> Vec<Group> {
    let passes = copies.iter().copied().max().unwrap_or(0);
    let again: Vec<Group> = (1..passes)
        .flat_map(|pass| groups.iter().zip(copies).filter(move |(_, copies)| **copies > pass))
        .map(|(group, _)| group.clone())
        .collect();
    let mut copies = copies.iter();
    groups.retain(|_| copies.next().is_some_and(|copies| *copies > 0));
    groups.extend(again);
    groups
}

/// Encodes a file chunk by chunk, on all threads, and hands the outcomes over in the order of the rows.
fn read_file(
    path: &Path,
    encoder: &Encoder,
    max_rows: Option<usize>,
    progress: &mut dyn Progress,
    mut each: impl FnMut(Result<Group, Skipped>),
) -> Result<LoadReport, DataError> {
    let mut reader = Rows::open(path)?;
    let numbering = reader.numbering();
    let mut report = LoadReport::default();
    let (mut lines, mut shape) = (Vec::new(), None);
    let wrong = |line, problem| DataError::Row {
        place: Place::new(path, numbering, line),
        problem: Box::new(problem),
    };
    let mut unread = max_rows.unwrap_or(usize::MAX);
    let mut chunk = Some(Chunk::read(&mut reader, &mut unread));
    let mut shown = Shown { progress, begun: false };
    while let Some(Chunk { rows, failure, last }) = chunk {
        if let (None, Some(first)) = (&shape, rows.first()) {
            shape = Some(encoder.shape(first, numbering).map_err(|problem| wrong(first.line, problem))?);
        }
        // The next rows are read while these are encoded.
        let (encoded, next) = rayon::join(
            || {
                let encode = |row: &Row| {
                    shape.as_ref().map(|shape| (row.line, encoder.encode_row(shape, row.index, row)))
                };
                rows.par_iter().filter_map(encode).collect::<Vec<_>>()
            },
            || (!last).then(|| Chunk::read(&mut reader, &mut unread)),
        );
        for (line, outcome) in encoded {
            let outcome = outcome.map_err(|problem| wrong(line, problem))?;
            each(count(outcome, line, &mut report));
            // A file of more than 2^32 lines does not fit in memory as tokens either.
            lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        }
        // Only now: an earlier row of the chunk may have been wrong in its own way.
        if let Some(error) = failure {
            return Err(error);
        }
        if !last {
            shown.advance(path, reader.percent(), report.rows);
        }
        chunk = next;
    }
    let usable = report.rows - report.dropped.len();
    if let Some(shape) = &shape {
        report.kinds = Kinds::of(shape.shape.kind(), report.rows);
    }
    let path = path.to_owned();
    report.files.push(FileRows {
        path,
        numbering,
        first_row: 0,
        lines,
        shape,
        usable,
        weight: 1.0,
        used: usable,
    });
    Ok(report)
}

/// Adds a row to the report.
fn count(outcome: Encoded, line: usize, report: &mut LoadReport) -> Result<Group, Skipped> {
    let row = report.rows;
    report.rows += 1;
    match outcome {
        Encoded::Group(group, notes) => {
            report.note(&group, notes);
            Ok(group)
        }
        Encoded::Unusable(reason) => {
            let skipped = Skipped { row, line, reason };
            report.dropped.push(skipped);
            Err(skipped)
        }
    }
}

/// Progress through a file that is more than one chunk; ended however the reading ends.
struct Shown<'a> {
    progress: &'a mut dyn Progress,
    begun: bool,
}

impl Shown<'_> {
    fn advance(&mut self, path: &Path, percent: usize, rows: usize) {
        if !self.begun {
            self.progress.begin(&format!("reading {}, %", path.display()), 100);
            self.begun = true;
        }
        self.progress.advance(percent, &format!("{rows} rows"));
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.progress.end();
        }
    }
}

/// Some rows of a file.
struct Chunk {
    rows: Vec<Row>,
    /// What came in place of the next row.
    failure: Option<DataError>,
    /// Whether nothing follows.
    last: bool,
}

impl Chunk {
    /// Up to [`CHUNK`] rows, no more than are still to be read.
    fn read(reader: &mut Rows, unread: &mut usize) -> Self {
        let size = CHUNK.min(*unread);
        let mut rows = Vec::with_capacity(size);
        for row in reader.take(size) {
            match row {
                Ok(row) => rows.push(row),
                Err(error) => return Self { rows, failure: Some(error), last: true },
            }
        }
        *unread -= rows.len();
        let last = rows.len() < CHUNK || *unread == 0;
        Self { rows, failure: None, last }
    }
}

impl Kinds {
    /// All rows of one kind.
    fn of(kind: RowKind, rows: usize) -> Self {
        match kind {
            RowKind::Text => Self { text: rows, ..Self::default() },
            RowKind::Messages | RowKind::Transcript => Self { conversation: rows, ..Self::default() },
            RowKind::Tokens => Self { tokens: rows, ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::copies;

    #[test]
    fn weights_become_copies() {
        let count = |rows, weight| copies(rows, weight, || 7).iter().sum::<usize>();
        assert_eq!([0.5, 0.7, 1.0, 1.5, 2.0, 3.25].map(|weight| count(10, weight)), [5, 7, 10, 15, 20, 33]);
        assert_eq!(count(10, 0.001), 1, "a file is never left out");
        assert_eq!(count(1, 0.4), 1);
        let twice = copies(1000, 1.5, || 7);
        assert!(twice.iter().all(|copies| matches!(copies, 1 | 2)));
        assert_eq!(twice, copies(1000, 1.5, || 7));
        assert_ne!(twice, copies(1000, 1.5, || 8));
    }

    #[test]
    fn whole_weights_need_no_seed() {
        assert_eq!(copies(3, 2.0, || panic!("not asked for")), [2, 2, 2]);
    }
}
