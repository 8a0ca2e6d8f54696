//! A small Llama for where there is no model: a byte-level BPE trained on the data itself, and a configuration for random weights.

use std::path::Path;

use serde_json::{Value, json};

use super::{PaperError, Result};
use crate::checkpoint::atomic;
use crate::data::Rows;
use crate::data::bpe::{self, BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN};

/// Tokens beside the special ones.
const VOCABULARY: usize = 2048;

/// Writes a tokenizer's files, and beside them the `config.json` of a model of about two million parameters. The same data gives the
/// same bytes.
///
/// # Errors
/// Data that cannot be read, or a folder that cannot be written.
pub fn write(folder: &Path, data: &Path) -> Result<()> {
    let mut texts = Vec::new();
    for row in Rows::open(data)? {
        for value in row?.columns.into_iter().map(|(_, value)| value) {
            collect(value, &mut texts);
        }
    }
    let refused = |error: tokenizers::Error| PaperError::Tokenizer {
        path: data.to_owned(),
        message: error.to_string(),
    };
    let tokenizer = bpe::train(texts.iter().map(String::as_str), VOCABULARY).map_err(refused)?;
    let id = |token: &str| tokenizer.token_to_id(token);
    std::fs::create_dir_all(folder).map_err(|source| PaperError::Io {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;
    let save = |name: &str, text: String| atomic::save_bytes(&folder.join(name), (text + "\n").as_bytes());
    save("tokenizer.json", tokenizer.to_string(true).map_err(refused)?)?;
    let names = json!({ "bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN,
                        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    save("tokenizer_config.json", names.to_string())?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "vocab_size": tokenizer.get_vocab_size(true), "hidden_size": 192, "intermediate_size": 512,
        "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
        "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "rope_scaling": null, "tie_word_embeddings": true, "attention_bias": false,
        "mlp_bias": false, "bos_token_id": id(BEGIN_OF_TEXT), "eos_token_id": [id(END_OF_TEXT), id(END_OF_TURN)],
    });
    save("config.json", config.to_string())?;
    Ok(())
}

/// Every text in a value, at any depth.
fn collect(value: Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.into_iter().for_each(|value| collect(value, texts)),
        Value::Object(fields) => fields.into_iter().for_each(|(_, value)| collect(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
