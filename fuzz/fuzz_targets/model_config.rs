//! `config.json`. What is accepted is written and read again: the same model; and its parameters can be laid out.

#![no_main]

use std::path::Path;

use asft::model::{LlamaConfig, ParameterTable};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("config.json");
    let config = match LlamaConfig::from_json(text, path) {
        Ok(config) => config,
        Err(error) => {
            assert!(error.to_string().starts_with("config.json"), "{error}");
            return;
        }
    };
    let written = Value::Object(config.to_json()).to_string();
    let again = LlamaConfig::from_json(&written, path).unwrap_or_else(|error| panic!("{error}\n{written}"));
    let without_file = |config: &LlamaConfig| LlamaConfig { raw: Default::default(), ..config.clone() };
    assert_eq!(without_file(&again), without_file(&config), "{written}");
    // Sizes within which lists stay small.
    if config.num_hidden_layers <= 64 && config.head_dim <= 1024 {
        assert_eq!(config.rope.inverse_frequencies(config.head_dim).len(), config.head_dim / 2);
        let elements = |shape: &[usize]| shape.iter().map(|&size| size as u128).product::<u128>();
        let all: u128 = config.parameters().iter().map(|(_, shape)| elements(shape)).sum();
        if all < 1 << 60 {
            assert_eq!(ParameterTable::new(&config).count() as u128, all);
        }
    }
});
