//! The Llama model: its configuration.

pub mod config;

pub use config::{ConfigError, LlamaConfig, Rope};
