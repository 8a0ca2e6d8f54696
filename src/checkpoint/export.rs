//! A Hugging Face Llama folder, written: what transformers, vLLM and llama.cpp's converter expect to find.
//!
//! Boundary: writes plain files into a folder that is given. Whether the folder appears whole or not at all is
//! [`super::atomic`]'s; the model card and the run's own files are `train`'s.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::CheckpointError;
use super::folder::{CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE};
use super::tensor_writer::{TensorSource, TensorSpec, file_bytes, write_tensors};
use crate::DType;
use crate::model::LlamaConfig;

/// Bytes of a shard at most, unless one tensor alone is larger: transformers' 5 GB.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// transformers 4 refuses a file that does not say so.
const METADATA: [(&str, &str); 1] = [("format", "pt")];

const GENERATION_FILE: &str = "generation_config.json";

/// The files that make a tokenizer, in any of its historical layouts.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct ModelExport<'a> {
    /// The model; its `torch_dtype` is replaced by `dtype`.
    pub config: &'a LlamaConfig,
    /// The format of the weights.
    pub dtype: DType,
    /// The folder whose tokenizer files and `generation_config.json` are taken over byte for byte.
    pub source: Option<&'a Path>,
    /// Bytes of a shard at most; [`SHARD_BYTES`] outside tests.
    pub shard_bytes: usize,
}

impl<'a> ModelExport<'a> {
    /// An export with shards of the usual size.
    pub fn new(config: &'a LlamaConfig, dtype: DType, source: Option<&'a Path>) -> Self {
        ModelExport { config, dtype, source, shard_bytes: SHARD_BYTES }
    }

    /// Writes the folder's files into `dir`, which exists. `values` is asked for every parameter by its
    /// Hugging Face name, in the order of [`LlamaConfig::parameters`].
    pub fn write(&self, dir: &Path, values: &mut dyn TensorSource) -> Result<(), CheckpointError> {
        let mut config = self.config.clone();
        config.torch_dtype = Some(self.dtype);
        write_json(&dir.join(CONFIG_FILE), &Value::Object(config.to_json()))?;
        self.write_generation_config(dir)?;
        if let Some(source) = self.source {
            for name in TOKENIZER_FILES {
                copy_if_there(source, dir, name)?;
            }
        }
        self.write_weights(dir, values)
    }

    fn write_generation_config(&self, dir: &Path) -> Result<(), CheckpointError> {
        if let Some(source) = self.source
            && copy_if_there(source, dir, GENERATION_FILE)?
        {
            return Ok(());
        }
        let config = self.config.to_json();
        let mut generation = Map::new();
        generation.insert("_from_model_config".into(), json!(true));
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
                generation.insert(key.into(), value.clone());
            }
        }
        write_json(&dir.join(GENERATION_FILE), &Value::Object(generation))
    }

    /// Bytes of what [`write`](Self::write) would write: weights and tokenizer files, without the small JSON files.
    pub fn bytes(&self) -> Result<u64, CheckpointError> {
        let tensors = self.tensors();
        let shards = cut_into_shards(&tensors, self.shard_bytes);
        let weights = shards.iter().map(|shard| file_bytes(Path::new(WEIGHTS_FILE), shard, &METADATA));
        let weights = weights.sum::<Result<u64, _>>()?;
        let copied = self.source.into_iter().flat_map(|source| TOKENIZER_FILES.map(|name| source.join(name)));
        Ok(weights + copied.filter_map(|path| Some(path.metadata().ok()?.len())).sum::<u64>())
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let parameters = self.config.parameters().into_iter();
        parameters.map(|(name, shape)| TensorSpec { name, dtype: self.dtype, shape }).collect()
    }

    fn write_weights(&self, dir: &Path, values: &mut dyn TensorSource) -> Result<(), CheckpointError> {
        let tensors = self.tensors();
        let shards = cut_into_shards(&tensors, self.shard_bytes);
        if let [_] = shards[..] {
            return write_tensors(&dir.join(WEIGHTS_FILE), &tensors, &METADATA, values);
        }
        let mut weight_map = Map::new();
        for (number, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            write_tensors(&dir.join(&name), shard, &METADATA, values)?;
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        }
        weight_map.sort_keys();
        let parameters: usize = tensors.iter().map(TensorSpec::elements).sum();
        let bytes: usize = tensors.iter().map(TensorSpec::bytes).sum();
        let metadata = json!({"total_parameters": parameters, "total_size": bytes});
        write_json(&dir.join(INDEX_FILE), &json!({"metadata": metadata, "weight_map": weight_map}))
    }
}

/// Whether a file name is one that [`ModelExport::write`] gives to weights.
pub fn is_weight_file(name: &str) -> bool {
    name == WEIGHTS_FILE
        || name == INDEX_FILE
        || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Cuts a list of tensors into runs of at most `limit` bytes, or of one tensor.
fn cut_into_shards(tensors: &[TensorSpec], limit: usize) -> Vec<&[TensorSpec]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (end, tensor) in tensors.iter().enumerate() {
        if end > start && bytes + tensor.bytes() > limit {
            shards.push(&tensors[start..end]);
            (start, bytes) = (end, 0);
        }
        bytes += tensor.bytes();
    }
    shards.push(&tensors[start..]);
    shards
}

/// Writes indented JSON with a closing newline.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(CheckpointError::io("write", path))
}

/// Copies a file's bytes, and not its permissions: a folder of the Hugging Face cache may be read-only.
fn copy_if_there(from: &Path, to: &Path, name: &str) -> Result<bool, CheckpointError> {
    let source = from.join(name);
    let mut reader = match File::open(&source) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(CheckpointError::io("read", &source)(error)),
    };
    let target = to.join(name);
    let mut writer = File::create(&target).map_err(CheckpointError::io("create", &target))?;
    io::copy(&mut reader, &mut writer).map_err(CheckpointError::io("copy to", &target))?;
    Ok(true)
}
