//! The rows of a data file under the canonical names of their columns.
//!
//! Boundary: readers and names are [`crate::data`]'s; here a column that `--map` names is renamed, so that the new file
//! needs no map.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::data::{ColumnMap, DataError, Numbering, Place, Row, RowError, Rows};
use crate::progress::Progress;

/// Rows between two signs of life.
const SHOWN: usize = 1024;

/// A data file that is being read.
pub struct Input<'a> {
    path: PathBuf,
    map: &'a ColumnMap,
    rows: Rows,
    read: usize,
    progress: &'a mut dyn Progress,
    begun: bool,
}

impl<'a> Input<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Rows::open`].
    pub fn open(path: &Path, map: &'a ColumnMap, progress: &'a mut dyn Progress) -> Result<Self, DataError> {
        Ok(Self { path: path.to_owned(), map, rows: Rows::open(path)?, read: 0, progress, begun: false })
    }

    /// Rows read so far.
    pub fn read(&self) -> usize {
        self.read
    }

    /// How places in the file are counted.
    pub fn numbering(&self) -> Numbering {
        self.rows.numbering()
    }

    /// Where a row is.
    pub fn place(&self, row: &Row) -> Place {
        Place::new(&self.path, self.numbering(), row.line)
    }

    /// The error of a row.
    pub fn wrong(&self, row: &Row, problem: RowError) -> DataError {
        DataError::Row { place: self.place(row), problem: Box::new(problem) }
    }

    /// Up to `most` rows; fewer at the end of the file alone.
    ///
    /// # Errors
    /// The first row that is no row, or that lacks a column which `--map` names; the rows before it are lost.
    pub fn chunk(&mut self, most: usize) -> Result<Vec<Row>, DataError> {
        let mut rows = Vec::new();
        while rows.len() < most {
            let Some(row) = self.next() else { break };
            rows.push(row?);
        }
        Ok(rows)
    }
}

impl Iterator for Input<'_> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        self.read += 1;
        if self.read.is_multiple_of(SHOWN) {
            if !std::mem::replace(&mut self.begun, true) {
                self.progress.begin(&format!("reading {}, %", self.path.display()), 100);
            }
            self.progress.advance(self.rows.percent(), &format!("{} rows", self.read));
        }
        Some(row.and_then(|row| match self.map.missing_in(&row.columns) {
            None => Ok(Row { columns: renamed(row.columns, self.map), ..row }),
            Some((canonical, actual)) => {
                let found = row.columns.keys().cloned().collect::<Vec<_>>().join(", ");
                let problem = RowError::MappedColumn { canonical, actual: actual.to_owned(), found };
                Err(self.wrong(&row, problem))
            }
        }))
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.progress.end();
        }
    }
}

/// Columns under their canonical names, in their order. One that has the canonical name of another is left out: it is not
/// what the map says is meant.
fn renamed(columns: Map<String, Value>, map: &ColumnMap) -> Map<String, Value> {
    let renamed = columns.into_iter().filter_map(|(name, value)| match map.canonical(&name) {
        Some(canonical) => Some((canonical.to_owned(), value)),
        None => (map.actual(&name) == name).then_some((name, value)),
    });
    renamed.collect()
}
