//! Sampled answers: held-out prompts answered greedily and compared with the chosen answers.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::prepare::sample_length;
use super::{Prepared, TrainError, Trainer};
use crate::backend::Backend;
use crate::data::{Group, Role, Tokenizer};
use crate::generate::{Decoder, Request, Sampling, Settings, Unwatched};

/// The file in the run folder, one line per sample.
pub const FILE: &str = "samples.jsonl";

/// One prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt as text, without special tokens and role names (ids where there is no tokenizer).
    pub prompt: String,
    /// The model's answer.
    pub answer: String,
    /// The chosen answer of the data.
    pub expected: String,
    /// Whether the two have the same tokens.
    pub exact: bool,
}

/// Answers the first held-out prompts, as many as the settings ask for.
pub fn samples<B: Backend>(prepared: &Prepared, trainer: &mut Trainer<B>) -> Result<Vec<Sample>, TrainError> {
    let (Some(eval), Some(cache)) = (&prepared.eval, &prepared.layout.cache) else { return Ok(Vec::new()) };
    let count = prepared.config.evaluation.sample_answers.min(eval.groups.len());
    let groups: &[Group] = &eval.groups[..count];
    let tokenizer = prepared.encoder.tokenizer();
    let mut stop = prepared.model.eos_token_ids.clone();
    stop.extend(tokenizer.and_then(Tokenizer::eos_id));
    let contexts: Vec<Vec<u32>> = groups.iter().map(|group| group.context(Role::Chosen)).collect();
    let requests: Vec<Request> = contexts.iter().map(|prompt| Request { prompt, key: 0 }).collect();
    let settings =
        Settings { sampling: Sampling::GREEDY, samples: 1, max_new_tokens: sample_length(groups), stop };
    let Trainer { backend, model, activations, .. } = trainer;
    let mut decoder = Decoder::new(backend, model, activations, cache);
    let answers = decoder.generate(&requests, &settings, &mut Unwatched)?;
    let answers = answers.into_iter().flatten().map(|answer| answer.ids);
    let text = |ids: &[u32]| match tokenizer.and_then(|tokenizer| readable(tokenizer, ids)) {
        Some(text) => text,
        None => format!("{ids:?}"),
    };
    let samples = groups.iter().zip(&contexts).zip(answers).map(|((group, context), answer)| {
        let chosen = group.answer(Role::Chosen);
        let expected = chosen.map_or(&[][..], |answer| &answer.ids[answer.first_turn()]);
        Sample {
            prompt: text(context),
            answer: text(&answer),
            expected: text(expected),
            exact: answer == expected,
        }
    });
    Ok(samples.collect())
}

/// The samples that a finished run has written; none where it has written none.
pub fn read(path: &Path) -> Vec<Sample> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What stands between special tokens, without the names of roles that templates put there.
fn readable(tokenizer: &Tokenizer, ids: &[u32]) -> Option<String> {
    const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "ipython"];
    let pieces = ids.split(|&id| tokenizer.is_special(id)).map(|piece| tokenizer.decode(piece, true).ok());
    let pieces: Vec<String> = pieces.collect::<Option<_>>()?;
    let shown =
        pieces.iter().map(|piece| piece.trim()).filter(|piece| !piece.is_empty() && !ROLES.contains(piece));
    Some(shown.collect::<Vec<_>>().join("\n"))
}
