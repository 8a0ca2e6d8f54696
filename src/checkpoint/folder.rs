//! A Hugging Face Llama folder, read: `config.json` and safetensors, single or sharded, mapped and checked
//! whole before anything is computed.
//!
//! Boundary: files to f32 slices (or stored bytes). Only safetensors are read, never pickles: a `.bin` or
//! `.pth` file can run code when it is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::error::Names;
use super::tensor_file::{TensorFile, TensorInfo};
use super::{CheckpointError, tensor_writer::TensorSpec};
use crate::DType;
use crate::model::LlamaConfig;

/// The weights of a folder that is not sharded.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The configuration.
pub const CONFIG_FILE: &str = "config.json";

/// Bytes hashed at a time. Part of the fingerprint's definition, whatever the number of threads.
const FINGERPRINT_PIECE: usize = 16 << 20;

/// Defaults of generation.
const GENERATION_FILE: &str = "generation_config.json";

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// An opened model folder: its configuration, and its weights as mapped files.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    config: LlamaConfig,
    dtype: DType,
    files: Vec<TensorFile>,
    /// The model's parameters in the order of [`LlamaConfig::parameters`], each with its file.
    parameters: Vec<(TensorSpec, usize)>,
}

impl ModelFolder {
    /// Opens a folder and checks that it holds exactly the tensors its `config.json` asks for: every file's
    /// header, every tensor's format and shape, none missing, none left over. Reads no weights, except to see
    /// that a superfluous `lm_head.weight` of a tied model is indeed its embedding.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config_path = dir.join(CONFIG_FILE);
        if !config_path.is_file() {
            return Err(no_config(dir));
        }
        let config = LlamaConfig::from_file(&config_path)?;
        let (files, homes) = open_files(dir)?;
        refuse_extra_tensors(dir, &config, &homes)?;

        let mut parameters = Vec::new();
        let mut missing = Vec::new();
        for (name, shape) in config.parameters() {
            match homes.get(&name) {
                Some(&file) => parameters.push((check_parameter(&files[file], name, shape)?, file)),
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let hint = match missing[..] {
                [ref only] if only == HEAD => {
                    "; if the head is the embedding table, config.json must say \"tie_word_embeddings\": true"
                }
                _ if homes.contains_key("norm.weight") => {
                    "; the names lack \"model.\": save the folder from AutoModelForCausalLM, not from AutoModel"
                }
                _ => "",
            };
            return Err(CheckpointError::MissingTensors {
                path: dir.to_owned(),
                tensors: Names(missing),
                hint,
            });
        }
        let folder = ModelFolder {
            dir: dir.to_owned(),
            dtype: commonest_dtype(&parameters),
            config,
            files,
            parameters,
        };
        folder.check_tied_head(&homes)?;
        Ok(folder)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The format that most weights are stored in (some folders keep their norms in f32): the format to save
    /// in when nothing else is asked for.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The tokens that end an answer: of config.json, and of generation_config.json where it can be read. Published
    /// folders name the end of a turn in the latter alone.
    pub fn end_tokens(&self) -> Vec<u32> {
        let mut tokens = self.config.eos_token_ids.clone();
        let file = std::fs::read(self.dir.join(GENERATION_FILE)).ok();
        let json: Option<serde_json::Value> = file.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let named = json.map(|json| json["eos_token_id"].clone()).unwrap_or_default();
        let ids = named.as_array().map_or(std::slice::from_ref(&named), Vec::as_slice);
        tokens.extend(ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// The parameters, with the format each is stored in, in the order of [`LlamaConfig::parameters`].
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &TensorSpec> {
        self.parameters.iter().map(|(spec, _)| spec)
    }

    /// Converts a parameter to f32, row-major. `out` has as many elements as the parameter.
    pub fn read(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.home(name)?.read(name, out)
    }

    /// A parameter's bytes as stored: little-endian, row-major, not necessarily aligned.
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        self.home(name)?.bytes(name)
    }

    /// XXH3 over names, formats, shapes and bytes of all parameters, in the order of the model: the same
    /// however the weights are sharded and however many threads compute it.
    pub fn fingerprint(&self) -> u64 {
        let bytes =
            |(spec, file): &(TensorSpec, usize)| self.files[*file].bytes(&spec.name).unwrap_or_default();
        let pieces: Vec<&[u8]> =
            self.parameters.iter().flat_map(|entry| bytes(entry).chunks(FINGERPRINT_PIECE)).collect();
        let hashes: Vec<u64> = pieces.par_iter().map(|piece| xxh3_64(piece)).collect();
        let mut fingerprint = Xxh3::new();
        for (spec, _) in &self.parameters {
            fingerprint.update(format!("{} {} {:?}\n", spec.name, spec.dtype, spec.shape).as_bytes());
        }
        for hash in hashes {
            fingerprint.update(&hash.to_le_bytes());
        }
        self.files.iter().for_each(TensorFile::release_all);
        fingerprint.digest()
    }

    fn home(&self, name: &str) -> Result<&TensorFile, CheckpointError> {
        let file = self.parameters.iter().find(|(spec, _)| spec.name == name).map(|(_, file)| *file);
        file.map(|file| &self.files[file])
            .ok_or_else(|| CheckpointError::tensor(&self.dir, name, "the model has no such parameter"))
    }

    /// A tied model's folder may hold the head a second time; if it is not the embedding, one of the two
    /// would be ignored in silence.
    fn check_tied_head(&self, homes: &BTreeMap<String, usize>) -> Result<(), CheckpointError> {
        let Some(&file) = homes.get(HEAD).filter(|_| self.config.tie_word_embeddings) else { return Ok(()) };
        let (head, embedding) = (self.files[file].bytes(HEAD)?, self.bytes(EMBEDDING)?);
        let same = head.len() == embedding.len()
            && head.par_chunks(FINGERPRINT_PIECE).eq(embedding.par_chunks(FINGERPRINT_PIECE));
        if same {
            return Ok(());
        }
        let problem = format!(
            "differs from \"{EMBEDDING}\", though config.json ties the two; \
             set \"tie_word_embeddings\": false, or remove the tensor"
        );
        Err(CheckpointError::tensor(self.files[file].path(), HEAD, problem))
    }
}

/// Checks one parameter's format and shape.
fn check_parameter(
    file: &TensorFile,
    name: String,
    shape: Vec<usize>,
) -> Result<TensorSpec, CheckpointError> {
    let TensorInfo { dtype_name, shape: found, .. } = file.info(&name)?;
    let Some(dtype) = DType::from_safetensors_name(dtype_name) else {
        let problem =
            format!("is stored as {dtype_name}; only F32, F16 and BF16 can be read, not quantised weights");
        return Err(CheckpointError::tensor(file.path(), &name, problem));
    };
    if *found != shape {
        let problem = format!("has shape {found:?}, but config.json asks for {shape:?}");
        return Err(CheckpointError::tensor(file.path(), &name, problem));
    }
    Ok(TensorSpec { name, dtype, shape })
}

fn commonest_dtype(parameters: &[(TensorSpec, usize)]) -> DType {
    let elements = |dtype| -> usize {
        parameters.iter().filter(|(spec, _)| spec.dtype == dtype).map(|(spec, _)| spec.elements()).sum()
    };
    [DType::BF16, DType::F16, DType::F32]
        .into_iter()
        .max_by_key(|dtype| elements(*dtype))
        .unwrap_or(DType::F32)
}

/// Buffers that old versions of transformers saved along; they follow from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

fn refuse_extra_tensors(
    dir: &Path,
    config: &LlamaConfig,
    homes: &BTreeMap<String, usize>,
) -> Result<(), CheckpointError> {
    let known: BTreeSet<String> = config.parameters().into_iter().map(|(name, _)| name).collect();
    let tied_head = |name: &str| name == HEAD && config.tie_word_embeddings;
    let extra: Vec<String> = homes
        .keys()
        .filter(|name| !known.contains(*name) && !is_derived(name) && !tied_head(name))
        .cloned()
        .collect();
    if extra.is_empty() {
        return Ok(());
    }
    let hint = if extra.iter().any(|name| name.contains("lora_")) {
        "; this is a LoRA adapter: merge it into its base model first (PEFT's merge_and_unload)"
    } else if extra.iter().any(|name| name.ends_with(".bias")) {
        "; this program's linear layers have no bias"
    } else if extra.iter().any(|name| name == "norm.weight") {
        "; the names lack \"model.\": save the folder from AutoModelForCausalLM, not from AutoModel"
    } else {
        ""
    };
    Err(CheckpointError::ExtraTensors { path: dir.to_owned(), tensors: Names(extra), hint })
}

/// Opens the weight files; returns them with the file of every tensor.
fn open_files(dir: &Path) -> Result<(Vec<TensorFile>, BTreeMap<String, usize>), CheckpointError> {
    let single = dir.join(WEIGHTS_FILE);
    let index = dir.join(INDEX_FILE);
    if single.exists() {
        if index.exists() {
            tracing::warn!("{}: reading {WEIGHTS_FILE} and not the shards of {INDEX_FILE}", dir.display());
        }
        let file = TensorFile::open(&single)?;
        let homes = file.tensors().keys().map(|name| (name.clone(), 0)).collect();
        return Ok((vec![file], homes));
    }
    if index.exists() { open_shards(dir, &index) } else { Err(no_weights(dir)) }
}

/// The part of `model.safetensors.index.json` that says something: tensor to file.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(
    dir: &Path,
    index: &Path,
) -> Result<(Vec<TensorFile>, BTreeMap<String, usize>), CheckpointError> {
    let text = std::fs::read(index).map_err(CheckpointError::io("read", index))?;
    let ShardIndex { weight_map } = serde_json::from_slice(&text)
        .map_err(|error| CheckpointError::file(index, format!("not an index of shards: {error}")))?;
    let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
    let mut files = Vec::new();
    for (tensor, shard) in &weight_map {
        if shards.contains_key(shard.as_str()) {
            continue;
        }
        // A name with a folder in it could point anywhere.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            let problem = format!("names {shard:?} for \"{tensor}\"; a shard lies beside its index");
            return Err(CheckpointError::file(index, problem));
        }
        let path = dir.join(shard);
        if !path.exists() {
            let problem =
                format!("names {shard} for \"{tensor}\", but there is no such file; fetch it again");
            return Err(CheckpointError::file(index, problem));
        }
        shards.insert(shard, files.len());
        files.push(TensorFile::open(&path)?);
    }
    let mut homes = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        for name in file.tensors().keys() {
            if let Some(other) = homes.insert(name.clone(), number) {
                let problem = format!("is in {} as well", files[other].path().display());
                return Err(CheckpointError::tensor(file.path(), name, problem));
            }
        }
    }
    for (tensor, shard) in &weight_map {
        if homes.get(tensor) != shards.get(shard.as_str()) {
            let problem = format!("is not in the file, though {INDEX_FILE} says so");
            return Err(CheckpointError::tensor(&dir.join(shard), tensor, problem));
        }
    }
    Ok((files, homes))
}

fn no_config(dir: &Path) -> CheckpointError {
    let problem = if !dir.exists() {
        "there is no such folder".to_owned()
    } else if !dir.is_dir() {
        "is a file; give the folder that holds config.json and model.safetensors".to_owned()
    } else if dir.join("adapter_config.json").exists() {
        "holds a LoRA adapter; merge it into its base model first (PEFT's merge_and_unload)".to_owned()
    } else if dir.join("params.json").exists() {
        "holds Meta's original layout (params.json); get the Hugging Face one, with config.json".to_owned()
    } else {
        "holds no config.json; give a Hugging Face model folder".to_owned()
    };
    CheckpointError::NoModel { path: dir.to_owned(), problem }
}

fn no_weights(dir: &Path) -> CheckpointError {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    let ending = |endings: &[&str]| {
        let mut found: Vec<&String> =
            names.iter().filter(|name| endings.iter().any(|end| name.ends_with(end))).collect();
        found.sort();
        found.first().map(|name| name.as_str())
    };
    let problem = if let Some(pickle) = ending(&[".bin", ".pth", ".pt", ".ckpt"]) {
        format!(
            "holds no {WEIGHTS_FILE}, only {pickle}; pickles are not read because they can run code. Convert once: \
             python -c 'from transformers import AutoModelForCausalLM as M; \
             M.from_pretrained(\"{}\", dtype=\"auto\").save_pretrained(\"NEW_FOLDER\")'",
            dir.display()
        )
    } else if let Some(other) = ending(&[".safetensors"]) {
        format!("holds {other}, but neither {WEIGHTS_FILE} nor {INDEX_FILE}; fetch or rename what is missing")
    } else {
        format!("holds no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    };
    CheckpointError::NoModel { path: dir.to_owned(), problem }
}
