//! Half Fine-Tuning against `torch.optim.AdamW` with parameters that have no gradient in some rounds, from `make_hft.py`.

use std::sync::Arc;

use asft::data::{Dataset, LoadReport, Loader, LoaderConfig};
use asft::train::half::{HalfFineTuning, frozen_half};

use super::CURVE;
use super::harness::*;

/// How far a parameter has moved in all, relative: PyTorch's f32 is 1.1e-5 off.
const MOVED: f64 = 3e-5;

#[test]
fn twenty_steps_with_another_half_frozen_every_third() {
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden().join("hft.json")).unwrap()).unwrap();
    let text = |key: &str| golden[key].as_str().unwrap();
    let seed = golden["seed"].as_u64().unwrap();
    let per_round = golden["steps_per_round"].as_u64().unwrap() as usize;
    let checkpoint = super::harness::golden().join("checkpoints").join(text("checkpoint"));
    let groups = groups(&super::harness::golden().join("batches").join(format!("{}.jsonl", text("batch"))));
    let mut trainer = CPU.trainer(&checkpoint, budget(&groups), objective(text("objective")));
    let layers = trainer.model.config.num_hidden_layers;
    for (round, expected) in golden["frozen"].as_array().unwrap().iter().enumerate() {
        let drawn: Vec<serde_json::Value> =
            frozen_half(layers, seed, round as u64).iter().map(Into::into).collect();
        assert_eq!(&drawn, expected.as_array().unwrap(), "round {round}");
    }
    trainer.half = Some(HalfFineTuning::new(seed, per_round, &trainer.model.table));
    let before = weights(&mut trainer);
    let config = LoaderConfig {
        seed: 0,
        shuffle: false,
        batch_size: 4,
        token_budget: 0,
        row_budget: 0,
        parts: Some(2),
        spans: trainer.objective.spans(),
        scored: None,
        mixing: None,
    };
    let steps = golden["steps"].as_array().unwrap();
    let dataset = Arc::new(Dataset::new(groups, LoadReport::default()));
    let mut worst = [0.0f64; 2];
    for (step, expected) in Loader::new(dataset, config, 1, steps.len()).unwrap().zip(steps) {
        let number = |key: &str| expected[key].as_f64().unwrap();
        let pending = trainer.step(&step, number("learning_rate")).unwrap();
        let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
        let loss = (outcome.loss - number("loss")).abs();
        let norm = (outcome.gradient_norm / number("grad_norm") - 1.0).abs();
        worst = [worst[0].max(loss), worst[1].max(norm)];
        assert!(loss < CURVE && norm < 1e-4, "step {}: {loss:e}, {norm:e}", step.index);
    }
    let mut furthest = 0.0f64;
    for (name, after) in weights(&mut trainer) {
        let moved =
            after.iter().zip(&before[&name]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let off = (moved / golden["moved"][&name].as_f64().unwrap() - 1.0).abs();
        assert!(off < MOVED, "{name} has moved by {moved}, {off:e} off");
        furthest = furthest.max(off);
    }
    println!("losses within {:.1e}, norms within {:.1e}, ways within {furthest:.1e}", worst[0], worst[1]);
}
