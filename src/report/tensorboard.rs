//! TensorBoard's event files: a run's curves as scalars.
//!
//! A file is a sequence of TFRecords (little-endian: length as u64, masked CRC-32C of the length as u32, the bytes, their masked
//! CRC-32C as u32), each an `Event` message of tensorflow/core/util/event.proto in the protobuf wire format. Four fields of it
//! are needed, so they are written by hand:
//!
//! ```text
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//! Summary { repeated Value value = 1; }
//! Value   { string tag = 1; float simple_value = 2; }
//! ```
//!
//! Boundary: lines of a record in, bytes out. Values are rounded to f32, which is all the format has. `metrics.jsonl` has no
//! clock, so that a run's files do not depend on when it ran; the time of an event is the sum of `step_seconds` up to it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::record::{Line, RunRecord, is_evaluation};
use super::{ReportError, io_error};

/// Added to a rotated CRC, so that data that holds CRCs has other ones (tensorflow/core/lib/hash/crc32c.h).
const MASK: u32 = 0xa282_ead8;
/// The first record of every file.
const VERSION: &str = "brain.Event:2";
/// The file's name; TensorBoard looks for `tfevents`.
const FILE: &str = "events.out.tfevents.0.asft";

/// Writes `DIR/RUN/events.out.tfevents...` for a run, replacing what an earlier report wrote. Gives the path.
///
/// # Errors
/// The system refuses.
pub fn write(folder: &Path, run: &RunRecord) -> Result<PathBuf, ReportError> {
    // Two runs of one name are called by their paths.
    let name: String = run.name.chars().map(|c| if std::path::is_separator(c) { '_' } else { c }).collect();
    let folder = folder.join(name.trim_matches('.'));
    std::fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    let path = folder.join(FILE);
    std::fs::write(&path, events(&run.lines)).map_err(io_error("write", &path))?;
    Ok(path)
}

/// The bytes of an event file with every number of these lines.
pub fn events(lines: &[Line]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut version = Message::default();
    version.bytes(3, VERSION.as_bytes());
    record(&mut file, &version.0);
    let mut seconds = 0.0;
    for line in lines {
        seconds += line.get("step_seconds").and_then(Value::as_f64).unwrap_or(0.0);
        let Some(step) = line.get("step").and_then(Value::as_u64) else { continue };
        let mut summary = Message::default();
        for (key, value) in line.iter().filter(|(key, _)| *key != "step") {
            let Some(value) = value.as_f64() else { continue };
            let mut entry = Message::default();
            entry.bytes(1, tag(key, is_evaluation(line)).as_bytes());
            entry.float(2, value as f32);
            summary.bytes(1, &entry.0);
        }
        if summary.0.is_empty() {
            continue;
        }
        let mut event = Message::default();
        event.double(1, seconds);
        event.integer(2, step);
        event.bytes(5, &summary.0);
        record(&mut file, &event.0);
    }
    file
}

/// Training and evaluation under the names that transformers gives them.
fn tag(key: &str, is_evaluation: bool) -> String {
    match key.strip_prefix("eval_") {
        Some(key) if is_evaluation => format!("eval/{key}"),
        _ => format!("train/{key}"),
    }
}

/// Appends a TFRecord.
fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked_crc(data).to_le_bytes());
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(MASK)
}

/// A protobuf message as it grows. A key is the field's number and how the value is stored. Numbers that are 0 are left out, but
/// for a `float`: the one that is needed is a choice of several, where leaving it out would mean that there is none.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u64, value: u64) {
        if value == 0 {
            return;
        }
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        if value == 0.0 {
            return;
        }
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}
