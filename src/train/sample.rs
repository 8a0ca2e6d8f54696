//! Sampled answers: held-out prompts answered greedily at every evaluation and compared with the chosen answers.
//!
//! `samples.jsonl` is a record as `metrics.jsonl` is one: a line per answer, in the order of the steps.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::prepare::sample_length;
use super::record::{LogError, lines};
use super::{Prepared, TrainError, Trainer};
use crate::backend::Backend;
use crate::data::{Group, Role, Tokenizer};
use crate::generate::{Decoder, Request, Sampling, Settings, Unwatched};

/// The file in the run folder, one line per sample.
pub const FILE: &str = "samples.jsonl";

/// One prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Optimizer steps done before it.
    pub step: usize,
    /// The prompt as text, without special tokens and role names (ids where there is no tokenizer).
    pub prompt: String,
    /// The model's answer.
    pub answer: String,
    /// The chosen answer of the data.
    pub expected: String,
    /// Whether the two have the same tokens.
    pub exact: bool,
}

impl Sample {
    /// Question, answer and verdict on one line.
    pub fn shown(&self) -> String {
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let verdict = if self.exact { "right" } else { "wrong" };
        format!("{} -> {}  ({verdict})", one_line(&self.prompt), one_line(&self.answer))
    }

    /// The line of the record.
    pub fn line(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(line)) => line,
            _ => unreachable!("a struct of numbers, strings and booleans is a JSON object"),
        }
    }
}

/// Answers the first held-out prompts after `step`, as many as the settings ask for.
pub fn samples<B: Backend>(
    prepared: &Prepared,
    trainer: &mut Trainer<B>,
    step: usize,
) -> Result<Vec<Sample>, TrainError> {
    let (Some(eval), Some(cache)) = (&prepared.eval, &prepared.layout.cache) else { return Ok(Vec::new()) };
    let count = prepared.config.evaluation.sample_answers.min(eval.groups.len());
    let groups: &[Group] = &eval.groups[..count];
    let tokenizer = prepared.encoder.tokenizer();
    let mut stop = prepared.model.eos_token_ids.clone();
    stop.extend(tokenizer.and_then(Tokenizer::eos_id));
    stop.extend(prepared.encoder.end_of_turn());
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
            step,
            prompt: text(context),
            answer: text(&answer),
            expected: text(expected),
            exact: answer == expected,
        }
    });
    Ok(samples.collect())
}

/// The samples that a run has recorded after `step`; none where it has recorded none.
pub fn recorded(run: &Path, step: usize) -> Result<Vec<Sample>, LogError> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut samples = Vec::new();
    for line in lines(&path)? {
        let sample = serde_json::from_value(Value::Object(line?));
        samples.extend(sample.ok().filter(|sample: &Sample| sample.step == step));
    }
    Ok(samples)
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
