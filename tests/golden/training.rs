//! Twenty optimizer steps: loss, gradient norm and learning rate of each, and the weights at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use asft::backend::Backend;
use asft::data::{Dataset, Group, LoadReport, Loader, LoaderConfig};
use asft::optim::{Schedule, ScheduleKind};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::*;
use super::step::{manifest, path_of};
use super::{CURVE, WEIGHTS_ABSOLUTE, WEIGHTS_RELATIVE};

/// A stored run: (loss, gradient norm, learning rate) of each step.
pub type Curve = Vec<(f64, f64, f64)>;

/// How far a run is from the stored one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunDistance {
    /// Of the worst loss, absolute.
    pub worst: f64,
    /// Of the losses on average, absolute.
    pub mean: f64,
    /// Of the worst gradient norm, relative.
    pub norm: f64,
    /// Final weights that were compared.
    pub compared: usize,
    /// Of the worst of them, relative L2.
    pub relative: f64,
    /// Of the worst element, absolute.
    pub furthest: f64,
}

/// Runs an objective as the goldens did; `weights` gives a final weight where it is stored.
pub fn run_distance<B: Backend>(
    engine: &Engine<B>,
    checkpoint: &Path,
    groups: Vec<Group>,
    name: &str,
    curve: &Curve,
    weights: impl Fn(&str) -> Option<Vec<f64>>,
) -> RunDistance {
    let what = format!("{} {name}", checkpoint.file_name().unwrap().display());
    let mut trainer = engine.trainer(checkpoint, budget(&groups), objective(name));
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
        scored: None,
        mixing: None,
    };
    let dataset = Arc::new(Dataset::new(groups, LoadReport::default()));
    let mut distance = RunDistance::default();
    for (step, &(loss, norm, rate)) in Loader::new(dataset, config, 1, curve.len()).unwrap().zip(curve) {
        let learning_rate = schedule.learning_rate(step.index);
        assert!((learning_rate - rate).abs() < 1e-15, "{what}: learning rate of step {}", step.index);
        let pending = trainer.step(&step, learning_rate).unwrap();
        let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
        assert!(!outcome.bad, "{what}: step {}", step.index);
        let off = (outcome.loss - loss).abs();
        distance.worst = distance.worst.max(off);
        distance.mean += off / curve.len() as f64;
        distance.norm = distance.norm.max((outcome.gradient_norm / norm - 1.0).abs());
    }
    for (parameter, ours) in super::harness::weights(&mut trainer) {
        let Some(theirs) = weights(&parameter) else { continue };
        distance.compared += 1;
        distance.relative = distance.relative.max(relative(&ours, &theirs));
        distance.furthest = distance.furthest.max(furthest(&ours, &theirs));
    }
    distance
}

/// What is asked of f32.
pub fn check_run(
    checkpoint: &Path,
    groups: Vec<Group>,
    name: &str,
    curve: &Curve,
    weights: impl Fn(&str) -> Option<Vec<f64>>,
) -> usize {
    let what = format!("{} {name}", checkpoint.file_name().unwrap().display());
    let distance = run_distance(&CPU, checkpoint, groups, name, curve, weights);
    println!("{what}: {distance:?}");
    assert!(distance.worst < CURVE && distance.norm < 1e-4, "{what}: {distance:?}");
    assert!(
        distance.relative < WEIGHTS_RELATIVE && distance.furthest < WEIGHTS_ABSOLUTE,
        "{what}: {distance:?}"
    );
    distance.compared
}

/// One run of the manifest: checkpoint, groups with their reference as the engine scores it, objective, curve.
pub fn stored_run<B: Backend>(engine: &Engine<B>, run: &Value) -> (PathBuf, Vec<Group>, String, Curve) {
    let manifest = manifest();
    let path = |kind: &str, name: &Value| path_of(&manifest, kind, name.as_str().unwrap());
    let mut groups = groups(&path("batches", &run["batch"]));
    if run["reference"].is_string() {
        groups = with_reference(engine, groups, &path("checkpoints", &run["reference"]));
    }
    let number = |step: &Value, key: &str| step[key].as_f64().unwrap();
    let steps = run["steps"].as_array().unwrap().iter();
    let curve =
        steps.map(|s| (number(s, "loss"), number(s, "grad_norm"), number(s, "learning_rate"))).collect();
    let objective = run["objective"].as_str().unwrap().to_owned();
    (path("checkpoints", &run["checkpoint"]), groups, objective, curve)
}

#[test]
fn twenty_steps_of_every_run() {
    let manifest = manifest();
    let runs = manifest["runs"].as_array().unwrap();
    assert!(runs.len() >= 4);
    let mut compared = 0;
    for run in runs {
        let (checkpoint, groups, name, curve) = stored_run(&CPU, run);
        let bytes = run["final_weights"].as_str().map(|file| std::fs::read(golden().join(file)).unwrap());
        let tensors = bytes.as_deref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let weights = |parameter: &str| {
            tensors.as_ref().map(|file| stored(file, &format!("train_final.{name}.{parameter}")))
        };
        compared += check_run(&checkpoint, groups, &name, &curve, weights);
    }
    assert!(compared > 60, "only {compared} final weights were compared");
}
