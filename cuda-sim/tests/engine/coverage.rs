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

/// A function with a single instruction of a form that `tests/corpus/instruction_forms.py` listed, all its operands declared.
struct Synthesis {
    declarations: String,
    count: usize,
}

impl Synthesis {
    fn of(form: &str) -> String {
        let mut synthesis = Synthesis { declarations: String::new(), count: 0 };
        let (guard, rest) = match form.strip_prefix('@') {
            Some(guarded) => {
                let (guard, rest) = guarded.split_once(' ').expect("an instruction after the guard");
                (format!("@{} ", synthesis.operand(guard)), rest)
            }
            None => (String::new(), form),
        };
        let (mnemonic, operands) = rest.split_once(' ').unwrap_or((rest, ""));
        let operands: Vec<String> =
            split(operands).into_iter().map(|operand| synthesis.operand(operand)).collect();
        format!(
            ".version 8.8\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 symbol[];\n\
             .visible .entry k(.param .align 16 .b8 parameter[64])\n{{\n{}{guard}{mnemonic} {};\nlabel:\nret;\n}}\n",
            synthesis.declarations,
            operands.join(", ")
        )
    }

    /// An operand of a kind, as PTX.
    fn operand(&mut self, kind: &str) -> String {
        let inside = |open: char, close: char| kind.strip_prefix(open).and_then(|k| k.strip_suffix(close));
        if let Some(elements) = inside('{', '}') {
            let elements: Vec<String> = split(elements).into_iter().map(|k| self.operand(k)).collect();
            return format!("{{{}}}", elements.join(", "));
        }
        if let Some(address) = inside('[', ']') {
            let (base, offset) = address.split_once('+').map_or((address, ""), |(base, _)| (base, "+16"));
            let base = if base == "param" { "parameter".to_owned() } else { self.operand(base) };
            return format!("[{base}{offset}]");
        }
        if let Some(negated) = kind.strip_prefix('!') {
            return format!("!{}", self.operand(negated));
        }
        match kind {
            "imm" => "1".to_owned(),
            "fimm" => "0f3F800000".to_owned(),
            "pred" | "b8" | "b16" | "b32" | "b64" | "b128" | "u16" | "u32" | "u64" | "s16" | "s32"
            | "s64" | "f16" | "f16x2" | "f32" | "f64" => {
                self.count += 1;
                self.declarations += &format!(".reg .{kind} %x{};\n", self.count);
                format!("%x{}", self.count)
            }
            // Constants, sinks, special registers, labels and symbols stand for themselves.
            other => other.to_owned(),
        }
    }
}

/// Splits at the commas outside all brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut words, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                words.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(text[start..].trim());
    words.retain(|word| !word.is_empty());
    words
}

/// What the engine says against a form, if anything.
fn refusal(form: &str) -> Option<String> {
    match Module::refused_instructions(&Synthesis::of(form)) {
        Ok(errors) if errors.is_empty() => None,
        Ok(errors) => Some(format!("`{form}`: {}", errors[0])),
        Err(error) => Some(format!("`{form}`: {error}")),
    }
}

#[test]
fn every_form_of_other_people_s_kernels_is_executed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut forms = BTreeMap::new();
    let lists = files(&here.join("tests/corpus"), "txt");
    assert!(lists.len() >= 3, "the lists of Liger, the product and attention are part of the corpus");
    for path in lists {
        let list = std::fs::read_to_string(&path).expect("the corpus is part of the project");
        forms.extend(list.lines().map(|form| (form.to_owned(), path.display().to_string())));
    }
    assert!(forms.len() > 100, "the lists have only {} forms", forms.len());
    let refused: Vec<String> = forms
        .iter()
        .filter_map(|(form, list)| refusal(form).map(|message| format!("{list}: {message}")))
        .collect();
    assert!(refused.is_empty(), "{} forms are refused:\n{}", refused.len(), refused.join("\n"));
}

#[test]
fn a_form_that_is_not_executed_is_named() {
    for (form, word) in [
        ("wgmma.fence.sync.aligned", "wgmma"),
        ("mbarrier.try_wait.shared.b64 pred, [b32], b64", "mbarrier"),
        ("add.f31 b32, b32, b32", "f31"),
        ("@!pred frobnicate.b32 b32, imm", "frobnicate"),
        ("ld.global.v4.b32 {b32,b32,b32}, [b64+imm]", "vector of 4"),
        ("mov.u32 b32, %nosuchregister", "nosuchregister"),
    ] {
        let message = refusal(form).unwrap_or_else(|| panic!("`{form}` was not refused"));
        assert!(message.contains(word), "{message}");
    }
}
