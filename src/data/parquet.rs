//! Parquet files -> rows, with the same values as from JSON lines.
//!
//! Boundary: the `parquet` crate's row interface -> [`Row`]s. Damaged files are errors, whatever that crate does with
//! them: it answers some with a panic, which ends here.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::data_type::Decimal;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use super::error::DataError;
use super::rows::{Row, without_nulls};

/// Reads the rows of a Parquet file, row group by row group.
pub struct ParquetReader {
    /// `None` after an error.
    records: Option<RowIter<'static>>,
    path: PathBuf,
    rows: usize,
    index: usize,
}

/// Opens a file.
///
/// # Errors
/// A file that cannot be opened, or whose description of its content makes no sense.
pub fn open(path: &Path) -> Result<ParquetReader, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    ParquetReader::new(file, path)
}

impl ParquetReader {
    /// Reads from a file, or from bytes in memory; `path` is what errors name.
    ///
    /// # Errors
    /// As [`open`].
    pub fn new(input: impl ChunkReader + 'static, path: &Path) -> Result<Self, DataError> {
        let opened = contained(|| {
            let reader = SerializedFileReader::new(input)?;
            let rows = reader.metadata().file_metadata().num_rows();
            Ok((RowIter::from_file_into(Box::new(reader)), rows))
        });
        let (records, rows) =
            opened.map_err(|problem| DataError::Parquet { path: path.to_owned(), row: None, problem })?;
        let rows = usize::try_from(rows).unwrap_or(0);
        Ok(Self { records: Some(records), path: path.to_owned(), rows, index: 0 })
    }

    /// Rows of the file, as it says itself.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Iterator for ParquetReader {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let records = self.records.as_mut()?;
        let outcome = contained(|| records.next().transpose().map(|record| record.map(columns)));
        let line = self.index + 1;
        match outcome {
            Ok(Some(columns)) => {
                let row = Row { index: self.index, line, columns };
                self.index += 1;
                Some(Ok(row))
            }
            Ok(None) => {
                self.records = None;
                None
            }
            Err(problem) => {
                self.records = None;
                let path = self.path.clone();
                Some(Err(DataError::Parquet { path, row: Some(line), problem }))
            }
        }
    }
}

/// What the crate says, a panic included, in its own words.
fn contained<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    // Nothing of the reader is used again after a panic.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| match error {
            ParquetError::General(words) | ParquetError::EOF(words) | ParquetError::NYI(words) => words,
            other => other.to_string(),
        }),
        Err(_) => Err("its pages do not fit together".to_owned()),
    }
}

fn columns(record: Record) -> Map<String, Value> {
    without_nulls(object(record))
}

fn object(record: Record) -> Map<String, Value> {
    record.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect()
}

/// A field as JSON. Text, numbers and their nestings are what JSON lines would hold; dates, times and decimals, which
/// JSON does not have and no column of preference data needs, become text.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(f64::from(*number)),
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Str(text) => Value::from(text.as_str()),
        // Writers without types leave text unmarked.
        Field::Bytes(bytes) => Value::from(String::from_utf8_lossy(bytes.data())),
        Field::Group(record) => {
            let fields = record.get_column_iter().map(|(name, field)| (name.clone(), value(field)));
            Value::Object(fields.collect())
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match key {
                Field::Str(key) => (key.clone(), value(field)),
                key => (key.to_string(), value(field)),
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        Field::Decimal(Decimal::Int32 { .. } | Decimal::Int64 { .. } | Decimal::Bytes { .. })
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::from(field.to_string()),
    }
}

/// A number, or null for the values that JSON has no number for.
fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
