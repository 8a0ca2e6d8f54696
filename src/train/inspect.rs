//! The rows of a run's data as the run would read them, without a device or weights.
//!
//! Boundary: opens and encodes; what is shown of it is the command's, what it means [`crate::inspect`]'s.

use std::path::{Path, PathBuf};

use super::TrainError;
use super::prepare::{encoder, open_tokenizer};
use crate::config::InspectConfig;
use crate::data::{
    DataError, Encoded, Encoder, JsonlReader, LoadReport, PreferenceRow, Reason, Skipped, Spans, load_rows,
};
use crate::inspect::{RowTokens, Stats};
use crate::objective::registry;

/// Rows of one reason that are named.
const SHOWN: usize = 5;

/// Data that can be looked at.
#[derive(Debug)]
pub struct Inspection {
    config: InspectConfig,
    encoder: Encoder,
    spans: Spans,
}

/// A row, its tokens, and whether training would use it.
#[derive(Clone, Debug)]
pub struct InspectedRow {
    /// File and line.
    pub place: String,
    /// 0-based; rows of a second file go on counting.
    pub row: usize,
    /// Why it is not used.
    pub dropped: Option<Reason>,
    /// Its tokens if it can be encoded at all, those beyond the maximum length included.
    pub tokens: Option<RowTokens>,
}

/// Figures about all files.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What loading did; rows of a second file go on counting.
    pub report: LoadReport,
    /// Lengths and savings.
    pub stats: Stats,
    /// Bound on prompt + answer in tokens.
    pub max_length: Option<usize>,
}

impl Inspection {
    /// Opens tokenizer and template, and looks up the objective.
    pub fn new(mut config: InspectConfig) -> Result<Self, TrainError> {
        let entry = registry::find(&config.train.objective.name)?;
        let objective = entry.build(&entry.resolve(&config.train.objective.parameters)?)?;
        let (folder, model) = open_tokenizer(&mut config.train.model, config.has_model)?;
        let encoder = encoder(&config.train, model.as_ref(), folder.as_deref())?;
        Ok(Self { config, encoder, spans: objective.spans() })
    }

    /// The rows that are `wanted` by their numbers, up to number `end` at most, and how many rows were there to look at.
    ///
    /// # Errors
    /// A row that is not what it must be, or a file that cannot be read.
    pub fn rows(
        self,
        wanted: impl Fn(usize) -> bool,
        end: usize,
    ) -> Result<(Vec<InspectedRow>, usize), TrainError> {
        let Self { config, encoder, spans } = self;
        let files = &config.train.data.files;
        let (bounded, _) = encoded(files, &encoder, &wanted, end)?;
        let max_length = encoder.config().max_length;
        let unbounded = encoder.config().clone().unbounded();
        let encoder = encoder.with_config(unbounded);
        let (whole, read) = encoded(files, &encoder, &wanted, end)?;
        let both = bounded.into_iter().zip(whole).map(|(bounded, whole)| {
            let dropped = match bounded.encoded {
                Encoded::Group(..) => None,
                Encoded::Unusable(reason) => Some(reason),
            };
            let tokens = match whole.encoded {
                Encoded::Group(group, _) => {
                    Some(RowTokens::new(&group, encoder.tokenizer(), max_length, spans))
                }
                Encoded::Unusable(_) => None,
            };
            InspectedRow { place: bounded.place, row: bounded.row, dropped, tokens }
        });
        Ok((both.collect(), read))
    }

    /// Figures about all rows.
    pub fn figures(&self) -> Result<Figures, TrainError> {
        let path: &Path = &self.config.train.data.files[0];
        let (rows, report) = load_rows(path, &self.encoder)?;
        let stats = Stats::of(rows.iter().filter_map(|row| row.as_ref().ok()), self.spans);
        Ok(Figures { report, stats, max_length: self.encoder.config().max_length })
    }
}

/// A row of a file, encoded.
struct EncodedRow {
    place: String,
    row: usize,
    encoded: Encoded,
}

/// The wanted rows among the first `end` of these files, and how many rows there were.
fn encoded(
    files: &[PathBuf],
    encoder: &Encoder,
    wanted: impl Fn(usize) -> bool,
    end: usize,
) -> Result<(Vec<EncodedRow>, usize), DataError> {
    let (mut rows, mut number) = (Vec::new(), 0);
    for path in files {
        for row in JsonlReader::open(path)?.take(end - number) {
            let row = row?;
            if wanted(number) {
                let example = PreferenceRow::from_columns(&row.columns);
                let encoded = example.and_then(|example| encoder.encode(number, example));
                let failed = |problem| DataError::Row { path: path.clone(), line: row.line, problem };
                let place = format!("{}:{}", path.display(), row.line);
                rows.push(EncodedRow { place, row: number, encoded: encoded.map_err(failed)? });
            }
            number += 1;
        }
    }
    Ok((rows, number))
}

impl Figures {
    /// The first of these rows by file and line.
    pub fn places(&self, rows: &[Skipped]) -> String {
        let place = |skipped: &Skipped| match self.report.locate(skipped.row) {
            Some((path, line)) => format!("{}:{line}", path.display()),
            None => format!("row {}", skipped.row),
        };
        let places: Vec<String> = rows.iter().take(SHOWN).map(place).collect();
        let more = if rows.len() > SHOWN { ", ..." } else { "" };
        format!("{}{more}", places.join(", "))
    }
}
