//! What can end a generation, worded for the person who started it.

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::data::{DataError, RowError};
use crate::train::TrainError;

/// Why decoding stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Logits that are no numbers.
    #[error("the model's logits are not finite; are its weights whole?")]
    NotFinite,
}

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A file of prompts, or a tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A number format or a model that the device cannot do.
    #[error(transparent)]
    Target(#[from] TrainError),
    /// A prompt that was typed cannot be encoded.
    #[error("the prompt cannot be used: {0}")]
    Prompt(RowError),
    /// Text is to be read or written, and the folder has no tokenizer.
    #[error("{}: no tokenizer.json, so there is no text; give token ids with --prompt-ids FILE", path.display())]
    NoTokenizer {
        /// The model folder.
        path: PathBuf,
    },
    /// A prompt that leaves no room for an answer.
    #[error(
        "{place} has {tokens} tokens, and the model was made for {positions} (max_position_embeddings): nothing is left for \
         an answer. Shorten the prompt"
    )]
    PromptTooLong {
        /// Which prompt.
        place: String,
        /// Its tokens.
        tokens: usize,
        /// The model's positions.
        positions: usize,
    },
    /// A prompt without a token: nothing predicts the first one.
    #[error("{place} is empty; a model needs at least one token to begin with")]
    EmptyPrompt {
        /// Which prompt.
        place: String,
    },
    /// The plan is larger than the memory.
    #[error(
        "generating needs {} of memory and {} are free, even with one sequence at a time. What would make it fit: fewer \
         --max-new-tokens (the cache takes {} per token, {tokens} tokens), shorter prompts, or a smaller model",
        gibibytes(*needed), gibibytes(*available), bytesize::ByteSize(*token_bytes)
    )]
    Memory {
        /// Bytes of the smallest plan.
        needed: u64,
        /// Bytes free.
        available: u64,
        /// Bytes of a token's keys and values.
        token_bytes: u64,
        /// Tokens of the longest prompt and answer.
        tokens: usize,
    },
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}
