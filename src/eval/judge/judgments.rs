//! FastChat's `model_judgment` files: one line per judgment, appended as it is made.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::JudgeError;

/// The score of a judgment without one, as FastChat writes it.
pub const NO_SCORE: f64 = -1.0;
/// The winner of a judgment without one, as FastChat writes it.
pub const NO_WINNER: &str = "error";

/// One answer, rated by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SingleJudgment {
    /// The question's number.
    pub question_id: u64,
    /// Who answered.
    pub model: String,
    /// The judge's model and the prompt's name.
    pub judge: (String, String),
    /// What the judge was shown.
    pub user_prompt: String,
    /// What it said.
    pub judgment: String,
    /// What that says: 1 to 10, or -1 where it says nothing.
    pub score: f64,
    /// 1 or 2.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// Two answers to one question, compared in both orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairJudgment {
    /// The question's number.
    pub question_id: u64,
    /// Who answered.
    pub model_1: String,
    /// Who it is compared with.
    pub model_2: String,
    /// `model_1`, `model_2`, `tie` or `error`, with the first model shown first.
    pub g1_winner: String,
    /// The same with the first model shown second.
    pub g2_winner: String,
    /// The judge's model and the prompt's name.
    pub judge: (String, String),
    /// What the judge was shown.
    pub g1_user_prompt: String,
    /// What it said.
    pub g1_judgment: String,
    /// What the judge was shown in the other order.
    pub g2_user_prompt: String,
    /// What it said.
    pub g2_judgment: String,
    /// 1 or 2.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// One line of a `model_judgment` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Judgment {
    /// Of `MODEL_single.jsonl`.
    Single(SingleJudgment),
    /// Of `MODEL_pair.jsonl`.
    Pair(PairJudgment),
}

impl Judgment {
    /// Whether the judge's words gave a score or a winner, in both orders.
    pub fn is_scored(&self) -> bool {
        match self {
            Judgment::Single(single) => single.score != NO_SCORE,
            Judgment::Pair(pair) => pair.g1_winner != NO_WINNER && pair.g2_winner != NO_WINNER,
        }
    }
}

/// An open file of judgments.
#[derive(Debug)]
pub struct Judgments {
    path: PathBuf,
    file: File,
}

impl Judgments {
    /// Opens a file, or begins it, and gives what it holds. A last line that a kill has torn is cut off.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that holds something else.
    pub fn open(path: &Path) -> Result<(Self, Vec<Judgment>), JudgeError> {
        let failed = |action| {
            let path = path.to_owned();
            move |source| JudgeError::Io { action, path, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(failed("read"))?,
        };
        let mut found = Vec::new();
        let (mut whole, mut terminated) = (0, true);
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if !line.trim().is_empty() {
                match serde_json::from_str(line) {
                    Ok(judgment) => found.push(judgment),
                    Err(_) if !line.ends_with('\n') => break,
                    Err(error) => {
                        let (path, problem) = (path.to_owned(), error.to_string());
                        return Err(JudgeError::Line { path, line: index + 1, problem });
                    }
                }
            }
            (whole, terminated) = (whole + line.len(), line.ends_with('\n'));
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed("open"))?;
        file.set_len(whole as u64).map_err(failed("cut"))?;
        if !terminated {
            file.write_all(b"\n").map_err(failed("write"))?;
        }
        Ok((Self { path: path.to_owned(), file }, found))
    }

    /// Appends a line. One write per line: a kill may tear the last line, never mix two.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append(&mut self, judgment: &Judgment) -> Result<(), JudgeError> {
        let failed = |source| JudgeError::Io { action: "write", path: self.path.clone(), source };
        let line = serde_json::to_string(judgment).map_err(|error| failed(error.into()))? + "\n";
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush()).map_err(failed)
    }
}
