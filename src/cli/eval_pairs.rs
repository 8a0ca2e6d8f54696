//! `asft eval pairs`: one column per model, one line per metric.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::ensure;
use asft::backend::Backend;
use asft::checkpoint::{CheckpointError, ModelFolder, atomic, hub};
use asft::config::{EvalPairsArguments, EvalPairsConfig};
use asft::data::{self, Dataset, EncodeConfig, Encoder, Group, Needs, Role, Roles, Spans, Tokenizer, load};
use asft::eval::pairs::{
    AnswerScore, Metric, PairScore, Produced, against_reference, divergences, metrics, produced_metrics,
};
use asft::eval::{Scorer, largest};
use asft::generate::{Answer, Decoder, Demand, End, GenerationLayout, Request, Settings, Unwatched};
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

/// Evaluates as the merged settings say.
pub fn run(arguments: &Layers<EvalPairsArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve().or_usage()?;
    let evaluation = Evaluation::open(config).or_usage()?;
    let config = &evaluation.config;
    let backend = choose(config.device, config.threads, config.formats.dtype)?;
    let columns = on_device!(backend, backend => evaluation.columns(backend))?;
    if let Some(path) = &evaluation.config.answers {
        evaluation.write_answers(path, &columns)?;
    }
    output::print(&if evaluation.config.json { json_lines(&columns) } else { table(&columns) })?;
    Ok(ExitStatus::Success)
}

/// Everything that was opened and checked before the first model is loaded.
struct Evaluation {
    config: EvalPairsConfig,
    models: Vec<Subject>,
    reference: Option<Subject>,
}

/// A model and the data in its own tokens.
struct Subject {
    folder: ModelFolder,
    encoder: Encoder,
    data: Dataset,
}

/// What was found of one model.
struct Column {
    name: String,
    pairs: usize,
    metrics: Vec<Metric>,
    answers: Vec<(usize, Produced)>,
}

/// A model's own answer to a prompt, as ids and as a group that can be scored.
struct Own {
    answers: Vec<Answer>,
    groups: Vec<Group>,
}

impl Subject {
    fn open(path: &Path, config: &EvalPairsConfig) -> Result<Self, TrainError> {
        let folder = ModelFolder::open(&hub::locate(path)?.folder)?;
        let model = folder.config();
        let settings = EncodeConfig {
            vocab_size: model.vocab_size,
            max_length: config.max_length,
            eos_ids: model.eos_token_ids.clone(),
            // Pairs are what is evaluated: a row without a rejected answer is named.
            needs: Needs::pairs(),
            template: config.template.clone(),
            ..EncodeConfig::default()
        };
        let encoder = Encoder::from_folder(folder.dir(), settings)?;
        let data = load(std::slice::from_ref(&config.data), &encoder)?;
        data.report.warn("pairs");
        let dropped = data.report.dropped_summary();
        if !dropped.is_empty() {
            tracing::warn!("pairs that cannot be used: {dropped}");
        }
        let (.., longest) = largest(&data.groups, SPANS);
        let positions = model.max_position_embeddings;
        if longest > positions {
            return Err(TrainError::TooLong { longest, positions });
        }
        Ok(Self { folder, encoder, data })
    }

    /// Plans, loads and scores groups.
    fn scores<B: Backend>(
        &self,
        config: &EvalPairsConfig,
        backend: &mut B,
        what: &str,
        groups: &[Group],
    ) -> anyhow::Result<Vec<PairScore>> {
        let mut scores = vec![PairScore::default(); groups.len()];
        if groups.is_empty() {
            return Ok(scores);
        }
        let (tokens, rows, positions) = largest(groups, SPANS);
        let all: usize = groups.iter().map(|group| SPANS.tokens(group)).sum();
        let tokens = config.max_tokens_per_batch.unwrap_or(DEFAULT_TOKENS).min(all).max(tokens);
        let target = Target::of(backend);
        target.check(self.folder.config()).or_usage()?;
        let precision = target.precision(config.formats).or_usage()?;
        let (rows, head_rows) = (tokens.max(rows), HEAD_ROWS.min(tokens));
        let rungs = target.rungs(tokens, head_rows);
        let budget = Budget { tokens, rows, head_rows, positions, rungs, mixed: false };
        let layout = InferenceLayout::new(self.folder.config(), budget, precision, target.workspace());
        let (needed, free) = (layout.plan.total_bytes() as u64, target.memory);
        if let Some(available) = free.filter(|&free| free < needed) {
            let path = self.folder.dir().to_owned();
            return Err(TrainError::ScoringMemory { path, needed, available, tokens }).or_usage();
        }
        layout.allocate(backend)?;
        layout.model.load(backend, &self.folder)?;
        let (model, activations) = (&layout.model, &layout.activations);
        let mut scorer = Scorer { backend, model, activations, progress: &mut Bars::default() };
        scorer.each(what, groups, SPANS, |members, log_probs| {
            for group in members {
                let tokens = |span: Option<data::Span>| AnswerScore {
                    tokens: span.map(|span| log_probs[span.range()].to_vec()).unwrap_or_default(),
                };
                let (chosen, rejected) = (tokens(group.chosen()), tokens(group.rejected()));
                scores[group.group as usize] = PairScore { chosen, rejected };
            }
        })?;
        Ok(scores)
    }

    /// The model's own answers to the first prompts.
    fn answers<B: Backend>(&self, config: &EvalPairsConfig, backend: &mut B) -> anyhow::Result<Own> {
        let groups = &self.data.groups[..config.generate.min(self.data.groups.len())];
        let prompts: Vec<Vec<u32>> = groups.iter().map(|group| group.context(Role::Chosen)).collect();
        let demand = Demand {
            prompts: prompts.len(),
            longest_prompt: prompts.iter().map(Vec::len).max().unwrap_or(0),
            prompt_tokens: prompts.iter().map(Vec::len).sum(),
            samples: 1,
            max_new_tokens: config.max_new_tokens,
            sequences: None,
        };
        let target = Target::of(backend);
        let layout =
            GenerationLayout::fit(self.folder.config(), target, config.formats, demand).or_usage()?;
        layout.allocate(backend)?;
        layout.model.load(backend, &self.folder)?;
        let mut stop = self.folder.end_tokens();
        stop.extend(self.encoder.tokenizer().and_then(Tokenizer::eos_id));
        let (sampling, max_new_tokens) = (config.sampling, config.max_new_tokens);
        let settings = Settings { sampling, samples: 1, max_new_tokens, stop };
        let requests: Vec<Request> = prompts
            .iter()
            .zip(groups)
            .map(|(prompt, group)| Request { prompt, key: group.row as u64 })
            .collect();
        let mut decoder = Decoder::new(backend, &layout.model, &layout.activations, &layout.cache);
        let answers = decoder.generate(&requests, &settings, &mut Unwatched)?;
        let answers: Vec<Answer> = answers.into_iter().flatten().collect();
        let scored = |(prompt, answer): (Vec<u32>, &Answer)| {
            let ids = answer.ids.clone();
            let answer = data::Answer { role: Role::Chosen, ids, scored: None, text: None };
            Group { row: 0, prompt, answers: vec![answer], annotations: None }
        };
        let groups = prompts.into_iter().zip(&answers).filter(|(_, answer)| !answer.ids.is_empty());
        let groups = groups.map(scored).collect();
        Ok(Own { answers, groups })
    }

    /// The answers beside the chosen ones, as text; ids where there is no tokenizer.
    fn produced(&self, answers: &[Answer]) -> anyhow::Result<Vec<(usize, Produced)>> {
        let text = |ids: &[u32]| match self.encoder.tokenizer() {
            Some(tokenizer) => tokenizer.decode(ids, true).map_err(anyhow::Error::msg),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        };
        let compare = |(answer, group): (&Answer, &Group)| {
            let chosen = group.answer(Role::Chosen);
            let expected = chosen.map_or(&[][..], |chosen| &chosen.ids[chosen.first_turn()]);
            let (tokens, ended) = (answer.ids.len(), answer.end == End::Stop);
            let produced = Produced { text: text(&answer.ids)?, expected: text(expected)?, tokens, ended };
            Ok((group.row, produced))
        };
        answers.iter().zip(&self.data.groups).map(compare).collect()
    }
}

impl Evaluation {
    fn open(config: EvalPairsConfig) -> anyhow::Result<Self> {
        let models =
            config.models.iter().map(|path| Subject::open(path, &config)).collect::<Result<Vec<_>, _>>()?;
        let reference = config.reference.as_deref().map(|path| Subject::open(path, &config)).transpose()?;
        if let (Some(reference), Some(path)) = (&reference, &config.reference) {
            for model in &models {
                let vocabulary = |subject: &Subject| subject.folder.config().vocab_size;
                let same = model.data.fingerprint == reference.data.fingerprint
                    && vocabulary(model) == vocabulary(reference);
                ensure!(
                    same,
                    "the reference model in {} reads the data as other tokens than the model in {}; a reference must \
                     share the model's tokenizer and chat template",
                    path.display(),
                    model.folder.dir().display()
                );
            }
        }
        Ok(Self { config, models, reference })
    }

    fn columns<B: Backend>(&self, mut backend: B) -> anyhow::Result<Vec<Column>> {
        let (config, seed) = (&self.config, self.config.sampling.seed);
        let reference = match &self.reference {
            Some(subject) => Some(subject.scores(config, &mut backend, "reference", &subject.data.groups)?),
            None => None,
        };
        let mut columns = Vec::new();
        for (subject, path) in self.models.iter().zip(&config.models) {
            let name = path.display().to_string();
            let scores = subject.scores(config, &mut backend, &name, &subject.data.groups)?;
            let mut found = metrics(&scores, seed);
            if let Some(reference) = &reference {
                found.extend(against_reference(&scores, reference, seed));
            }
            let mut answers = Vec::new();
            if config.generate > 0 {
                let own = subject.answers(config, &mut backend)?;
                answers = subject.produced(&own.answers)?;
                let texts: Vec<Produced> = answers.iter().map(|(_, produced)| produced.clone()).collect();
                found.extend(produced_metrics(&texts, seed));
                found.extend(self.divergence(subject, &own, &mut backend)?);
            }
            columns.push(Column { name, pairs: scores.len(), metrics: found, answers });
        }
        Ok(columns)
    }

    /// The divergence from the reference on a model's own answers.
    fn divergence<B: Backend>(
        &self,
        subject: &Subject,
        own: &Own,
        backend: &mut B,
    ) -> anyhow::Result<Vec<Metric>> {
        let Some(reference) = self.reference.as_ref().filter(|_| !own.groups.is_empty()) else {
            return Ok(Vec::new());
        };
        let ours = subject.scores(&self.config, backend, "own answers", &own.groups)?;
        let theirs = reference.scores(&self.config, backend, "own answers, reference", &own.groups)?;
        let both: Vec<(&AnswerScore, &AnswerScore)> =
            ours.iter().zip(&theirs).map(|(ours, theirs)| (&ours.chosen, &theirs.chosen)).collect();
        // Only what the model drew from itself estimates a divergence.
        let names = match self.config.sampling.temperature {
            1.0 => ["kl/k1", "kl/k3"],
            _ => ["log_ratio/own_k1", "log_ratio/own_k3"],
        };
        Ok(divergences(names, &both, self.config.sampling.seed).into())
    }

    fn write_answers(&self, path: &Path, columns: &[Column]) -> anyhow::Result<()> {
        let mut lines = columns.iter().flat_map(|column| {
            column.answers.iter().map(|(row, produced)| {
                let Produced { text, expected, tokens, ended } = produced;
                json!({ "model": column.name, "row": row, "text": text, "chosen": expected,
                        "tokens": tokens, "ended": ended })
            })
        });
        atomic::save_file(path, |writer| {
            lines.try_for_each(|line| writeln!(writer, "{line}")).map_err(|source| CheckpointError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            })
        })?;
        Ok(())
    }
}

fn json_lines(columns: &[Column]) -> String {
    let line = |column: &Column| {
        let metrics: Map<String, Value> = column
            .metrics
            .iter()
            .map(|metric| {
                let estimate = metric.estimate;
                let value = json!({ "value": estimate.value, "low": estimate.low, "high": estimate.high });
                (metric.name.to_owned(), value)
            })
            .collect();
        let line = json!({ "model": column.name, "pairs": column.pairs, "answers": column.answers.len(),
                           "metrics": metrics });
        format!("{line}\n")
    };
    columns.iter().map(line).collect()
}

/// Metrics down, models across; the interval in brackets holds 95% of the resamples.
fn table(columns: &[Column]) -> String {
    let cell = |metric: &Metric| {
        let e = metric.estimate;
        if e.low == e.high {
            format!("{:.4}", e.value)
        } else {
            format!("{:.4} [{:.4}, {:.4}]", e.value, e.low, e.high)
        }
    };
    let Some(first) = columns.first() else { return String::new() };
    let cells: Vec<Vec<String>> = columns
        .iter()
        .map(|column| {
            let values = column.metrics.iter().map(cell);
            std::iter::once(column.name.clone()).chain(values).collect()
        })
        .collect();
    let widths: Vec<usize> =
        cells.iter().map(|cells| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = format!("{} pairs, 95% intervals of 1000 resamples\n\n", first.pairs);
    let names = std::iter::once("").chain(first.metrics.iter().map(|metric| metric.name));
    for (row, name) in names.enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name:24}");
        for (cells, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "  {:>width$}", cells[row]);
        }
        text.push('\n');
    }
    text
}
