//! `token-diff`: which tokens of an answer differ from the other answer, for BMC (arXiv 2408.07471, released code).
//!
//! The token ids of prompt + rejected and prompt + chosen are diffed as difflib does ([`super::diff`]); a token outside of every
//! common run gets 1, unless it is a stop word, and every other token 0. These are the m of `objective::pairwise::bmc`, one for
//! each token of the answer, its end token included. The released code diffs while it trains, with the padding of the batch
//! behind the tokens; without it the result does not depend on the batch.
//!
//! Boundary: tokens come from the encoder that training uses, without a bound on their number; training cuts the lists as it
//! cuts the answers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::diff::changed;
use super::{Made, PrepareError, Report, ShapedRow, StopWords, Task};
use crate::data::{Encoded, Encoder, Group, Role, RowError};
use crate::progress::Progress;

/// The columns that are added.
pub const COLUMNS: [(&str, Role); 2] =
    [("chosen_weights", Role::Chosen), ("rejected_weights", Role::Rejected)];

/// Writes the rows with the weights of their tokens. The encoder must have no bound on the length.
///
/// # Errors
/// As [`Task::each_row`]; rows that have weights already among them.
pub fn token_diff(
    task: &Task,
    encoder: &Encoder,
    stop_words: StopWords,
    progress: &mut dyn Progress,
) -> Result<Report, PrepareError> {
    let stop_words = match encoder.tokenizer() {
        Some(tokenizer) => stop_words.ids(tokenizer).map_err(PrepareError::StopWords)?,
        None => HashSet::new(),
    };
    let (tokens, counting, alike) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut report = task.each_row(true, progress, |shaped| {
        let group = match encode(encoder, shaped)? {
            Ok(group) => group,
            Err(reason) => return Ok(Made::Nothing(reason)),
        };
        let weights = weights(&group, &stop_words);
        let all = || weights.iter().flatten();
        tokens.fetch_add(all().count(), Ordering::Relaxed);
        let count = all().filter(|weight| **weight == 1).count();
        counting.fetch_add(count, Ordering::Relaxed);
        alike.fetch_add(usize::from(count == 0), Ordering::Relaxed);
        let mut row = shaped.row.columns.clone();
        for ((column, _), weights) in COLUMNS.iter().zip(weights) {
            if row.insert((*column).to_owned(), Value::from(weights)).is_some() {
                return Err(RowError::ColumnTaken { column: (*column).to_owned() });
            }
        }
        Ok(Made::Rows(vec![row]))
    })?;
    let (tokens, alike) = (tokens.into_inner(), alike.into_inner());
    report
        .notes
        .push((counting.into_inner(), format!("of {tokens} answer tokens are changed and no stop words")));
    report.notes.push((alike, "pairs have no such token: BMC is DPO on them".to_owned()));
    Ok(report)
}

/// The row's tokens, or why it has none.
fn encode(encoder: &Encoder, shaped: ShapedRow<'_>) -> Result<Result<Group, String>, RowError> {
    Ok(match encoder.encode_row(shaped.shape, shaped.row.index, shaped.row)? {
        Encoded::Group(group, _) => Ok(group),
        Encoded::Unusable(reason) => Err(reason.to_string()),
    })
}

/// The weights of the chosen and of the rejected answer.
pub fn weights(group: &Group, stop_words: &HashSet<u32>) -> [Vec<u8>; 2] {
    let ids = |role| group.answer(role).map_or(&[][..], |answer| &answer.ids);
    let whole = |role| [&group.prompt, ids(role)].concat();
    let (corrected, original) = (whole(Role::Chosen), whole(Role::Rejected));
    // The original first: difflib's result depends on the order.
    let (of_original, of_corrected) = changed(&original, &corrected);
    let weights = |ids: &[u32], changed: &[bool]| {
        let answer = ids.iter().zip(changed).skip(group.prompt.len());
        answer.map(|(id, changed)| u8::from(*changed && !stop_words.contains(id))).collect()
    };
    [weights(&corrected, &of_corrected), weights(&original, &of_original)]
}
