//! The rows of a run's data as the run would read them, without a device or weights.
//!
//! Boundary: opens and encodes; what is shown of it is the command's, what it means [`crate::inspect`]'s.

use std::sync::Arc;

use super::TrainError;
use super::prepare::{encoder, load_config, needs, open_tokenizer};
use crate::config::InspectConfig;
use crate::data::{
    DataError, Encoded, Encoder, FileShape, LoadConfig, LoadReport, Place, Reason, Rows, Skipped, Spans,
    WeightedFile,
};
use crate::inspect::{RowTokens, Stats};
use crate::objective;
use crate::progress::Progress;

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
    pub place: Place,
    /// How its file is read.
    pub shape: Arc<FileShape>,
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
        let selection = objective::select(&config.train.objective.name)?;
        let objective = selection.build(&selection.resolve(&config.train.objective.parameters)?)?;
        let (folder, model) = open_tokenizer(&mut config.train.model, config.has_model)?;
        let needs = needs(&selection, objective.as_ref());
        let encoder = encoder(&config.train, model.as_ref(), folder.as_deref(), needs)?;
        let spans = Spans { answers: objective.learns_from(), ..objective.spans() };
        Ok(Self { config, encoder, spans })
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
        let load = load_config(&config.train);
        let (bounded, _) = encoded(&load, &encoder, &wanted, end)?;
        let max_length = encoder.config().max_length;
        let unbounded = encoder.config().clone().unbounded();
        let encoder = encoder.with_config(unbounded);
        let (whole, read) = encoded(&load, &encoder, &wanted, end)?;
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
            let EncodedRow { place, shape, row, .. } = bounded;
            InspectedRow { place, shape, row, dropped, tokens }
        });
        Ok((both.collect(), read))
    }

    /// Figures about all rows that make an epoch.
    ///
    /// # Errors
    /// As [`LoadConfig::load`], but rows that cannot be used are never an error by themselves.
    pub fn figures(&self, progress: &mut dyn Progress) -> Result<Figures, TrainError> {
        let load = LoadConfig { strict: false, ..load_config(&self.config.train) };
        let data = load.load(&self.encoder, progress)?;
        let stats = Stats::of(&data.groups, self.spans);
        Ok(Figures { report: data.report, stats, max_length: self.encoder.config().max_length })
    }
}

/// A row of a file, encoded.
struct EncodedRow {
    place: Place,
    shape: Arc<FileShape>,
    row: usize,
    encoded: Encoded,
}

/// The wanted rows among the first `end` of these files, and how many rows there were.
fn encoded(
    load: &LoadConfig,
    encoder: &Encoder,
    wanted: impl Fn(usize) -> bool,
    end: usize,
) -> Result<(Vec<EncodedRow>, usize), DataError> {
    let (mut rows, mut number) = (Vec::new(), 0);
    for WeightedFile { path, .. } in &load.sources {
        let file = Rows::open(path)?;
        let numbering = file.numbering();
        let mut shape = None;
        for row in file.take(load.max_rows.unwrap_or(usize::MAX).min(end - number)) {
            let row = row?;
            let place = Place::new(path, numbering, row.line);
            let failed = |problem| DataError::Row { place: place.clone(), problem: Box::new(problem) };
            // The first row decides, whether or not it is wanted.
            let shape = match &mut shape {
                Some(shape) => shape,
                none => none.insert(Arc::new(encoder.shape(&row, numbering).map_err(failed)?)),
            };
            if wanted(number) {
                let encoded = encoder.encode_row(shape, number, &row).map_err(failed)?;
                rows.push(EncodedRow { place, shape: shape.clone(), row: number, encoded });
            }
            number += 1;
        }
    }
    Ok((rows, number))
}

impl Figures {
    /// The first of these rows by file and line.
    pub fn places(&self, rows: &[Skipped]) -> String {
        let place = |skipped: &Skipped| self.report.locate(skipped.row).map(|place| place.to_string());
        let places: Vec<String> = rows.iter().take(SHOWN).filter_map(place).collect();
        let more = if rows.len() > SHOWN { ", ..." } else { "" };
        format!("{}{more}", places.join(", "))
    }
}
