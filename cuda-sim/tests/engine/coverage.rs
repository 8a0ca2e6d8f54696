//! Coverage is a test: of everything in the corpus, no instruction may be refused.

use crate::harness::{compile, have_nvrtc};
use cuda_sim::engine::Module;
use std::collections::BTreeMap;
use std::path::Path;

/// Every instruction name of a text with how often it occurs.
fn mnemonics(ptx: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in ptx.lines().map(str::trim) {
        let line = match line.strip_prefix('@') {
            Some(guarded) => guarded.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim()),
            None => line.trim_start_matches('{').trim(),
        };
        let name = line.split([' ', '\t', ';']).next().unwrap_or("");
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(';') {
            *found.entry(name.to_owned()).or_default() += 1;
        }
    }
    found
}

#[test]
fn every_instruction_of_the_corpus_is_executed() {
    if !have_nvrtc() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut names = BTreeMap::new();
    let mut refused = Vec::new();
    for file in ["math.cu", "fp16.cu", "bf16.cu"] {
        let source = std::fs::read_to_string(folder.join(file)).expect("the corpus is part of the project");
        for (architecture, options) in
            [("sm_80", &[][..]), ("sm_90", &[][..]), ("sm_90a", &["--use_fast_math"][..])]
        {
            let ptx = compile(&source, file, architecture, options);
            names.extend(mnemonics(&ptx));
            let errors = Module::refused_instructions(&ptx).unwrap_or_else(|error| panic!("{file}: {error}"));
            refused.extend(errors.iter().map(|error| format!("{file} {architecture}: {error}")));
        }
    }
    println!("{} different instructions", names.len());
    assert!(names.len() > 300, "the corpus has only {} different instructions", names.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
