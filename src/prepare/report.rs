//! What a recipe did to the rows of a file, in numbers and in words.
//!
//! Boundary: counts and words. Who counts is the recipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::{DataError, Place, Shape};

/// Rows of each reason that are named.
const SHOWN: usize = 5;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The file they came from.
    pub data: PathBuf,
    /// How they were read; `None` where the recipe reads columns of its own.
    pub shape: Option<Shape>,
    /// Rows read.
    pub read: usize,
    /// What is used or left out as a whole, and how many there were: rows, unless the recipe says otherwise.
    pub unit: (usize, &'static str),
    /// The files they went to, with their rows.
    pub written: Vec<(PathBuf, usize)>,
    /// Rows that are in no file, by the reason.
    dropped: BTreeMap<String, Dropped>,
    /// What else is worth saying: a count and of what.
    pub notes: Vec<(usize, String)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Dropped {
    rows: usize,
    /// Of the first [`SHOWN`].
    places: Vec<Place>,
}

impl Dropped {
    fn places(&self) -> String {
        let places: Vec<String> = self.places.iter().map(ToString::to_string).collect();
        format!("{}{}", places.join(", "), if self.rows > SHOWN { ", ..." } else { "" })
    }
}

impl Report {
    /// Nothing yet, of this file.
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned(), ..Self::default() }
    }

    /// A row is left out.
    pub fn drop_row(&mut self, reason: String, place: Place) {
        let dropped = self.dropped.entry(reason).or_default();
        dropped.rows += 1;
        if dropped.places.len() < SHOWN {
            dropped.places.push(place);
        }
    }

    /// Rows left out for this reason.
    pub fn dropped(&self, reason: &str) -> usize {
        self.dropped.get(reason).map_or(0, |dropped| dropped.rows)
    }

    /// Rows left out.
    pub fn all_dropped(&self) -> usize {
        self.dropped.values().map(|dropped| dropped.rows).sum()
    }

    /// Refuses a file without rows, one of which nothing is left, and with `strict` one of which not everything is.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::AllDropped`], [`DataError::Unusable`].
    pub fn check(&self, strict: bool) -> Result<(), DataError> {
        let (rows, dropped, paths) = (self.read, self.all_dropped(), vec![self.data.clone()]);
        let written: usize = self.written.iter().map(|(_, rows)| rows).sum();
        let parts = self
            .dropped
            .iter()
            .map(|(reason, dropped)| format!("{} {reason} ({})", dropped.rows, dropped.places()));
        let summary = parts.collect::<Vec<_>>().join("; ");
        match rows {
            0 => Err(DataError::Empty { paths }),
            _ if written == 0 => Err(DataError::AllDropped { paths, rows, summary }),
            _ if strict && dropped > 0 => Err(DataError::Unusable { dropped, rows, summary }),
            _ => Ok(()),
        }
    }

    /// Logs it.
    pub fn log(&self) {
        if let Some(shape) = self.shape {
            tracing::info!("{}: {shape}", self.data.display());
        }
        for (path, rows) in &self.written {
            tracing::info!("{}: {rows} rows made of {}", path.display(), self.read);
        }
        for (count, what) in self.notes.iter().filter(|(count, _)| *count > 0) {
            tracing::info!("{count} {what}");
        }
        let dropped = self.all_dropped();
        if dropped > 0 {
            let (all, unit) = match self.unit {
                (0, _) => (self.read, "rows"),
                unit => unit,
            };
            let share = 100.0 * dropped as f64 / all as f64;
            tracing::warn!("{dropped} of {all} {unit} left out ({share:.1}%):");
            for (reason, dropped) in &self.dropped {
                tracing::warn!("  {} {reason}: {}", dropped.rows, dropped.places());
            }
        }
    }
}
