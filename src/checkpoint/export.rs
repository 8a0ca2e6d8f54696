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
use crate::data::GivenTemplate;
use crate::data::template_source::{CONFIG_KEY, TEMPLATE_FILE};
use crate::model::LlamaConfig;

/// Bytes of a shard at most, unless one tensor alone is larger: transformers' 5 GB.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// transformers 4 refuses a file that does not say so.
const METADATA: [(&str, &str); 1] = [("format", "pt")];

const GENERATION_FILE: &str = "generation_config.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// The files that make a tokenizer, in any of its historical layouts.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    TEMPLATE_FILE,
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
    /// The folder whose tokenizer files and `generation_config.json` are taken over byte for byte, but for what
    /// `template` replaces.
    pub source: Option<&'a Path>,
    /// A chat template that takes the place of the source's in the tokenizer files.
    pub template: Option<GivenTemplate<'a>>,
    /// Bytes of a shard at most; [`SHARD_BYTES`] outside tests.
    pub shard_bytes: usize,
}

impl<'a> ModelExport<'a> {
    /// An export with shards of the usual size.
    pub fn new(config: &'a LlamaConfig, dtype: DType, source: Option<&'a Path>) -> Self {
        ModelExport { config, dtype, source, template: None, shard_bytes: SHARD_BYTES }
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
        if let Some(template) = self.template {
            write_template(dir, template)?;
        }
        self.write_weights(dir, values)
    }

    /// The source's generation settings byte for byte, else some made from the model's. A chat template that was given
    /// brings its own end of turn, at which generation must stop, or the model would go on for ever.
    fn write_generation_config(&self, dir: &Path) -> Result<(), CheckpointError> {
        let path = dir.join(GENERATION_FILE);
        let copied = match self.source {
            Some(source) => copy_if_there(source, dir, GENERATION_FILE)?,
            None => false,
        };
        let mut generation = if copied { read_json(&path)? } else { self.new_generation_config() };
        let ends = self.template.and_then(|template| template.end_of_turn);
        let added = ends.is_some_and(|id| add_end_token(&mut generation, id));
        if copied && !added {
            return Ok(());
        }
        write_json(&path, &Value::Object(generation))
    }

    fn new_generation_config(&self) -> Map<String, Value> {
        let config = self.config.to_json();
        let mut generation = Map::new();
        generation.insert("_from_model_config".into(), json!(true));
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
                generation.insert(key.into(), value.clone());
            }
        }
        generation
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

/// Writes a chat template into both places where the field's programs look for it.
fn write_template(dir: &Path, template: GivenTemplate<'_>) -> Result<(), CheckpointError> {
    let path = dir.join(TEMPLATE_FILE);
    std::fs::write(&path, template.source).map_err(CheckpointError::io("write", &path))?;
    let path = dir.join(TOKENIZER_CONFIG_FILE);
    let mut config = if path.exists() { read_json(&path)? } else { Map::new() };
    config.insert(CONFIG_KEY.to_owned(), template.source.into());
    write_json(&path, &Value::Object(config))
}

/// Adds an id to `eos_token_id`, a number or a list of them; whether it was not there.
fn add_end_token(generation: &mut Map<String, Value>, id: u32) -> bool {
    const KEY: &str = "eos_token_id";
    let mut ids = match generation.get(KEY) {
        Some(Value::Array(ids)) => ids.clone(),
        None | Some(Value::Null) => Vec::new(),
        Some(one) => vec![one.clone()],
    };
    if ids.contains(&id.into()) {
        return false;
    }
    ids.push(id.into());
    generation.insert(KEY.to_owned(), ids.into());
    true
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

fn read_json(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let text = std::fs::read(path).map_err(CheckpointError::io("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|error| CheckpointError::file(path, format!("not a JSON object: {error}")))
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
