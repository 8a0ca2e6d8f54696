//! Generation: prompts to answers, through the same model and the same attention operation as training, with a key/value
//! cache.
//!
//! - [`prompts`]: what was typed or stands in a file -> [`Prompt`]s of token ids, by tokenizer and chat template;
//! - [`cache`]: keys and values of every layer, and who owns which of their rows;
//! - [`decoder`]: requests side by side, each prompt computed once for all its samples;
//! - [`sampling`]: logits -> a token, in the order of transformers' processors;
//! - [`text`]: tokens -> text as it comes, and stop strings;
//! - [`layout`]: the memory plan, cut to the memory there is;
//! - [`error`]: what can go wrong.
//!
//! Boundary: nothing here prints. A [`Watcher`] sees each token when it is there.

pub mod cache;
pub mod decoder;
pub mod error;
pub mod layout;
pub mod prompts;
pub mod sampling;
pub mod text;

pub use cache::{Cache, CacheSize};
pub use decoder::{Answer, Decoder, End, Request, Settings, Statistics, Unwatched, Watcher};
pub use error::{DecodeError, GenerateError};
pub use layout::{Demand, GenerationLayout};
pub use prompts::{Prompt, PromptEncoder};
pub use sampling::Sampling;
pub use text::{AnswerText, Piece};
