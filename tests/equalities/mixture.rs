//! Mixtures of rows: the same loss and gradients however a step is cut, the slope of the loss by differences, and what mixtures
//! come down to at the ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use asft::backend::Backend;
use asft::data::{
    Batch, Dataset, Group, LoadReport, Loader, LoaderConfig, Mixture, Role, Step, StepTotals, pack_mixed,
};
use asft::model::{Budget, Rungs};
use asft::objective::{Objective, Parameters, build};
use asft::train::{StepOutcome, score};

use crate::fixture::*;

/// Gradients of a step cut in another way, relative L2: sums in parts.
const GRADIENT: f64 = 2e-6;

fn sftmix(mu: f64) -> Box<dyn Objective> {
    build("sftmix", &Parameters { mu: Some(mu), ..Parameters::default() }).unwrap()
}

/// Seven groups, so that one is left over in each epoch.
fn sure_and_unsure() -> Vec<Group> {
    let mut groups = groups();
    groups.extend([group(5, 2, 8, 1), group(6, 9, 4, 3)]);
    for (index, group) in groups.iter_mut().enumerate() {
        group.annotations_mut().confidence = Some(-((index * 5 % 7) as f64));
    }
    groups
}

fn places(groups: &[Group]) -> Budget {
    let plain = budget(groups);
    Budget { rows: 2 * plain.rows, head_rows: 2 * plain.rows, mixed: true, ..plain }
}

/// The first step of an epoch in one step.
fn step(objective: &dyn Objective, groups: &[Group], parts: Option<usize>, token_budget: usize) -> Step {
    let config = LoaderConfig {
        seed: 11,
        shuffle: true,
        batch_size: 8,
        token_budget,
        row_budget: 0,
        parts,
        spans: objective.spans(),
        scored: None,
        mixing: objective.mixing(),
    };
    let dataset = Arc::new(Dataset::new(groups.to_vec(), LoadReport::default()));
    Loader::new(dataset, config, 1, 1).unwrap().next().unwrap()
}

fn run(
    model: &str,
    budget: Budget,
    objective: Box<dyn Objective>,
    step: &Step,
) -> (StepOutcome, BTreeMap<String, Vec<f32>>) {
    let mut trainer = trainer(model, budget, objective);
    clear(&mut trainer);
    let pending = trainer.step(step, 0.0).unwrap();
    let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
    assert!(!outcome.bad && outcome.gradient_norm > 0.0);
    (outcome, gradients(&mut trainer))
}

#[test]
fn a_step_has_the_same_loss_and_gradients_however_it_is_cut() {
    let groups = sure_and_unsure();
    for model in MODELS {
        let whole = step(sftmix(0.7).as_ref(), &groups, Some(1), 0);
        assert_eq!(whole.batches[0].groups.iter().filter_map(|entry| entry.answers[Role::Mixed]).count(), 3);
        let (first, expected) = run(model, places(&groups), sftmix(0.7), &whole);
        assert!(first.metrics.mean("mix_loss").is_some());
        let expected = widened(&expected);
        // Units longer than the rows of logits at a time; rows padded to rungs; every level of cutting.
        for (parts, tokens, head_rows, rungs) in [
            (Some(4), 0, usize::MAX, Rungs::NONE),
            (Some(2), 0, 3, Rungs::NONE),
            (None, 50, 5, Rungs { tokens: 16, rows: 4 }),
            (Some(1), 0, 7, Rungs { tokens: 32, rows: 16 }),
        ] {
            let budget = places(&groups);
            let budget = Budget { head_rows: head_rows.min(budget.rows), rungs, ..budget };
            let cut = step(sftmix(0.7).as_ref(), &groups, parts, tokens);
            let what = format!("{model}, {} micro-batches", cut.batches.len());
            let (outcome, gradients) = run(model, budget, sftmix(0.7), &cut);
            assert_eq!(outcome.loss.to_bits(), first.loss.to_bits(), "{what}");
            assert_eq!(outcome.metrics, first.metrics, "{what}");
            assert_near(&what, &gradients, &expected, GRADIENT);
        }
    }
}

#[test]
fn without_weight_it_is_sft_to_the_bit() {
    let groups = sure_and_unsure();
    for model in MODELS {
        let sft = || objective("sft");
        let ours = run(model, budget(&groups), sftmix(0.0), &step(sftmix(0.0).as_ref(), &groups, None, 60));
        let theirs = run(model, budget(&groups), sft(), &step(sft().as_ref(), &groups, None, 60));
        assert_eq!(ours.0.loss.to_bits(), theirs.0.loss.to_bits());
        let bits_of = |all: BTreeMap<String, Vec<f32>>| all.into_values().flat_map(|values| bits(&values));
        assert!(bits_of(ours.1).eq(bits_of(theirs.1)), "{model}");
    }
}

/// The loss's difference along its gradient is the gradient's length.
#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let groups = sure_and_unsure();
    for model in MODELS {
        let step = step(sftmix(2.0).as_ref(), &groups, Some(1), 0);
        let mut trainer = trainer(model, places(&groups), sftmix(2.0));
        clear(&mut trainer);
        let pending = trainer.step(&step, 0.0).unwrap();
        pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
        let arena = trainer.model.gradients().unwrap();
        let gradient = wide(&read(&mut trainer, arena));
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let arena = trainer.model.weights();
        let start = wide(&read(&mut trainer, arena));
        let mut loss = |distance: f64| {
            let moved: Vec<f32> =
                start.iter().zip(&gradient).map(|(w, g)| (w + distance * g / length) as f32).collect();
            trainer.backend.write(arena, &moved);
            let pending = trainer.step(&step, 0.0).unwrap();
            pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap().loss
        };
        let h = 4e-3;
        let mut central = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
        let slope = (4.0 * central(h / 2.0) - central(h)) / 3.0;
        println!("{model}: {slope} along a gradient of {length}");
        assert!((slope / length - 1.0).abs() < 1e-3, "{model}: {slope} along a gradient of {length}");
    }
}

/// The log-probs of two groups and of their mixture.
fn mixture_of(model: &str, pair: [&Group; 2], weight: f32) -> (Batch, Vec<f32>) {
    let groups: Vec<Group> = pair.into_iter().cloned().collect();
    let mut trainer = trainer(model, places(&groups), sftmix(1.0));
    let mixture = Mixture { first: 0, second: 1, weight, of: Role::Chosen };
    let batch = pack_mixed(&pair, trainer.objective.spans(), &[mixture]);
    let log_probs = score(&mut trainer.backend, &trainer.model, &trainer.activations, &batch).unwrap();
    (batch, log_probs)
}

#[test]
fn a_mixture_of_one_row_alone_is_that_row_cut_to_the_shorter_answer() {
    let (long, short) = (group(3, 3, 17, 2), group(0, 7, 5, 9));
    for model in MODELS {
        for pair in [[&long, &short], [&short, &long]] {
            for (weight, kept) in [(1.0, 0), (0.0, 1)] {
                let (batch, log_probs) = mixture_of(model, pair, weight);
                let mixed = batch.groups[1].answers[Role::Mixed].unwrap().range();
                let alone = batch.groups[kept].chosen().unwrap().range();
                assert_eq!(mixed.len(), 5);
                for (row, alone) in mixed.zip(alone) {
                    let (got, expected) = (f64::from(log_probs[row]), f64::from(log_probs[alone]));
                    assert!((got - expected).abs() <= 1e-6 * expected.abs(), "{model}: {got} {expected}");
                }
            }
        }
    }
}

/// Two rows that say the same: the same hidden states and targets, half and half.
#[test]
fn a_row_mixed_with_itself_is_itself_to_the_bit() {
    let one = group(0, 7, 5, 9);
    let twin = Group { row: 1, ..one.clone() };
    for model in MODELS {
        let (batch, log_probs) = mixture_of(model, [&one, &twin], 0.5);
        let of =
            |place: usize, role: Role| bits(&log_probs[batch.groups[place].answers[role].unwrap().range()]);
        assert_eq!(of(1, Role::Mixed), of(0, Role::Chosen), "{model}");
        assert_eq!(of(1, Role::Mixed), of(1, Role::Chosen), "{model}");
    }
}

/// An evaluation mixes nothing.
#[test]
fn an_evaluation_is_the_plain_nll() {
    let groups = sure_and_unsure();
    let model = MODELS[0];
    let loss = |objective: Box<dyn Objective>| {
        let mut trainer = trainer(model, budget(&groups), objective);
        let mut scorer = asft::eval::Scorer {
            backend: &mut trainer.backend,
            model: &trainer.model,
            activations: &trainer.activations,
            progress: &mut asft::eval::Silent,
        };
        scorer.evaluate(&groups, trainer.objective.as_ref()).unwrap().0
    };
    assert_eq!(loss(sftmix(5.0)).to_bits(), loss(objective("sft")).to_bits());
    assert_eq!(StepTotals::of(&groups).answer_tokens[Role::Mixed], 0);
}
