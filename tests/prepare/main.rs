//! Recipes that make data files of data files: what each makes of rows, by the library. Whole commands are in
//! `tests/cli/preparing.rs`; `golden/` holds what difflib, transformers and a published algorithm say (`make_golden.py`).

#[path = "../data/fixture.rs"]
#[allow(dead_code, reason = "shared with tests/data.rs")]
mod fixture;

/// Prompts made explicit, for every shape and form of data.
mod explicit;
/// Pairs from scored candidates.
mod rejection_sample;
/// Pairs with goals.
mod reward_augmented;
/// Two files that share no prompt.
mod split;
/// Token weights, and the diff they come from.
mod token_diff;

use std::path::{Path, PathBuf};

use asft::data::ColumnMap;
use asft::prepare::{Output, Task};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// A folder with a file of rows to start from.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(rows: &[Value]) -> Self {
        let files = Self { folder: TempDir::new().unwrap() };
        std::fs::write(files.path("in.jsonl"), lines(rows)).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From `in.jsonl` to `out.jsonl`.
    fn task(&self) -> Task {
        task(&self.path("in.jsonl"), &self.path("out.jsonl"))
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        rows(&self.path(name))
    }
}

fn task(data: &Path, output: &Path) -> Task {
    let output = Output { path: output.to_owned(), overwrite: true };
    Task { data: data.to_owned(), columns: ColumnMap::default(), output, strict: false }
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn golden(name: &str) -> Vec<Map<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A column of numbers.
fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}
