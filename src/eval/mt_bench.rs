//! MT-Bench (Zheng et al., arXiv 2306.05685): FastChat's questions in, answers out in the format of its `model_answer` files,
//! so that its judge runs on them unchanged.
//!
//! Boundary: the two file formats and FastChat's temperatures; who answers is the caller's business.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::checkpoint::{CheckpointError, atomic};
use crate::data::{DataError, Numbering, Place, RowError, Rows};

/// One line of `question.jsonl`; other columns are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Question {
    /// Its number.
    pub question_id: u64,
    /// Its kind, which decides the temperature.
    pub category: String,
    /// What the user says, turn by turn.
    pub turns: Vec<String>,
}

/// One line of a `model_answer` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The question's number.
    pub question_id: u64,
    /// Different for every answer; here a hash of what was asked and answered, so that the same run writes the same.
    pub answer_id: String,
    /// The name that the judge knows the model by.
    pub model_id: String,
    /// Answers to all turns, one choice.
    pub choices: Vec<Choice>,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// One way of answering all turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// 0-based.
    pub index: usize,
    /// The answer to each turn.
    pub turns: Vec<String>,
}

impl Question {
    /// FastChat's temperature for this kind of question.
    pub fn temperature(&self) -> f64 {
        match self.category.as_str() {
            "extraction" | "math" | "coding" | "reasoning" | "arena-hard-200" => 0.0,
            "stem" | "humanities" => 0.1,
            // Writing, roleplay, and whatever FastChat does not know.
            _ => 0.7,
        }
    }
}

impl ModelAnswer {
    /// An answer to all turns of a question.
    pub fn new(question: &Question, model_id: &str, turns: Vec<String>, tstamp: f64) -> Self {
        let content = format!("{model_id}\0{}\0{}", question.question_id, turns.join("\0"));
        Self {
            question_id: question.question_id,
            answer_id: format!("{:032x}", xxh3_128(content.as_bytes())),
            model_id: model_id.to_owned(),
            choices: vec![Choice { index: 0, turns }],
            tstamp,
        }
    }
}

/// The questions of a file, in its order.
///
/// # Errors
/// A file that cannot be read, a line that is no question, or none at all.
pub fn questions(path: &Path) -> Result<Vec<Question>, DataError> {
    let mut questions = Vec::new();
    for row in Rows::open(path)? {
        let row = row?;
        let question = Question::deserialize(Value::Object(row.columns)).map_err(|error| DataError::Row {
            place: Place::new(path, Numbering::Lines, row.line),
            problem: Box::new(RowError::NotAQuestion { message: error.to_string() }),
        })?;
        questions.push(question);
    }
    match questions.is_empty() {
        true => Err(DataError::Empty { paths: vec![path.to_owned()] }),
        false => Ok(questions),
    }
}

/// The answers that an earlier run has written, by question; none where there is no file.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn answers(path: &Path) -> Result<BTreeMap<u64, ModelAnswer>, DataError> {
    let mut answers = BTreeMap::new();
    if !path.exists() {
        return Ok(answers);
    }
    for row in Rows::open(path)? {
        let row = row?;
        let answer =
            ModelAnswer::deserialize(Value::Object(row.columns)).map_err(|error| DataError::Row {
                place: Place::new(path, Numbering::Lines, row.line),
                problem: Box::new(RowError::NotAnAnswer { message: error.to_string() }),
            })?;
        answers.insert(answer.question_id, answer);
    }
    Ok(answers)
}

/// Writes a `model_answer` file, by question, as FastChat sorts it.
///
/// # Errors
/// A file that cannot be written; what was there before is then still there.
pub fn save(path: &Path, answers: &BTreeMap<u64, ModelAnswer>) -> Result<(), CheckpointError> {
    let failed = |error: serde_json::Error| CheckpointError::Io {
        action: "write",
        path: path.to_owned(),
        source: error.into(),
    };
    let lines: Result<Vec<String>, _> = answers.values().map(serde_json::to_string).collect();
    let text: String = lines.map_err(failed)?.iter().map(|line| format!("{line}\n")).collect();
    atomic::save_bytes(path, text.as_bytes())
}
