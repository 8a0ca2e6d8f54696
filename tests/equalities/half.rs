//! Half fine-tuning: a frozen matrix costs no weight-gradient product, keeps its bits and counts nothing; what is learnt has the
//! gradients that it would have without.

use asft::backend::{Backend, OperationTime};
use asft::data::{Step, StepTotals, Work};
use asft::model::{Flops, Frozen, Recompute, flops::block_elements};
use asft::train::half::{HalfFineTuning, frozen_half};

use crate::fixture::*;

const SEED: u64 = 5;

fn step(trainer: &Trainer, index: usize) -> Step {
    let groups = groups();
    let batches = [&groups[..2], &groups[2..]].map(|groups| packed(trainer, groups));
    Step { index, epoch: 0.0, batches: batches.into(), scoring: Vec::new(), totals: StepTotals::of(&groups) }
}

type Trainer = asft::train::Trainer<asft::backend::cpu::CpuBackend>;

fn run(trainer: &mut Trainer, index: usize) -> f64 {
    let step = step(trainer, index);
    let pending = trainer.step(&step, 1e-2).unwrap();
    let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
    assert!(!outcome.bad);
    outcome.gradient_norm
}

fn halved(model: &str, steps_per_round: usize) -> Trainer {
    let mut trainer = trainer(model, budget(&groups()), objective("asft"));
    trainer.half = Some(HalfFineTuning::new(SEED, steps_per_round, &trainer.model.table));
    trainer
}

fn flops_of(times: &[OperationTime], what: &str) -> f64 {
    times.iter().filter(|time| time.name.starts_with(what)).filter_map(|time| time.flops).sum()
}

#[test]
fn a_frozen_matrix_costs_no_weight_gradient_product() {
    for model in MODELS {
        let config = config(model);
        for round in 0..6 {
            let mut all = trainer(model, budget(&groups()), objective("asft"));
            let mut half = halved(model, 1);
            let times = |trainer: &mut Trainer| {
                trainer.backend.operation_times();
                run(trainer, round + 1);
                trainer.backend.operation_times()
            };
            let (all, half) = (times(&mut all), times(&mut half));
            let frozen = frozen_half(config.num_hidden_layers, SEED, round as u64);
            let elements: usize = config
                .parameters()
                .iter()
                .filter(|(name, shape)| shape.len() > 1 && frozen.contains(name))
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
            let work: Work =
                groups().iter().map(|group| Work::of_group(group, objective("asft").spans())).sum();
            let spared = 2.0 * (elements as u64 * work.tokens) as f64;
            let what = format!("{model}, round {round}");
            assert_eq!(
                flops_of(&all, "product, d weight") - flops_of(&half, "product, d weight"),
                spared,
                "{what}"
            );
            for other in ["product, forward", "product, d input"] {
                assert_eq!(flops_of(&all, other), flops_of(&half, other), "{what}: {other}");
            }
            // All products but attention's, which are none of the backend's.
            let counted = Flops::training(&config, work);
            assert_eq!(flops_of(&all, "product"), (counted.blocks + counted.head) as f64, "{what}");
            assert!(2 * elements as u64 * 4 > block_elements(&config), "{what}: {elements} elements");
            // No product over nothing, and no more products than matrices that are learnt.
            let weight_products = |times: &[OperationTime]| {
                times
                    .iter()
                    .filter(|t| t.name.starts_with("product, d weight"))
                    .map(|t| t.calls)
                    .sum::<usize>()
            };
            assert!(weight_products(&half) > 0 && half.iter().all(|time| time.flops != Some(0.0)), "{what}");
        }
    }
}

#[test]
fn what_is_learnt_has_the_bits_it_would_have_and_what_is_frozen_keeps_its_own() {
    for model in MODELS {
        let layers = config(model).num_hidden_layers;
        let mut before: Option<Frozen> = None;
        let mut trainer = halved(model, 2);
        for index in 1..=8 {
            // The same weights with everything learnt.
            let mut all = trainer_like(model, &mut trainer);
            let step = step(&all, index);
            for (place, batch) in step.batches.iter().enumerate() {
                all.micro_batch(batch, step.totals, place > 0).unwrap();
            }
            let expected = gradients(&mut all);
            let [weights, first, second] = arenas(&mut trainer);
            let norm = run(&mut trainer, index);
            let found = gradients(&mut trainer);
            let [new_weights, new_first, new_second] = arenas(&mut trainer);
            let frozen = frozen_half(layers, SEED, (index as u64 - 1) / 2);
            assert_eq!(before.as_ref() == Some(&frozen), index % 2 == 0, "{model}: step {index}");
            let mut squares = 0.0;
            for (name, gradient) in &found {
                let what = format!("{model}, step {index}: {name}");
                if frozen.contains(name) {
                    assert!(gradient.iter().all(|&g| g == 0.0), "{what} has a gradient");
                    let same = |old: &Values, new: &Values| bits(&old[name]) == bits(&new[name]);
                    assert!(same(&weights, &new_weights), "{what} moved");
                    assert!(same(&first, &new_first) && same(&second, &new_second), "{what}: moments moved");
                } else {
                    assert!(bits(gradient) == bits(&expected[name]), "{what}: another gradient");
                    assert!(bits(&weights[name]) != bits(&new_weights[name]), "{what} did not move");
                    squares += gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
                }
            }
            // The norm adds squares in blocks of f32.
            assert!((norm / squares.sqrt() - 1.0).abs() < 1e-6, "{model}: {norm}");
            before = Some(frozen);
        }
    }
}

type Values = std::collections::BTreeMap<String, Vec<f32>>;

/// Weights and both moments.
fn arenas(trainer: &mut Trainer) -> [Values; 3] {
    let optimizer = &trainer.optimizer;
    let arenas = [trainer.model.weights(), optimizer.first_moments, optimizer.second_moments];
    arenas.map(|arena| by_name(trainer, arena))
}

/// A trainer that learns everything, with the weights of another one; it recomputes, which must not matter.
fn trainer_like(model: &str, other: &mut Trainer) -> Trainer {
    let settings = asft::train::LayoutSettings {
        recompute: Recompute::Blocks,
        ..asft::train::LayoutSettings::f32(budget(&groups()), ADAMW)
    };
    let backend = asft::backend::cpu::CpuBackend::new(1).unwrap();
    let mut trainer = trainer_of(backend, model, 1, settings, objective("asft"));
    let arena = other.model.weights();
    let weights = read(other, arena);
    trainer.backend.write(arena, &weights);
    trainer
}
