//! Reads `tests/golden` (see its `make_golden.py` for what is in it): the manifest, checkpoints, batches and
//! results. Everything comes out in f64, widened exactly.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::llama::{Config, Tensors};
use super::objective::Hyper;

/// The folder, wherever the tests run from.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `manifest.json`.
pub fn manifest() -> Value {
    json(&folder().join("manifest.json"))
}

/// `manifest.hyper`, as far as the objectives need it.
pub fn hyper(manifest: &Value) -> Hyper {
    let number = |key: &str| manifest["hyper"][key].as_f64().unwrap_or_else(|| panic!("hyper: {key}"));
    Hyper {
        asft_lambda: number("asft_lambda"),
        asft_beta: number("asft_beta"),
        orpo_lambda: number("orpo_lambda"),
        dpo_beta: number("dpo_beta"),
    }
}

/// A Hugging Face folder of `tests/golden/checkpoints`: single file or shards.
pub fn checkpoint(name: &str) -> (Config, Tensors) {
    let path = folder().join("checkpoints").join(name);
    let config = Config::from_json(&json(&path.join("config.json")));
    let index = path.join("model.safetensors.index.json");
    let mut files = vec!["model.safetensors".to_owned()];
    if index.exists() {
        let map = json(&index)["weight_map"].as_object().expect("weight_map").clone();
        files = map.values().map(|file| file.as_str().expect("a file name").to_owned()).collect();
        files.sort();
        files.dedup();
    }
    (config, files.iter().flat_map(|file| tensors(&path.join(file))).collect())
}

/// One pre-tokenised pair.
#[derive(Debug, Clone)]
pub struct Row {
    /// Number of prompt tokens.
    pub prompt: usize,
    /// Prompt and chosen answer.
    pub chosen: Vec<u32>,
    /// Prompt and rejected answer.
    pub rejected: Vec<u32>,
}

/// A file of `tests/golden/batches`.
pub fn batch(name: &str) -> Vec<Row> {
    let path = folder().join("batches").join(format!("{name}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a JSON line");
            let prompt = ids(&row["prompt_input_ids"]);
            Row {
                prompt: prompt.len(),
                chosen: [prompt.clone(), ids(&row["chosen_input_ids"])].concat(),
                rejected: [prompt, ids(&row["rejected_input_ids"])].concat(),
            }
        })
        .collect()
}

/// A JSON array of token ids.
pub fn ids(json: &Value) -> Vec<u32> {
    let array = json.as_array().expect("an array of ids");
    array.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Every tensor of a safetensors file.
pub fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.iter().map(|(name, view)| (name.to_owned(), widen(view.dtype(), view.data()))).collect()
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f64()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f64()).collect(),
        other => panic!("{other:?} in a golden file"),
    }
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
