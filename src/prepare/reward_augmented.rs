//! `reward-augmented`: pairs with scores, each as two pairs with a goal (arXiv 2410.08067).
//!
//! A pair whose answers have the scores R_w and R_l becomes
//!
//! ```text
//! goal R_w: chosen w, rejected l
//! goal R_l: chosen l, rejected w
//! ```
//!
//! The goal is said in the system message, in front of what it says already. So the model learns what each score is like, from
//! both answers, and is asked for the best at the end: the same system message with the highest score. Training is plain DPO.
//!
//! Pairs with R_w < R_l contradict their own label and are left out, as in the released recipe; of two equal scores the two new
//! pairs contradict each other, which is said. The released code has a second branch, for templates without a system message,
//! which writes the goal into the answers' first messages and exchanges no answers: [`GoalPlace::Prompt`] does what it was
//! meant to do.
//!
//! Boundary: columns to columns. Log-probs, weights and embeddings that a row brings belong to its old prompt and are left out.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

use super::explicit::explicit;
use super::{Made, PrepareError, Report, Task};
use crate::data::columns::{ColumnMap, Columns};
use crate::data::{Message, RowError};
use crate::progress::Progress;

/// What the goal is asked for with. `{score}`, `{min}` and `{max}` are filled in.
pub const WORDING: &str = "Give an answer that would get an overall score of {score}, on a scale from {min} (the worst) to {max} (the best).";

/// The scores of the two answers.
const SCORES: [&str; 2] = ["score_chosen", "score_rejected"];
/// What is known of a row under its old prompt, or of the order of its answers.
const OUTDATED: [&str; 6] = [
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_weights",
    "rejected_weights",
    "prompt_embedding",
    "soft_label",
];

/// How goals are written.
#[derive(Clone, Debug, PartialEq)]
pub struct GoalConfig {
    /// The scale that the words name: worst and best.
    pub scale: Scale,
    /// The scale of the columns; scores are mapped linearly from it. `None`: the same.
    pub from: Option<Scale>,
    /// Digits behind the point, at most.
    pub decimals: usize,
    /// The words.
    pub wording: String,
    /// Where they stand in a conversation.
    pub place: GoalPlace,
    /// Whether pairs whose rejected answer has the higher score are kept.
    pub keep_reversed: bool,
    /// Whether pairs of equal scores are left out.
    pub drop_ties: bool,
}

impl Default for GoalConfig {
    fn default() -> Self {
        Self {
            scale: Scale { min: 1.0, max: 10.0 },
            from: None,
            decimals: 2,
            wording: WORDING.to_owned(),
            place: GoalPlace::System,
            keep_reversed: false,
            drop_ties: false,
        }
    }
}

/// Worst and best score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The worst.
    pub min: f64,
    /// The best.
    pub max: f64,
}

/// Where the goal stands in a conversation. In plain text it is a paragraph in front of the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoalPlace {
    /// In the system message.
    #[default]
    System,
    /// In front of what the user says first, for templates without a system message.
    Prompt,
}

impl Scale {
    fn contains(self, score: f64) -> bool {
        (self.min..=self.max).contains(&score)
    }
}

impl GoalConfig {
    /// The words for a score of [`Self::scale`].
    pub fn goal(&self, score: f64) -> String {
        let number = |number: f64| short(number, self.decimals);
        let Scale { min, max } = self.scale;
        let filled = self.wording.replace("{score}", &number(score));
        filled.replace("{min}", &number(min)).replace("{max}", &number(max))
    }

    /// A score of the columns on [`Self::scale`].
    fn rescaled(&self, score: f64) -> f64 {
        let Some(from) = self.from else { return score };
        let Scale { min, max } = self.scale;
        min + (score - from.min) / (from.max - from.min) * (max - min)
    }
}

/// A number without needless digits.
fn short(number: f64, decimals: usize) -> String {
    let digits = format!("{number:.decimals$}");
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits,
    }
}

/// Writes two rows for each pair, one after the other.
///
/// # Errors
/// As [`Task::each_row`]: rows without scores among them, or with scores beyond the scale.
pub fn reward_augmented(
    task: &Task,
    config: &GoalConfig,
    progress: &mut dyn Progress,
) -> Result<Report, PrepareError> {
    let ties = AtomicUsize::new(0);
    let mut report = task.each_row(true, progress, |shaped| {
        let scores = scores(&shaped.row.columns, config)?;
        let [chosen, rejected] = scores;
        if chosen < rejected && !config.keep_reversed {
            return Ok(Made::Nothing("rejected scored above chosen".to_owned()));
        }
        if chosen == rejected && config.drop_ties {
            return Ok(Made::Nothing("both answers have one score".to_owned()));
        }
        let row = match explicit(shaped.example()?, &shaped.row.columns) {
            Made::Rows(rows) => rows,
            nothing => return Ok(nothing),
        };
        ties.fetch_add(usize::from(chosen == rejected), Ordering::Relaxed);
        let mut rows = Vec::new();
        for row in &row {
            match pairs(row, scores, config)? {
                Some(pairs) => rows.extend(pairs),
                None => {
                    return Ok(Made::Nothing(
                        "no message of the user's to put the goal in front of".to_owned(),
                    ));
                }
            }
        }
        Ok(Made::Rows(rows))
    })?;
    let ties = ties.into_inner();
    report.notes.push((
        ties,
        "pairs have equal scores, so their two goals contradict each other (--drop-ties)".to_owned(),
    ));
    Ok(report)
}

/// Both scores as the columns have them.
fn scores(columns: &Map<String, Value>, config: &GoalConfig) -> Result<[f64; 2], RowError> {
    let scale = config.from.unwrap_or(config.scale);
    let none = ColumnMap::default();
    let columns = Columns::new(columns, &none);
    let mut scores = [0.0; 2];
    for (name, score) in SCORES.into_iter().zip(&mut scores) {
        let value = columns.get(name).ok_or_else(|| columns.missing(name))?;
        let number = value.as_f64().filter(|number| scale.contains(*number));
        *score = number.ok_or_else(|| RowError::MistypedColumn {
            column: name.to_owned(),
            place: String::new(),
            found: value.to_string(),
            expected: "a number on the scale (--scale MIN:MAX, or --from-scale if the data have another)",
        })?;
    }
    Ok(scores)
}

/// The pair with the chosen answer's score as the goal, and the reversed pair with the rejected answer's; none where there is
/// no place for a goal.
fn pairs(
    row: &Map<String, Value>,
    scores: [f64; 2],
    config: &GoalConfig,
) -> Result<Option<[Map<String, Value>; 2]>, RowError> {
    let mut row = row.clone();
    OUTDATED.iter().for_each(|column| drop(row.shift_remove(*column)));
    let with_goal = |row: &Map<String, Value>, score: f64| -> Result<_, RowError> {
        let prompt = row.get("prompt").cloned().unwrap_or_default();
        let prompt = with_goal(prompt, &config.goal(config.rescaled(score)), config.place)?;
        Ok(prompt.map(|prompt| {
            let mut row = row.clone();
            row.insert("prompt".to_owned(), prompt);
            row
        }))
    };
    let mut reversed = row.clone();
    for [one, other] in [["chosen", "rejected"], SCORES] {
        if let (Some(ours), Some(theirs)) = (row.get(one), row.get(other)) {
            reversed.insert(one.to_owned(), theirs.clone());
            reversed.insert(other.to_owned(), ours.clone());
        }
    }
    let both = [with_goal(&row, scores[0])?, with_goal(&reversed, scores[1])?];
    let [Some(chosen), Some(rejected)] = both else { return Ok(None) };
    Ok(Some([chosen, rejected]))
}

/// A prompt with the goal in front; none where it holds no message that the goal belongs into.
fn with_goal(prompt: Value, goal: &str, place: GoalPlace) -> Result<Option<Value>, RowError> {
    let list = match prompt {
        Value::String(text) => return Ok(Some(Value::from(format!("{goal}\n\n{text}")))),
        Value::Array(list) => list,
        _ => {
            return Err(RowError::MistypedColumn {
                column: "prompt_input_ids".to_owned(),
                place: String::new(),
                found: "token ids".to_owned(),
                expected: "text or messages, which a goal can be put in front of",
            });
        }
    };
    let messages = list.iter().enumerate().map(|(index, value)| Message::read("prompt", index, value));
    let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
    let role = match place {
        GoalPlace::System => "system",
        GoalPlace::Prompt => "user",
    };
    let said = match place {
        // Templates look for it at the beginning.
        GoalPlace::System => messages.first().filter(|first| first.role() == role).map(|_| 0),
        GoalPlace::Prompt => messages.iter().position(|message| message.role() == role),
    };
    match said {
        Some(index) => {
            let content = format!("{goal}\n\n{}", messages[index].content());
            messages[index] = messages[index].clone().with_content(&content);
        }
        None if place == GoalPlace::System => messages.insert(0, Message::new(role, goal)),
        None => return Ok(None),
    }
    Ok(Some(super::explicit::list(messages)))
}
