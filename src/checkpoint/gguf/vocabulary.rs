//! The vocabulary of a GGUF file: `tokenizer.json` in llama.cpp's terms.
//!
//! Boundary: byte-level BPE only, as Llama 3 and its kin have it; another model of tokenizer is an error. Text is never
//! encoded here.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::super::CheckpointError;
use super::container::{Header, Value};
use crate::data::Tokenizer;
use crate::data::template_source::TemplateText;
use crate::model::LlamaConfig;

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Pre-tokenizers that llama.cpp implements, by the pattern that tokenizer.json splits at.
const PRE_TOKENIZERS: [(&str, &str); 2] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
];

/// What llama.cpp must know to encode and decode text.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    pre_tokenizer: String,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    /// (key's middle part, id): `bos` -> `tokenizer.ggml.bos_token_id`.
    special: Vec<(&'static str, u32)>,
    adds_bos: bool,
    chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads a model folder's tokenizer files; `pre_tokenizer` is llama.cpp's name of the splitting rule, where the
    /// pattern in the file is not one that is known here.
    ///
    /// # Errors
    /// No tokenizer, one that is not byte-level BPE, one whose splitting rule is unknown, one with more tokens than the
    /// model has.
    pub fn from_folder(
        folder: &Path,
        config: &LlamaConfig,
        pre_tokenizer: Option<&str>,
    ) -> Result<Self, CheckpointError> {
        let path = folder.join("tokenizer.json");
        let failed = |problem: String| CheckpointError::file(&path, problem);
        let tokenizer = Tokenizer::from_folder(folder).map_err(|error| failed(error.to_string()))?;
        let tokenizer = tokenizer.ok_or_else(|| {
            failed(
                "is not there, and a GGUF file needs a vocabulary; put the tokenizer files into the folder"
                    .into(),
            )
        })?;
        let template = TemplateText::of_folder(folder).map_err(|error| failed(error.to_string()))?;
        let text = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let json: Map<String, Json> =
            serde_json::from_slice(&text).map_err(|error| failed(format!("not a JSON object: {error}")))?;
        let file = File { json: &json };
        file.check_model().map_err(failed)?;
        let pre_tokenizer = match pre_tokenizer {
            Some(name) => name.to_owned(),
            None => file.pre_tokenizer().map_err(failed)?.to_owned(),
        };
        let (tokens, types) = file.tokens(config.vocab_size).map_err(failed)?;
        Ok(Self {
            pre_tokenizer,
            tokens,
            types,
            merges: file.merges().ok_or_else(|| failed("model.merges is not a list of pairs".to_owned()))?,
            special: special(&tokenizer, config),
            adds_bos: tokenizer.adds_bos(),
            chat_template: template.map(|template| template.source),
        })
    }

    /// Adds its keys to a header.
    pub fn describe(self: &Vocabulary, header: &mut Header) {
        header.add("tokenizer.ggml.model", Value::text("gpt2"));
        header.add("tokenizer.ggml.pre", Value::text(&self.pre_tokenizer));
        header.add("tokenizer.ggml.tokens", Value::Texts(self.tokens.clone()));
        header.add("tokenizer.ggml.token_type", Value::I32s(self.types.clone()));
        header.add("tokenizer.ggml.merges", Value::Texts(self.merges.clone()));
        for (role, id) in &self.special {
            header.add(&format!("tokenizer.ggml.{role}_token_id"), Value::U32(*id));
        }
        header.add("tokenizer.ggml.add_bos_token", Value::Bool(self.adds_bos));
        if let Some(template) = &self.chat_template {
            header.add("tokenizer.chat_template", Value::text(template));
        }
    }
}

/// The special tokens under llama.cpp's names; the model's own ids stand in where the tokenizer names none.
fn special(tokenizer: &Tokenizer, config: &LlamaConfig) -> Vec<(&'static str, u32)> {
    let named = |role: &str| {
        let (_, token) = tokenizer.special_tokens().iter().find(|(name, _)| name == role)?;
        tokenizer.token_to_id(token)
    };
    let roles = [
        ("bos", tokenizer.bos_id().or(config.bos_token_id)),
        ("eos", tokenizer.eos_id().or(config.eos_token_ids.first().copied())),
        ("unknown", named("unk_token")),
        ("padding", named("pad_token")),
    ];
    roles.into_iter().filter_map(|(role, id)| Some((role, id?))).collect()
}

/// `tokenizer.json`, parsed.
struct File<'a> {
    json: &'a Map<String, Json>,
}

impl File<'_> {
    fn model(&self, key: &str) -> Option<&Json> {
        self.json.get("model")?.get(key)
    }

    fn check_model(&self) -> Result<(), String> {
        let kind = self.model("type").and_then(Json::as_str).unwrap_or("of no kind");
        let bytes_as_tokens = self.model("byte_fallback") == Some(&Json::Bool(true));
        if kind == "BPE" && !bytes_as_tokens {
            return Ok(());
        }
        let kind = if bytes_as_tokens { "BPE with byte_fallback" } else { kind };
        Err(format!(
            "the tokenizer is {kind}; only byte-level BPE, as Llama 3 has it, can be written as GGUF"
        ))
    }

    /// llama.cpp's name of the splitting rule.
    fn pre_tokenizer(&self) -> Result<&'static str, String> {
        let rule = self.json.get("pre_tokenizer").unwrap_or(&Json::Null);
        let steps = match rule.get("pretokenizers").and_then(Json::as_array) {
            Some(steps) => steps.iter().collect(),
            None => vec![rule],
        };
        let kind = |step: &Json| step.get("type").and_then(Json::as_str).map(str::to_owned);
        let pattern = steps.iter().find_map(|step| step.get("pattern")?.get("Regex")?.as_str());
        let known = match pattern {
            Some(pattern) => {
                PRE_TOKENIZERS.iter().find(|(known, _)| *known == pattern).map(|(_, name)| *name)
            }
            // ByteLevel alone splits as GPT-2 does.
            None if steps.iter().any(|step| kind(step).as_deref() == Some("ByteLevel")) => Some("gpt-2"),
            None => None,
        };
        known.ok_or_else(|| {
            let shown = pattern.unwrap_or("no pattern");
            format!(
                "its pre-tokenizer splits by {shown:?}, and which of llama.cpp's that is cannot be told; \
                 name it with --pre-tokenizer (llama.cpp's convert_hf_to_gguf.py lists them)"
            )
        })
    }

    /// Text and type of every id below the model's vocabulary; ids without a token are unused.
    fn tokens(&self, vocab_size: usize) -> Result<(Vec<String>, Vec<i32>), String> {
        let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; vocab_size];
        let mut put = |token: &str, id: Option<u64>, kind: i32| {
            let id = id.and_then(|id| usize::try_from(id).ok()).ok_or("an id is not a number")?;
            if id >= vocab_size {
                return Err(format!("token {token:?} has id {id}, but the model has {vocab_size} tokens"));
            }
            (tokens[id], types[id]) = (token.to_owned(), kind);
            Ok(())
        };
        let vocabulary =
            self.model("vocab").and_then(Json::as_object).ok_or("model.vocab is not an object")?;
        for (token, id) in vocabulary {
            put(token, id.as_u64(), NORMAL)?;
        }
        let added = self.json.get("added_tokens").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        for token in added {
            let content =
                token.get("content").and_then(Json::as_str).ok_or("an added token has no content")?;
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            let kind = if special { CONTROL } else { USER_DEFINED };
            put(content, token.get("id").and_then(Json::as_u64), kind)?;
        }
        Ok((tokens, types))
    }

    /// The merges as `left right`; files have them so, or as pairs.
    fn merges(&self) -> Option<Vec<String>> {
        let merges = self.model("merges")?.as_array()?.iter().map(|merge| match merge {
            Json::String(merge) => Some(merge.clone()),
            Json::Array(pair) => match &pair[..] {
                [Json::String(left), Json::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        });
        merges.collect()
    }
}
