//! The whole model, the objectives and the optimizer against `tests/golden`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::reference::adamw::{AdamW, Moments};
use crate::reference::golden::{self, Row};
use crate::reference::llama::{self, Config, Tensors};
use crate::reference::objective::{self, Pair, Scored};
use crate::reference::schedule::{self, Schedule};
use crate::reference::{clip, max_abs_difference, relative_l2};

/// Both are f64 and differ in the order of summation only.
const LOG_PROB: f64 = 1e-12;
const LOSS: f64 = 1e-12;
/// The golden gradients and weights are rounded to f32: 6e-8 relative for each element.
const ROUNDED_TO_F32: f64 = 6e-8;

fn score(config: &Config, parameters: &Tensors, prompt: usize, ids: &[u32]) -> Scored {
    Scored { prompt, logps: llama::forward(config, parameters, ids).log_probs() }
}

fn pairs(
    config: &Config,
    parameters: &Tensors,
    rows: &[Row],
    reference: Option<&(Config, Tensors)>,
) -> Vec<Pair> {
    let answer = |s: &Scored| s.logps[s.prompt - 1..].iter().sum::<f64>();
    rows.iter()
        .map(|row| Pair {
            chosen: score(config, parameters, row.prompt, &row.chosen),
            rejected: score(config, parameters, row.prompt, &row.rejected),
            reference: reference.map(|(config, parameters)| {
                let sum = |ids| answer(&score(config, parameters, row.prompt, ids));
                (sum(&row.chosen), sum(&row.rejected))
            }),
        })
        .collect()
}

/// The gradient of a batch: the sum over its sequences, each run alone.
fn gradient(config: &Config, parameters: &Tensors, rows: &[Row], outcome: &objective::Outcome) -> Tensors {
    let mut total: Tensors = parameters.iter().map(|(name, p)| (name.clone(), vec![0.0; p.len()])).collect();
    let chosen = rows.iter().zip(&outcome.chosen).map(|(row, c)| (&row.chosen, c));
    let rejected = rows.iter().zip(&outcome.rejected).map(|(row, c)| (&row.rejected, c));
    for (ids, coefficients) in chosen.chain(rejected) {
        for (name, part) in llama::forward(config, parameters, ids).backward(coefficients) {
            let sum = total.get_mut(&name).expect("a parameter");
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    total
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn reference_of(entry: &Value) -> Option<(Config, Tensors)> {
    entry["reference"].as_str().map(golden::checkpoint)
}

fn check_log_probs(label: &str, pairs: &[Pair], expected: &[f64]) {
    let sequences: Vec<&Scored> =
        pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect();
    let width = expected.len() / sequences.len();
    for (i, sequence) in sequences.iter().enumerate() {
        let (real, padding) = expected[i * width..(i + 1) * width].split_at(sequence.logps.len());
        let difference = max_abs_difference(&sequence.logps, real);
        assert!(difference <= LOG_PROB, "{label}: sequence {i}: log-probs differ by {difference:e}");
        assert!(padding.iter().all(|p| *p == 0.0), "{label}: sequence {i} is longer in the golden file");
    }
}

#[test]
fn log_probs_losses_and_gradients_equal_transformers() {
    let manifest = golden::manifest();
    let hyper = golden::hyper(&manifest);
    let (mut losses, mut gradients) = (0, 0);
    for case in manifest["cases"].as_array().expect("cases") {
        let label = text(case, "file");
        let (config, parameters) = golden::checkpoint(text(case, "checkpoint"));
        let rows = golden::batch(text(case, "batch"));
        let expected = golden::tensors(&golden::folder().join(label));
        let pairs = pairs(&config, &parameters, &rows, reference_of(case).as_ref());
        check_log_probs(label, &pairs, &expected["token_logps_all"]);
        for (objective, loss) in case["losses"].as_object().expect("losses") {
            let outcome = objective::evaluate(objective, &pairs, &hyper);
            let difference = (outcome.loss - loss.as_f64().expect("a loss")).abs();
            assert!(difference <= LOSS, "{label}: loss of {objective} differs by {difference:e}");
            losses += 1;
            let prefix = format!("grad.{objective}.");
            if !expected.keys().any(|name| name.starts_with(&prefix)) {
                continue;
            }
            let got = gradient(&config, &parameters, &rows, &outcome);
            for (name, gradient) in &got {
                let difference = relative_l2(gradient, &expected[&format!("{prefix}{name}")]);
                assert!(difference <= ROUNDED_TO_F32, "{label}: {prefix}{name} differs by {difference:e}");
            }
            gradients += 1;
        }
    }
    assert_eq!(
        (losses, gradients),
        (105, 15),
        "the manifest holds other cases than this test was written for"
    );
}

struct Trainer {
    config: Config,
    parameters: Tensors,
    moments: BTreeMap<String, Moments>,
    hyper: Value,
}

impl Trainer {
    fn new(checkpoint: &str, hyper: &Value) -> Self {
        let (config, parameters) = golden::checkpoint(checkpoint);
        let moments = parameters.iter().map(|(n, p)| (n.clone(), Moments::zeros(p.len()))).collect();
        Self { config, parameters, moments, hyper: hyper.clone() }
    }

    fn number(&self, key: &str) -> f64 {
        self.hyper[key].as_f64().unwrap_or_else(|| panic!("hyper: {key}"))
    }

    fn learning_rate(&self, step: u32) -> f64 {
        assert_eq!(self.hyper["lr_scheduler_type"], "cosine");
        let (warmup, total) = (self.number("warmup_steps") as u32, self.number("max_steps") as u32);
        self.number("learning_rate") * schedule::factor(Schedule::Cosine, step - 1, warmup, total)
    }

    /// Clips, updates, and gives the norm before clipping.
    fn update(&mut self, step: u32, gradients: Tensors) -> f64 {
        let norm = clip::global_norm(gradients.values().map(Vec::as_slice));
        let factor = clip::factor(norm, self.number("max_grad_norm"));
        for (name, gradient) in gradients {
            let clipped: Vec<f64> = gradient.iter().map(|g| g * factor).collect();
            // Of Llama's parameters only the norms have one dimension.
            let one_dimensional = name.contains("norm");
            let adamw = AdamW {
                beta1: self.number("adam_beta1"),
                beta2: self.number("adam_beta2"),
                epsilon: self.number("adam_epsilon"),
                weight_decay: if one_dimensional { 0.0 } else { self.number("weight_decay") },
            };
            let rate = self.learning_rate(step);
            let parameter = self.parameters.get_mut(&name).expect("a parameter");
            let moments = self.moments.get_mut(&name).expect("a parameter");
            adamw.update(step as i32, rate, parameter, &clipped, moments);
        }
        norm
    }
}

/// Twenty steps of AdamW, clipped, with the cosine schedule: torch's optimizer and Hugging Face's schedule,
/// in f64.
#[test]
fn training_runs_equal_torch_mqa_tied() {
    assert_eq!(check_runs("mqa-linear-tied"), (4, 4));
}

#[test]
fn training_runs_equal_torch_gqa_untied() {
    assert_eq!(check_runs("gqa-llama3"), (4, 1));
}

/// (runs, runs with final weights) of one checkpoint.
fn check_runs(checkpoint: &str) -> (usize, usize) {
    let manifest = golden::manifest();
    let hyper = golden::hyper(&manifest);
    let (mut runs, mut finals) = (0, 0);
    for run in manifest["runs"].as_array().expect("runs") {
        if text(run, "checkpoint") != checkpoint {
            continue;
        }
        let trainer = check_run(run, &manifest["hyper"], &hyper);
        runs += 1;
        let Some(file) = run["final_weights"].as_str() else { continue };
        let expected = golden::tensors(&golden::folder().join(file));
        for (name, parameter) in &trainer.parameters {
            let key = format!("train_final.{}.{name}", text(run, "objective"));
            let difference = relative_l2(parameter, &expected[&key]);
            assert!(difference <= ROUNDED_TO_F32, "{checkpoint}: {key} differs by {difference:e}");
        }
        finals += 1;
    }
    (runs, finals)
}

/// Runs all steps and compares what each reports.
fn check_run(run: &Value, optimizer: &Value, hyper: &objective::Hyper) -> Trainer {
    let objective = text(run, "objective");
    let mut trainer = Trainer::new(text(run, "checkpoint"), optimizer);
    let reference = reference_of(run);
    let rows = golden::batch(text(run, "batch"));
    let batch = trainer.number("pairs_per_step") as usize;
    for (i, expected) in run["steps"].as_array().expect("steps").iter().enumerate() {
        let step = i as u32 + 1;
        let first = i * batch % rows.len();
        let rows = &rows[first..first + batch];
        let pairs = pairs(&trainer.config, &trainer.parameters, rows, reference.as_ref());
        let outcome = objective::evaluate(objective, &pairs, hyper);
        let gradients = gradient(&trainer.config, &trainer.parameters, rows, &outcome);
        let rate = trainer.learning_rate(step);
        let norm = trainer.update(step, gradients);
        for (key, got) in [("loss", outcome.loss), ("learning_rate", rate), ("grad_norm", norm)] {
            let difference = (got - expected[key].as_f64().expect("a number")).abs();
            assert!(difference <= 1e-10, "{objective}: step {step}: {key} differs by {difference:e}");
        }
    }
    trainer
}

#[test]
fn greedy_generation_equals_transformers() {
    let manifest = golden::manifest();
    let generations = manifest["generations"].as_array().expect("generations");
    assert_eq!(generations.len(), 10);
    for generation in generations {
        let (config, parameters) = golden::checkpoint(text(generation, "checkpoint"));
        let mut ids = golden::ids(&generation["prompt"]);
        for (i, expected) in golden::ids(&generation["continuation"]).into_iter().enumerate() {
            let next = llama::forward(&config, &parameters, &ids).greedy();
            assert_eq!(next, expected, "{}: token {i}", text(generation, "checkpoint"));
            ids.push(next);
        }
    }
}
