//! The tokenizer of a model folder: `tokenizer.json` through the `tokenizers` library, and the special tokens
//! named in `tokenizer_config.json` and `special_tokens_map.json`, read as Hugging Face reads them.
//!
//! Boundary: text <-> token ids. Which text is encoded, and what is added to it, is [`super::encode`]'s business.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use tokenizers::tokenizer::DecodeStream;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};
use xxhash_rust::xxh3::xxh3_128;

use super::error::DataError;

/// The roles a special token may have, as Hugging Face's files name them.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A loaded tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// (role, token), in the order of [`ROLES`].
    special_tokens: Vec<(String, String)>,
    /// Ids of every token marked special, whatever its role.
    special_ids: HashSet<u32>,
    /// Finds their contents in a text.
    special_words: AhoCorasick,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    fingerprint: u128,
}

impl Tokenizer {
    /// Loads the tokenizer of a folder; `None` where there is no `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, is not what it must be, or names a special token that the vocabulary lacks.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, DataError> {
        let path = folder.join("tokenizer.json");
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataError::Read { path, source }),
        };
        let file = xxh3_128(&bytes);
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| tokenizer_error(&path, error.as_ref()))?;
        // The file may carry the settings of whoever saved it; a row is never cut or padded behind our back.
        inner.with_truncation(None).map_err(|error| tokenizer_error(&path, error.as_ref()))?;
        inner.with_padding(None);

        let config_path = folder.join("tokenizer_config.json");
        let config = read_object(&config_path)?.unwrap_or_default();
        let map_path = folder.join("special_tokens_map.json");
        let special_tokens = special_tokens(&config, &config_path, &map_path)?;
        for (role, token, named_in) in &special_tokens {
            if inner.token_to_id(token).is_none() {
                // Transformers would append it to the vocabulary; only these two are ever looked up here.
                if matches!(*role, "bos_token" | "eos_token") {
                    let problem = format!("{role} is \"{token}\", which tokenizer.json does not hold");
                    return Err(DataError::Folder { path: named_in.clone(), problem });
                }
                continue;
            }
            // A token of the vocabulary becomes a special one by being named; its id stays.
            inner
                .add_special_tokens([AddedToken::from(token.clone(), true)])
                .map_err(|error| tokenizer_error(&path, error.as_ref()))?;
        }
        let special_tokens: Vec<_> =
            special_tokens.into_iter().map(|(role, token, _)| (role.to_owned(), token)).collect();
        let adds_bos = config.get("add_bos_token").and_then(Value::as_bool);
        Self::assemble(inner, special_tokens, adds_bos, file)
            .map(Some)
            .map_err(|message| DataError::Tokenizer { path, message })
    }

    /// `adds_bos` as tokenizer_config.json says it, else what the post-processor does.
    fn assemble(
        mut inner: tokenizers::Tokenizer,
        special_tokens: Vec<(String, String)>,
        adds_bos: Option<bool>,
        file: u128,
    ) -> Result<Self, String> {
        let id_of = |wanted: &str| {
            let (_, token) = special_tokens.iter().find(|(role, _)| role == wanted)?;
            inner.token_to_id(token)
        };
        let (bos, eos) = (id_of("bos_token"), id_of("eos_token"));
        let adds_bos = match (bos, adds_bos) {
            (None, _) => false,
            (Some(_), Some(adds_bos)) => adds_bos,
            (Some(bos), None) => {
                let added = inner.encode_fast("", true).map_err(|error| error.to_string())?;
                added.get_ids().first() == Some(&bos)
            }
        };
        // All it could add is added by hand, and it would take the white space out of the ranges of tokens.
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let added = inner.get_added_tokens_decoder();
        let special: Vec<_> = added.iter().filter(|(_, token)| token.special).collect();
        let special_ids = special.iter().map(|(id, _)| **id).collect();
        let words = special.iter().map(|(_, token)| &token.content).filter(|word| !word.is_empty());
        let special_words = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(words)
            .map_err(|error| error.to_string())?;
        let fingerprint = xxh3_128(format!("{file:x} {special_tokens:?} {adds_bos}").as_bytes());
        Ok(Self { inner, special_tokens, special_ids, special_words, bos, eos, adds_bos, fingerprint })
    }

    /// xxh3 of tokenizer.json and of what the other files say that decides token ids.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// (role, token) of the special tokens the folder names, for the chat template.
    pub fn special_tokens(&self) -> &[(String, String)] {
        &self.special_tokens
    }

    /// The token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends an answer.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// Whether plain text is to begin with [`Self::bos_id`].
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether this id is a special token, of whatever role.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// Tokens, added ones included. Ids may have gaps: an id is checked against the model, not against this.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token given by its exact content.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of the text, nothing added; special tokens written in the text become their ids.
    ///
    /// # Errors
    /// The library's message; with byte-level tokenizers there is no text that fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Self::encode`], with the bytes of the text that each token stands for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_ranges(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        let encoding = self.inner.encode(text, false).map_err(|error| error.to_string())?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        Ok((encoding.get_ids().to_vec(), ranges.collect()))
    }

    /// How many special tokens are written in a text: each becomes its id when the text is encoded.
    pub fn special_tokens_in(&self, text: &str) -> usize {
        self.special_words.find_iter(text).count()
    }

    /// [`Self::encode`], with BOS before it if the tokenizer adds one and the text does not begin with it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_bos(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = self.encode(text)?;
        if let Some(bos) = self.bos_before(&ids) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// BOS, if plain text of these ids is to begin with it and does not.
    pub fn bos_before(&self, ids: &[u32]) -> Option<u32> {
        self.bos.filter(|bos| self.adds_bos && ids.first() != Some(bos))
    }

    /// A decoder of tokens that come one by one; special tokens are left out.
    pub fn text_stream(&self) -> TextStream<'_> {
        TextStream(self.inner.decode_stream(true))
    }

    /// The text of ids; special tokens are left out or written.
    ///
    /// # Errors
    /// The library's message.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| error.to_string())
    }
}

impl Tokenizer {
    /// The text of each of `ids`, which follow `context`; special tokens are written. Where several tokens make one
    /// character, the last of them has its text and the others none; ids that the vocabulary lacks have none.
    pub fn texts(&self, context: &[u32], ids: &[u32]) -> Vec<String> {
        // Bytes of a character at most, and so tokens that one can be spread over.
        const LONGEST: usize = 4;
        let decode = |ids: &[u32]| self.decode(ids, false).unwrap_or_default();
        // Decoded with what stands before it: some tokenizers leave out the space of the first token.
        let mut before = context[context.len().saturating_sub(1)..].to_vec();
        let mut texts = vec![String::new(); ids.len()];
        let mut start = 0;
        for end in 1..=ids.len() {
            let group = &ids[start..end];
            let whole = decode(&[&before, group].concat());
            let text = whole.strip_prefix(&decode(&before)).map_or_else(|| decode(group), str::to_owned);
            let unfinished = text.ends_with(char::REPLACEMENT_CHARACTER) && group.len() < LONGEST;
            if !unfinished || end == ids.len() {
                texts[end - 1] = text;
                before = group.to_vec();
                start = end;
            }
        }
        texts
    }
}

/// Tokens that come one by one, as text.
pub struct TextStream<'a>(
    DecodeStream<
        'a,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
);

impl TextStream<'_> {
    /// The text that a token completes; `None` where a character is not whole yet, or the token shows nothing.
    ///
    /// # Errors
    /// The library's message.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, String> {
        self.0.step(id).map_err(|error| error.to_string())
    }
}

/// (role, token, file that names it). As in transformers: `special_tokens_map.json` belongs to folders older
/// than `added_tokens_decoder`; it wins where the configuration lacks that, and is not looked at otherwise.
fn special_tokens(
    config: &Map<String, Value>,
    config_path: &Path,
    map_path: &Path,
) -> Result<Vec<(&'static str, String, PathBuf)>, DataError> {
    let map = match config.contains_key("added_tokens_decoder") {
        true => Map::new(),
        false => read_object(map_path)?.unwrap_or_default(),
    };
    let mut found = Vec::new();
    for role in ROLES {
        let (value, path) = match (map.get(role), config.get(role)) {
            (Some(value), _) => (value, map_path),
            (None, Some(value)) => (value, config_path),
            (None, None) => continue,
        };
        let token = match value {
            Value::Null => continue,
            Value::Object(token) => token.get("content").and_then(Value::as_str),
            other => other.as_str(),
        };
        match token {
            Some(token) => found.push((role, token.to_owned(), path.to_owned())),
            None => {
                let problem = format!("{role} must be a string or an object with \"content\"");
                return Err(DataError::Folder { path: path.to_owned(), problem });
            }
        }
    }
    Ok(found)
}

/// A JSON object from a file; `None` where there is no such file.
pub(super) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, DataError> {
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::Read { path: path.to_owned(), source }),
    };
    let parsed: Result<Map<String, Value>, _> = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| DataError::Folder {
        path: path.to_owned(),
        problem: format!("not a JSON object: {error}"),
    })
}

fn tokenizer_error(path: &Path, error: &(dyn std::error::Error + Send + Sync)) -> DataError {
    DataError::Tokenizer { path: path.to_owned(), message: error.to_string() }
}
