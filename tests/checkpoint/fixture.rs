//! A tiny model folder, written with the reference implementation of safetensors.

use std::fs;
use std::path::{Path, PathBuf};

use asft::DType;
use asft::model::LlamaConfig;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The configuration of the tiny model, untied, in transformers 4's layout.
pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": [2, 9],
        "head_dim": 4,
        "hidden_act": "silu",
        "hidden_size": 6,
        "initializer_range": 0.02,
        "intermediate_size": 10,
        "max_position_embeddings": 131072,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": 12
    })
}

pub fn parse(config: &Value) -> LlamaConfig {
    LlamaConfig::from_json(&config.to_string(), Path::new("config.json")).expect("a good configuration")
}

/// Values of a tensor: different in each, and exact in every format.
pub fn values(name: &str, elements: usize) -> Vec<f32> {
    let seed = name.bytes().fold(7usize, |sum, byte| sum * 31 % 1009 + byte as usize);
    (0..elements).map(|index| ((index * 13 + seed) % 128) as f32 / 64.0 - 1.0).collect()
}

pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
    }
}

/// A tensor for a file: name, format, shape, bytes.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

pub fn tensor(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let bytes = encode(&values(name, shape.iter().product()), dtype);
    let dtype = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    };
    (name.to_owned(), dtype, shape.to_vec(), bytes)
}

pub fn tensors(config: &Value, dtype: DType) -> Vec<Tensor> {
    parse(config).parameters().iter().map(|(name, shape)| tensor(name, shape, dtype)).collect()
}

pub fn write_weights(path: &Path, tensors: &[Tensor]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("a consistent tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("the file is written");
}

/// A folder with the configuration and the tensors in one file.
pub fn folder(dir: &Path, config: &Value, tensors: &[Tensor]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_weights(&dir.join("model.safetensors"), tensors);
    dir.to_owned()
}

/// A folder with two shards and their index.
pub fn sharded_folder(dir: &Path, config: &Value, tensors: &[Tensor]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = serde_json::Map::new();
    for (name, shard) in
        [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
    {
        write_weights(&dir.join(name), shard);
        map.extend(shard.iter().map(|tensor| (tensor.0.clone(), json!(name))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir.to_owned()
}

/// Every file of a folder with its bytes, by relative path.
pub fn snapshot(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found
                .extend(snapshot(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
