//! `asft score`: log-probs of answers, one JSON line per row, in order.

use std::io::Write;

use asft::backend::Backend;
use asft::checkpoint::{CheckpointError, ModelFolder, atomic, hub};
use asft::config::{ScoreArguments, ScoreConfig};
use asft::data::{EncodeConfig, Encoder, Group, Roles, Skipped, Spans, load_rows};
use asft::eval::{Scorer, largest};
use asft::model::Budget;
use asft::train::{InferenceLayout, Target, TrainError};
use serde_json::{Map, Value, json};

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::progress::Bars;
use super::{ExitStatus, Layers, output};

/// Tokens of a packed batch unless something else is asked for.
const DEFAULT_TOKENS: usize = 4096;
/// Rows of logits at a time.
const HEAD_ROWS: usize = 1024;
/// What is scored: both answers.
const SPANS: Spans = Spans { prompt: false, answers: Roles::PAIR };

/// Scores as the merged settings say.
pub fn run(arguments: &Layers<ScoreArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve().or_usage()?;
    let folder = ModelFolder::open(&hub::locate(&config.model).or_usage()?.folder).or_usage()?;
    let (rows, groups) = rows(&config, &folder, SPANS).or_usage()?;
    let backend = choose(config.device, config.threads, config.formats.dtype)?;
    let scores = on_device!(backend, backend => scores(&config, &folder, &groups, backend))?;
    let mut scores = scores.into_iter();
    let lines = rows.iter().map(|row| match row {
        Ok(_) => scores.next().unwrap_or_default().to_string(),
        Err(skipped) => json!({ "row": skipped.row, "skipped": skipped.reason.to_string() }).to_string(),
    });
    match &config.output {
        None => output::print(&lines.map(|line| line + "\n").collect::<String>())?,
        Some(path) => atomic::save_file(path, |writer| {
            lines
                .into_iter()
                .try_for_each(|line| writeln!(writer, "{line}"))
                .map_err(|source| CheckpointError::Io { action: "write", path: path.clone(), source })
        })?,
    }
    Ok(ExitStatus::Success)
}

/// What became of each row of the file.
pub(super) type Rows = Vec<Result<Group, Skipped>>;

/// Every row in order, and the usable ones among them, of which these spans are to be scored.
pub(super) fn rows(
    config: &ScoreConfig,
    folder: &ModelFolder,
    spans: Spans,
) -> Result<(Rows, Vec<Group>), TrainError> {
    let model = folder.config();
    let settings = EncodeConfig {
        vocab_size: model.vocab_size,
        max_length: config.max_length,
        truncation: config.truncation,
        columns: config.columns.clone(),
        eos_ids: model.eos_token_ids.clone(),
        template: config.template.clone(),
        ..EncodeConfig::default()
    };
    let encoder = Encoder::from_folder(folder.dir(), settings)?;
    let (rows, report) = load_rows(&config.data, &encoder, &mut Bars::default())?;
    report.log_shapes();
    report.warn("rows");
    let positions = model.max_position_embeddings;
    let groups: Vec<Group> = rows.iter().filter_map(|row| row.as_ref().ok().cloned()).collect();
    let (.., longest) = largest(&groups, spans);
    if longest > positions {
        return Err(TrainError::TooLong { longest, positions });
    }
    Ok((rows, groups))
}

/// One JSON object per usable row.
fn scores<B: Backend>(
    config: &ScoreConfig,
    folder: &ModelFolder,
    groups: &[Group],
    mut backend: B,
) -> anyhow::Result<Vec<Value>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let layout = loaded(config, folder, groups, SPANS, &mut backend)?;
    let (model, activations) = (&layout.model, &layout.activations);
    let mut scorer = Scorer { backend: &mut backend, model, activations, progress: &mut Bars::default() };
    let mut scores = Vec::with_capacity(groups.len());
    scorer.each("scoring", groups, SPANS, |members, log_probs| {
        for group in members {
            let mut line = Map::from_iter([("row".to_owned(), json!(group.row))]);
            for (role, span) in group.answers.present() {
                line.insert(role.name().to_owned(), answer(&log_probs[span.range()], config.tokens));
            }
            scores.push(Value::Object(line));
        }
    })?;
    Ok(scores)
}

/// The model on a device, with room for batches of these groups.
pub(super) fn loaded<B: Backend>(
    config: &ScoreConfig,
    folder: &ModelFolder,
    groups: &[Group],
    spans: Spans,
    backend: &mut B,
) -> anyhow::Result<InferenceLayout> {
    let (tokens, head_rows, positions) = largest(groups, spans);
    let all: usize = groups.iter().map(|group| spans.tokens(group)).sum();
    let tokens = config.max_tokens_per_batch.unwrap_or(DEFAULT_TOKENS).min(all).max(tokens);
    let target = Target::of(backend);
    target.check(folder.config()).or_usage()?;
    let precision = target.precision(config.formats).or_usage()?;
    let (rows, head_rows) = (tokens.max(head_rows), HEAD_ROWS.min(tokens));
    let budget =
        Budget { tokens, rows, head_rows, positions, rungs: target.rungs(tokens, head_rows), mixed: false };
    let layout = InferenceLayout::new(folder.config(), budget, precision, target.workspace());
    let (needed, free) = (layout.plan.total_bytes() as u64, backend.available_memory());
    if let Some(available) = free.filter(|&free| free < needed) {
        let path = folder.dir().to_owned();
        return Err(TrainError::ScoringMemory { path, needed, available, tokens }).or_usage();
    }
    layout.allocate(backend)?;
    layout.model.load(backend, folder)?;
    Ok(layout)
}

fn answer(log_probs: &[f32], tokens: bool) -> Value {
    let sum = log_probs.iter().fold(0.0, |sum, &logp| sum + f64::from(logp));
    let mut answer =
        json!({ "logp": sum, "mean_logp": sum / log_probs.len() as f64, "tokens": log_probs.len() });
    if tokens {
        // As f64, every f32 is written exactly.
        answer["token_logps"] = log_probs.iter().map(|&logp| f64::from(logp)).collect();
    }
    answer
}
