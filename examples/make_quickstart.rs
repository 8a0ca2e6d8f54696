//! Writes the folder `examples/quickstart/`: the preference data, the tokenizer and the model configuration that
//! `examples/quickstart.toml` trains on.
//!
//! ```text
//! cargo run --example make_quickstart            # rewrites examples/quickstart/
//! cargo run --example make_quickstart -- DIR     # writes the same files to DIR
//! ```
//!
//! The bytes depend on nothing but this file and the locked versions of `rand` and `tokenizers`;
//! `tests/quickstart_data.rs` compares them with the shipped ones.
//!
//! The task: one of four verbs over 3 to 6 distinct words. The chosen answer follows the rule, the rejected one is the
//! same answer with two of its words exchanged, so the two have the same length and the same words, and only their
//! order tells them apart. A model that prefers the chosen answer has therefore learnt the rule.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use asft::data::bpe::{self, BEGIN_OF_TEXT, BpeTokenizer, END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};

/// Every random choice comes from this seed.
const SEED: u64 = 2409_10571;
const TRAINING_ROWS: usize = 6_000;
const HELD_OUT_ROWS: usize = 256;
/// A bound that the merges never reach: the BPE stops when every word, with and without the space before it, is one
/// token.
const MAX_VOCABULARY: usize = 1_024;

const WORDS: [&str; 40] = [
    "ant", "arm", "bag", "bed", "bell", "boat", "box", "bus", "cake", "cap", "cat", "cow", "cup", "day",
    "dog", "door", "ear", "egg", "eye", "fan", "fig", "fish", "fox", "gate", "hat", "hill", "ice", "jam",
    "key", "lamp", "leaf", "map", "nut", "oak", "pen", "rain", "ship", "sun", "tea", "wind",
];

/// Llama 3's conversation layout: every message is a header, a blank line, the text and an end-of-turn token.
const CHAT_TEMPLATE: &str = "{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

/// What the prompt asks to do with its words.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Reverse,
    Sort,
    Copy,
    FirstAndLast,
}

impl Verb {
    const ALL: [Verb; 4] = [Verb::Reverse, Verb::Sort, Verb::Copy, Verb::FirstAndLast];

    fn name(self) -> &'static str {
        match self {
            Verb::Reverse => "reverse",
            Verb::Sort => "sort",
            Verb::Copy => "copy",
            Verb::FirstAndLast => "first-and-last",
        }
    }

    /// The words of the one right answer. `words` are distinct and at least two, so the answer has at least two words
    /// and no two orders of it are equal.
    fn answer(self, words: &[&'static str]) -> Vec<&'static str> {
        let mut answer = words.to_vec();
        match self {
            Verb::Reverse => answer.reverse(),
            Verb::Sort => answer.sort_unstable(),
            Verb::Copy => {}
            Verb::FirstAndLast => answer = vec![words[0], words[words.len() - 1]],
        }
        answer
    }
}

/// One turn of a conversation.
#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

/// One line of a data file.
#[derive(Serialize)]
struct Row {
    prompt: [Message; 1],
    chosen: [Message; 1],
    rejected: [Message; 1],
}

impl Row {
    /// The texts of the row, for the tokenizer to be trained on.
    fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.prompt, &self.chosen, &self.rejected]
            .into_iter()
            .flatten()
            .flat_map(|message| [message.role, "\n\n", &message.content])
    }
}

/// Draws `count` rows whose prompts are not in `seen`, and enters them there. Verbs and lengths take turns, so that
/// every 16 rows hold each of the 16 combinations once.
fn draw_rows(count: usize, rng: &mut ChaCha8Rng, seen: &mut HashSet<String>) -> Vec<Row> {
    let mut rows = Vec::with_capacity(count);
    let mut pool = WORDS;
    while rows.len() < count {
        let verb = Verb::ALL[rows.len() % 4];
        let length = 3 + rows.len() / 4 % 4;
        let (words, _) = pool.partial_shuffle(rng, length);
        let prompt = format!("{}: {}", verb.name(), words.join(" "));
        if !seen.insert(prompt.clone()) {
            continue;
        }
        let chosen = verb.answer(words);
        let mut rejected = chosen.clone();
        let first = rng.random_range(0..rejected.len());
        let second = (first + rng.random_range(1..rejected.len())) % rejected.len();
        rejected.swap(first, second);
        rows.push(Row {
            prompt: [Message { role: "user", content: prompt }],
            chosen: [Message { role: "assistant", content: chosen.join(" ") }],
            rejected: [Message { role: "assistant", content: rejected.join(" ") }],
        });
    }
    rows
}

/// The tokenizer of the training rows.
fn train_tokenizer(rows: &[Row]) -> Result<BpeTokenizer> {
    bpe::train(rows.iter().flat_map(Row::texts), MAX_VOCABULARY).map_err(anyhow::Error::from_boxed)
}

fn token_id(tokenizer: &BpeTokenizer, token: &str) -> Result<u32> {
    tokenizer.token_to_id(token).with_context(|| format!("{token} is not in the vocabulary"))
}

/// `config.json` with the keys of the published Llama 3 folders.
fn model_config(tokenizer: &BpeTokenizer) -> Result<Value> {
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": token_id(tokenizer, BEGIN_OF_TEXT)?,
        "eos_token_id": [token_id(tokenizer, END_OF_TEXT)?, token_id(tokenizer, END_OF_TURN)?],
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "max_position_embeddings": 512,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": null,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": tokenizer.get_vocab_size(true),
    }))
}

/// `generation_config.json`: greedy, because every prompt has exactly one right answer.
fn generation_config(tokenizer: &BpeTokenizer) -> Result<Value> {
    Ok(json!({
        "bos_token_id": token_id(tokenizer, BEGIN_OF_TEXT)?,
        "do_sample": false,
        "eos_token_id": [token_id(tokenizer, END_OF_TEXT)?, token_id(tokenizer, END_OF_TURN)?],
    }))
}

/// `tokenizer_config.json`, with the chat template.
fn tokenizer_config(tokenizer: &BpeTokenizer) -> Result<Value> {
    let mut added = serde_json::Map::new();
    for token in SPECIAL_TOKENS {
        let description = json!({
            "content": token,
            "lstrip": false,
            "normalized": false,
            "rstrip": false,
            "single_word": false,
            "special": true,
        });
        added.insert(token_id(tokenizer, token)?.to_string(), description);
    }
    Ok(json!({
        "added_tokens_decoder": added,
        "bos_token": BEGIN_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TURN,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }))
}

/// Writes all files of the quickstart into `folder`, creating it if need be and replacing files of the same names.
///
/// # Errors
/// When a file cannot be written.
pub fn write_folder(folder: &Path) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut seen = HashSet::new();
    let training = draw_rows(TRAINING_ROWS, &mut rng, &mut seen);
    let held_out = draw_rows(HELD_OUT_ROWS, &mut rng, &mut seen);
    let tokenizer = train_tokenizer(&training)?;

    fs_err::create_dir_all(folder)?;
    write_lines(&folder.join("train.jsonl"), &training)?;
    write_lines(&folder.join("heldout.jsonl"), &held_out)?;
    let text = tokenizer.to_string(true).map_err(anyhow::Error::from_boxed)?;
    fs_err::write(folder.join("tokenizer.json"), text + "\n")?;
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config(&tokenizer)?)?;
    let special_tokens = json!({"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN});
    write_json(&folder.join("special_tokens_map.json"), &special_tokens)?;
    write_json(&folder.join("config.json"), &model_config(&tokenizer)?)?;
    write_json(&folder.join("generation_config.json"), &generation_config(&tokenizer)?)?;
    Ok(())
}

fn write_lines(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        text.push_str(&serde_json::to_string(row)?);
        text.push('\n');
    }
    Ok(fs_err::write(path, text)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(fs_err::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart"), PathBuf::from);
    write_folder(&folder)?;
    println!("wrote {}", folder.display());
    Ok(())
}
