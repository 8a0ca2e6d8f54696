//! Single steps: log-probs, losses, and every gradient of every objective.

use std::path::Path;

use asft::backend::Backend;
use asft::data::{Group, Role};
use asft::eval::{Scorer, Silent};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::*;
use super::{GRADIENT, GRADIENT_MEMORISED, LOG_PROB};

pub fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("manifest.json")).unwrap()).unwrap()
}

pub fn path_of(manifest: &Value, kind: &str, name: &str) -> std::path::PathBuf {
    golden().join(manifest[kind][name]["path"].as_str().unwrap())
}

/// The largest distance of a log-prob from `[2B, T-1]` rows of stored ones: chosen sequences first, prompt tokens included.
pub fn log_prob_distance<B: Backend>(
    engine: &Engine<B>,
    checkpoint: &Path,
    groups: &[Group],
    stored: &[f64],
) -> f64 {
    let mut trainer = engine.trainer(checkpoint, budget(groups), objective("orpo_trl"));
    let width = stored.len() / (2 * groups.len());
    let mut scorer = Scorer {
        backend: &mut trainer.backend,
        model: &trainer.model,
        activations: &trainer.activations,
        progress: &mut Silent,
    };
    let mut seen = 0;
    let mut worst = 0.0f64;
    let spans = asft::data::Spans { prompt: true, answers: asft::data::Roles::PAIR };
    scorer
        .each("", groups, spans, |members, log_probs| {
            for member in members {
                let index = member.group as usize;
                let prompt = groups[index].prompt.len();
                for (row, first, span) in [
                    (index, 0, member.prompt),
                    (index, prompt - 1, member.chosen()),
                    (groups.len() + index, prompt - 1, member.rejected()),
                ] {
                    let Some(span) = span else { continue };
                    let theirs = &stored[row * width + first..][..span.len as usize];
                    worst = worst.max(furthest(&log_probs[span.range()], theirs));
                    seen += theirs.len();
                }
            }
        })
        .unwrap();
    let tokens = |group: &Group| {
        group.prompt.len() - 1
            + [Role::Chosen, Role::Rejected]
                .map(|role| group.answer(role).unwrap().ids.len())
                .iter()
                .sum::<usize>()
    };
    assert_eq!(seen, groups.iter().map(tokens).sum::<usize>());
    worst
}

/// What is asked of f32.
pub fn check_log_probs(checkpoint: &Path, groups: &[Group], stored: &[f64], what: &str) {
    let worst = log_prob_distance(&CPU, checkpoint, groups, stored);
    println!("{what}: log-probs within {worst:.1e}");
    assert!(worst < LOG_PROB, "{what}: log-probs are off by {worst:e}");
}

/// How far one micro-batch is from the stored one.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Of the loss, absolute.
    pub loss: f64,
    /// Of the worst gradient tensor, relative L2.
    pub gradient: f64,
    /// The smallest cosine of a gradient tensor with the stored one.
    pub cosine: f64,
}

/// The distance of loss and gradients from the stored ones of one objective. `gradient` gives a parameter's stored tensor.
pub fn gradient_distance<B: Backend>(
    engine: &Engine<B>,
    checkpoint: &Path,
    groups: &[Group],
    name: &str,
    loss: f64,
    gradient: impl Fn(&str) -> Vec<f64>,
) -> Distance {
    let mut trainer = engine.trainer(checkpoint, budget(groups), objective(name));
    let computed = compute(&mut trainer, groups);
    let mut distance = Distance { loss: (computed.loss - loss).abs(), gradient: 0.0, cosine: 1.0 };
    for (parameter, ours) in &computed.gradients {
        let theirs = gradient(parameter);
        distance.gradient = distance.gradient.max(relative(ours, &theirs));
        distance.cosine = distance.cosine.min(cosine(ours, &theirs));
    }
    distance
}

/// What is asked of f32.
pub fn check_gradients(
    checkpoint: &Path,
    groups: &[Group],
    name: &str,
    loss: f64,
    gradient: impl Fn(&str) -> Vec<f64>,
    tolerance: f64,
) {
    let what = format!("{} {name}", checkpoint.file_name().unwrap().display());
    let distance = gradient_distance(&CPU, checkpoint, groups, name, loss, gradient);
    assert!(distance.loss < 1e-5, "{what}: {distance:?}");
    assert!(distance.gradient < tolerance, "{what}: a gradient is off by {:e}", distance.gradient);
    println!("{what}: gradients within {:.1e}", distance.gradient);
}

#[test]
fn log_probs_of_every_case() {
    let manifest = manifest();
    for case in manifest["cases"].as_array().unwrap() {
        let checkpoint = path_of(&manifest, "checkpoints", case["checkpoint"].as_str().unwrap());
        let groups = groups(&path_of(&manifest, "batches", case["batch"].as_str().unwrap()));
        let file = case["file"].as_str().unwrap();
        let bytes = std::fs::read(golden().join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        check_log_probs(&checkpoint, &groups, &stored(&tensors, "token_logps_all"), file);
    }
}

#[test]
fn losses_and_gradients_of_every_objective() {
    let manifest = manifest();
    let mut objectives = std::collections::BTreeSet::new();
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["checkpoint"].as_str().unwrap();
        let checkpoint = path_of(&manifest, "checkpoints", name);
        let mut groups = groups(&path_of(&manifest, "batches", case["batch"].as_str().unwrap()));
        if let Some(reference) = case["reference"].as_str() {
            groups = with_reference(&CPU, groups, &path_of(&manifest, "checkpoints", reference));
        }
        let bytes = std::fs::read(golden().join(case["file"].as_str().unwrap())).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tolerance = if name == "memorised" { GRADIENT_MEMORISED } else { GRADIENT };
        for objective in case["gradients_stored"].as_array().unwrap() {
            let objective = objective.as_str().unwrap();
            objectives.insert(objective.to_owned());
            let loss = case["losses"][objective].as_f64().unwrap();
            let gradient = |parameter: &str| stored(&tensors, &format!("grad.{objective}.{parameter}"));
            check_gradients(&checkpoint, &groups, objective, loss, gradient, tolerance);
        }
    }
    assert_eq!(objectives.len(), 10, "every objective of the goldens has gradients somewhere");
}
