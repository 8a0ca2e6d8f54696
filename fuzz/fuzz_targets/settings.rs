//! A file of settings. What it resolves to is written as `run.toml` and read again: the same configuration.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use asft::config::{TrainArguments, TrainConfig, merge};
use libfuzzer_sys::fuzz_target;

/// In memory where the system has such a folder.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("asft-fuzz-settings-{}.toml", std::process::id()))
});

fn resolved(text: &[u8]) -> Option<TrainConfig> {
    std::fs::write(&*FILE, text).expect("a temporary file can be written");
    match merge(&TrainArguments::default(), [], Some(&FILE)) {
        Ok(merged) => merged.arguments.resolve_plan(|_| Some(1e-6)).ok(),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = error.hint();
            None
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some(mut config) = resolved(bytes) else { return };
    // How a run starts is not recorded.
    config.run.existing = asft::config::ExistingFolder::Refuse;
    let written = config.to_toml();
    let again = resolved(written.as_bytes()).unwrap_or_else(|| panic!("run.toml is refused:\n{written}"));
    assert_eq!(again, config, "{written}");
    assert_eq!(again.fingerprint(), config.fingerprint());
    assert!(config.differences(&again).is_empty());
});
