//! The repository's golden files, and run folders, as tests of whole commands read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use crate::shell::{Ran, Shell};

/// A file of the repository, as an argument.
pub fn repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A golden checkpoint's folder.
pub fn checkpoint(name: &str) -> String {
    repository(&format!("tests/golden/checkpoints/{name}"))
}

/// A golden file of pre-tokenised pairs.
pub fn batch(name: &str) -> String {
    repository(&format!("tests/golden/batches/{name}.jsonl"))
}

/// The list of what the goldens hold.
pub fn manifest() -> Value {
    json(repository("tests/golden/manifest.json"))
}

/// A JSON file.
pub fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path.as_ref()).unwrap()).unwrap()
}

/// Runs a command line, given as words between spaces, that has to succeed.
#[track_caller]
pub fn done(shell: &Shell, line: &str) -> Ran {
    let ran = typed(shell, line);
    assert_eq!(ran.code, 0, "asft {line}\n{}", ran.stderr);
    ran
}

/// Runs a command line, given as words between spaces.
pub fn typed(shell: &Shell, line: &str) -> Ran {
    shell.asft(&line.split_whitespace().collect::<Vec<_>>())
}

/// `asft train` of a golden checkpoint on twelve golden pairs, four a step.
pub fn train12(model: &str, output: &str, more: &str) -> String {
    let (model, data) = (checkpoint(model), batch("train12"));
    format!(
        "train --model {model} --data {data} --batch-size 4 --learning-rate 1e-3 --reference-cache cache \
         --output {output} {more}"
    )
}

/// The lines of a JSONL file.
pub fn lines(path: impl AsRef<Path>) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The optimizer steps of a run.
pub fn steps(run: &Path) -> Vec<Map<String, Value>> {
    lines(run.join("metrics.jsonl")).into_iter().filter(|line| line.contains_key("loss")).collect()
}

/// The loss of every optimizer step, as it is written.
pub fn losses(run: &Path) -> Vec<String> {
    steps(run).iter().map(|line| line["loss"].to_string()).collect()
}

/// `metrics.jsonl` without what differs from machine to machine and from moment to moment.
pub fn timeless(run: &Path) -> Vec<Map<String, Value>> {
    let mut all = lines(run.join("metrics.jsonl"));
    for line in &mut all {
        line.retain(|key, _| {
            !["tokens_per_second", "peak_memory_bytes", "step_seconds"].contains(&key.as_str())
        });
    }
    all
}

/// One tensor of a file.
pub struct Tensor {
    pub dtype: Dtype,
    pub values: Vec<f64>,
}

/// Every tensor of a safetensors file.
pub fn tensors(path: impl AsRef<Path>) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |data: &[u8], dtype: Dtype| -> Vec<f64> {
        match dtype {
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            Dtype::BF16 => {
                let wide = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                data.chunks_exact(2).map(|b| wide(b).into()).collect()
            }
            Dtype::F16 => {
                let wide = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]);
                data.chunks_exact(2).map(|b| wide(b).into()).collect()
            }
            other => panic!("{other:?} in a golden file"),
        }
    };
    file.iter()
        .map(|(name, view)| {
            (name.to_owned(), Tensor { dtype: view.dtype(), values: read(view.data(), view.dtype()) })
        })
        .collect()
}

/// |a - b| / |b|.
pub fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied())
}

/// Every file below a folder, by its path from there.
pub fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found
}

/// Every file below a folder with its bytes: what a command must not have touched.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    files(folder).into_iter().map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}

/// Copies a folder and what is below it.
pub fn copy_folder(from: &Path, to: &Path) -> PathBuf {
    for name in files(from) {
        let target = to.join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&name), target).unwrap();
    }
    to.to_owned()
}
