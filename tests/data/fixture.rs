//! What the tests share: the golden folder, encoders over it, files of rows, groups of made-up tokens.

use std::path::{Path, PathBuf};

use asft::data::{
    Answer, ChatTemplate, ColumnMap, EncodeConfig, Encoder, Example, FileShape, Group, Numbering, Role,
    TemplateChoice, TemplateDate, Tokenizer,
};
use serde_json::Value;
use tempfile::TempDir;

/// The folder that `make_golden.py` made.
pub fn folder() -> PathBuf {
    golden().join("folder")
}

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&folder()).unwrap().unwrap()
}

pub fn config() -> EncodeConfig {
    EncodeConfig { vocab_size: 420, ..EncodeConfig::default() }
}

/// An encoder with one of the golden templates.
pub fn encoder(name: &str, config: EncodeConfig) -> Encoder {
    let tokenizer = tokenizer();
    let template = template(name, &tokenizer);
    Encoder::new(Some(tokenizer), Some(template), config)
}

/// A row as it is read by itself, or the words of the error.
pub fn read(row: &Value) -> Result<Example, String> {
    let (columns, map) = (row.as_object().unwrap(), ColumnMap::default());
    let shape = FileShape::of(columns, (Numbering::Lines, 1), &map, false);
    shape.and_then(|shape| shape.read(columns, &map)).map_err(|error| error.to_string())
}

/// One of the golden templates, or a built-in one as `built-in NAME`.
pub fn template(name: &str, tokenizer: &Tokenizer) -> ChatTemplate {
    dated_template(name, tokenizer, None)
}

pub fn dated_template(name: &str, tokenizer: &Tokenizer, date: Option<TemplateDate>) -> ChatTemplate {
    let choice = match name.strip_prefix("built-in ") {
        Some(name) => TemplateChoice::parse(Path::new(name)),
        None => TemplateChoice::File(golden().join("templates").join(format!("{name}.jinja"))),
    };
    ChatTemplate::new(choice.load().unwrap(), tokenizer, date).unwrap()
}

/// For rows of token ids: no tokenizer, no template.
pub fn bare_encoder(config: EncodeConfig) -> Encoder {
    Encoder::new(None, None, config)
}

/// A file of these lines. The folder must live as long as the file is used.
pub fn file(lines: &[&str]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("train.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

/// A group of made-up tokens.
pub fn group(row: usize, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Group {
    let answer = |role, ids: &[u32]| Answer { role, ids: ids.to_vec(), scored: None, text: None };
    let answers = vec![answer(Role::Chosen, chosen), answer(Role::Rejected, rejected)];
    Group { row, prompt: prompt.to_vec(), answers, annotations: None }
}

/// A group of these lengths with tokens that depend on the row.
pub fn group_of(row: usize, prompt: usize, chosen: usize, rejected: usize) -> Group {
    let ids = |len: usize, salt: usize| {
        (0..len).map(|i| ((row * 7 + i * 3 + salt) % 50) as u32).collect::<Vec<_>>()
    };
    group(row, &ids(prompt, 0), &ids(chosen, 1), &ids(rejected, 2))
}

/// An error and what caused it, as the program prints them.
pub fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", words(source)),
        None => error.to_string(),
    }
}
