//! Twenty optimizer steps: loss, gradient norm and learning rate of each, and the weights at the end.

use std::path::Path;
use std::sync::Arc;

use asft::data::{Dataset, Group, LoadReport, Loader, LoaderConfig};
use asft::optim::{Schedule, ScheduleKind};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::*;
use super::{CURVE, WEIGHTS_ABSOLUTE, WEIGHTS_RELATIVE};

/// Runs an objective as the goldens did and compares every step. `curve` holds (loss, gradient norm, learning rate);
/// `weights` gives a final weight where it is stored.
pub fn check_run(
    checkpoint: &Path,
    groups: Vec<Group>,
    name: &str,
    curve: &[(f64, f64, f64)],
    weights: impl Fn(&str) -> Option<Vec<f64>>,
) -> usize {
    let what = format!("{} {name}", checkpoint.file_name().unwrap().display());
    let mut trainer = trainer(checkpoint, budget(&groups), objective(name));
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        learning_rate: 1e-3,
        warmup_steps: 4,
        total_steps: curve.len(),
    };
    let config = LoaderConfig {
        seed: 0,
        shuffle: false,
        batch_size: 4,
        token_budget: 0,
        row_budget: 0,
        parts: None,
        spans: trainer.objective.spans(),
    };
    let dataset = Arc::new(Dataset::new(groups, LoadReport::default()));
    let mut worst = 0.0f64;
    for (step, &(loss, norm, rate)) in Loader::new(dataset, config, 1, curve.len()).unwrap().zip(curve) {
        let learning_rate = schedule.learning_rate(step.index);
        assert!((learning_rate - rate).abs() < 1e-15, "{what}: learning rate of step {}", step.index);
        let pending = trainer.step(&step, learning_rate);
        let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
        worst = worst.max((outcome.loss - loss).abs());
        assert!(worst < CURVE, "{what}: loss {} instead of {loss} at step {}", outcome.loss, step.index);
        assert!(
            (outcome.gradient_norm - norm).abs() < 1e-4 * norm,
            "{what}: norm {} not {norm}",
            outcome.gradient_norm
        );
        assert!(!outcome.bad);
    }
    let arena = trainer.model.weights();
    let (mut relative_worst, mut furthest_worst, mut compared) = (0.0f64, 0.0f64, 0);
    for (parameter, ours) in parameters(&mut trainer, arena) {
        let Some(theirs) = weights(&parameter) else { continue };
        compared += 1;
        relative_worst = relative_worst.max(relative(&ours, &theirs));
        furthest_worst = furthest_worst.max(furthest(&ours, &theirs));
        assert!(
            relative_worst < WEIGHTS_RELATIVE,
            "{what}: final {parameter} is off by {relative_worst:e} relative"
        );
        assert!(furthest_worst < WEIGHTS_ABSOLUTE, "{what}: final {parameter} is off by {furthest_worst:e}");
    }
    println!(
        "{what}: curve within {worst:.1e}; {compared} weights within {relative_worst:.1e} relative, {furthest_worst:.1e} absolute"
    );
    compared
}

#[test]
fn twenty_steps_of_every_run() {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(golden().join("manifest.json")).unwrap()).unwrap();
    let folder = |kind: &str, name: &Value| {
        golden().join(manifest[kind][name.as_str().unwrap()]["path"].as_str().unwrap())
    };
    let runs = manifest["runs"].as_array().unwrap();
    assert!(runs.len() >= 4);
    let mut compared = 0;
    for run in runs {
        let mut groups = groups(&folder("batches", &run["batch"]));
        if run["reference"].is_string() {
            groups = with_reference(groups, &folder("checkpoints", &run["reference"]));
        }
        let name = run["objective"].as_str().unwrap();
        let number = |step: &Value, key: &str| step[key].as_f64().unwrap();
        let curve: Vec<_> = run["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| (number(step, "loss"), number(step, "grad_norm"), number(step, "learning_rate")))
            .collect();
        let bytes = run["final_weights"].as_str().map(|file| std::fs::read(golden().join(file)).unwrap());
        let tensors = bytes.as_deref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let weights = |parameter: &str| {
            tensors.as_ref().map(|file| stored(file, &format!("train_final.{name}.{parameter}")))
        };
        compared += check_run(&folder("checkpoints", &run["checkpoint"]), groups, name, &curve, weights);
    }
    assert!(compared > 60, "only {compared} final weights were compared");
}
