//! One file in, one file out.
//!
//! Boundary: reads, spreads the work over threads, writes in the order of the rows and counts. What is made of a row is
//! the recipe's.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::output::Output;
use super::{Input, Lines, PrepareError, Report};
use crate::data::{ColumnMap, Example, FileShape, Row, RowError};
use crate::progress::Progress;

/// Rows worked on at a time.
const CHUNK: usize = 2048;

/// Which file becomes which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The rows to start from.
    pub data: PathBuf,
    /// Columns that go by other names.
    pub columns: ColumnMap,
    /// The file to write.
    pub output: Output,
    /// Whether a row that cannot be used is an error.
    pub strict: bool,
}

/// A row under the canonical names of its columns, and how its file is read.
#[derive(Clone, Copy, Debug)]
pub struct ShapedRow<'a> {
    /// As the first row has it.
    pub shape: &'a FileShape,
    /// The row.
    pub row: &'a Row,
}

impl ShapedRow<'_> {
    /// What the row says.
    ///
    /// # Errors
    /// As [`FileShape::read`].
    pub fn example(&self) -> Result<Example, RowError> {
        self.shape.read(&self.row.columns, &ColumnMap::default())
    }
}

/// What a row becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// These rows.
    Rows(Vec<Map<String, Value>>),
    /// It is left out, for this reason.
    Nothing(String),
}

impl Task {
    /// Makes new rows of each row by itself. With `pairs` every row must have a rejected answer.
    ///
    /// # Errors
    /// A row that is not what it must be, or files that cannot be read or written.
    pub fn each_row(
        &self,
        pairs: bool,
        progress: &mut dyn Progress,
        make: impl Fn(ShapedRow<'_>) -> Result<Made, RowError> + Sync,
    ) -> Result<Report, PrepareError> {
        self.write(progress, |input, lines, report| {
            let none = ColumnMap::default();
            let mut shape = None;
            loop {
                let rows = input.chunk(CHUNK)?;
                let Some(first) = rows.first() else { break };
                let shape = match &mut shape {
                    Some(shape) => &*shape,
                    unknown => {
                        let place = (input.numbering(), first.line);
                        let found = FileShape::of(&first.columns, place, &none, pairs);
                        unknown.insert(found.map_err(|problem| input.wrong(first, problem))?)
                    }
                };
                report.shape = Some(shape.shape);
                let made: Vec<_> = rows.par_iter().map(|row| make(ShapedRow { shape, row })).collect();
                for (row, made) in rows.iter().zip(made) {
                    match made.map_err(|problem| input.wrong(row, problem))? {
                        Made::Rows(new) => new.iter().try_for_each(|row| lines.write(row))?,
                        Made::Nothing(reason) => report.drop_row(reason, input.place(row)),
                    }
                }
            }
            Ok(())
        })
    }

    /// Writes the file that `fill` makes of the input, and refuses one without rows.
    ///
    /// # Errors
    /// As [`Self::each_row`].
    pub fn write(
        &self,
        progress: &mut dyn Progress,
        fill: impl FnOnce(&mut Input<'_>, &mut Lines<'_>, &mut Report) -> Result<(), PrepareError>,
    ) -> Result<Report, PrepareError> {
        self.output.check()?;
        let mut input = Input::open(&self.data, &self.columns, progress)?;
        self.output.write(|lines| {
            let mut report = Report::new(&self.data);
            fill(&mut input, lines, &mut report)?;
            report.read = input.read();
            report.written.push((self.output.path.clone(), lines.written()));
            report.check(self.strict)?;
            Ok(report)
        })
    }
}
