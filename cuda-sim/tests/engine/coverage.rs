//! Coverage is a test: of everything in the corpus, no instruction may be refused.

use crate::harness::{compile, have_nvrtc};
use cuda_sim::engine::Module;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// The files of a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the corpus is part of the project");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

#[test]
fn every_instruction_of_the_corpus_is_executed() {
    if !have_nvrtc() {
        return;
    }
    let mut names = BTreeMap::new();
    let mut refused = Vec::new();
    let mut look = |what: &str, ptx: &str| {
        names.extend(mnemonics(ptx));
        let errors = Module::refused_instructions(ptx).unwrap_or_else(|error| panic!("{what}: {error}"));
        refused.extend(errors.iter().map(|error| format!("{what}: {error}")));
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = here.join("../kernels");
    let include = format!("--include-path={}", kernels.display());
    let mut sources = files(&here.join("tests/corpus"), "cu");
    let own = files(&kernels, "cu");
    assert!(own.len() >= 9, "the project's kernels are part of the corpus");
    sources.extend(own);
    for path in sources {
        let source = std::fs::read_to_string(&path).expect("the corpus is part of the project");
        for (architecture, options) in
            [("sm_80", &[&*include][..]), ("sm_90", &[&include]), ("sm_90a", &[&include, "--use_fast_math"])]
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ptx = compile(&source, &name, architecture, options);
            look(&format!("{name} {architecture}"), &ptx);
        }
    }
    for path in files(&here.join("tests/corpus/triton"), "ptx") {
        let ptx = std::fs::read_to_string(&path).expect("the corpus is part of the project");
        look(&path.display().to_string(), &ptx);
    }
    println!("{} different instructions", names.len());
    assert!(names.len() > 300, "the corpus has only {} different instructions", names.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
