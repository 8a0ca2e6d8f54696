//! Objectives that couple all groups of a step: loss and coefficients have the same bits however the step is cut, and
//! answers that are only scored cost nothing and change nothing.

use std::sync::Arc;

use asft::backend::Backend;
use asft::backend::cpu::CpuBackend;
use asft::data::{Answer, Dataset, Group, LoadReport, Loader, LoaderConfig, Role, Roles, Spans, Step};
use asft::model::Budget;
use asft::objective::{Coupling, Objective, Parameters, build};
use asft::train::{StepOutcome, Trainer};

use crate::fixture::*;

/// Gradients of a step cut in another way, relative L2: sums in parts.
const GRADIENT: f64 = 2e-6;

/// Pairs with whatever the objectives here ask for.
fn pairs(model: &str) -> Vec<Group> {
    let mut groups = with_reference(model, groups(), [0.7, -0.4]);
    for (index, group) in groups.iter_mut().enumerate() {
        let angle = index as f32;
        group.annotations_mut().prompt_embedding = Some([angle.cos(), angle.sin(), 0.5].into());
    }
    groups
}

/// The pairs' chosen answers as completions, each beside the next one's.
fn completions(model: &str) -> Vec<Group> {
    let pairs = groups();
    let ids = |index: usize| pairs[index % pairs.len()].answer(Role::Chosen).unwrap().ids.clone();
    let mut groups: Vec<Group> = pairs.clone();
    for (index, group) in groups.iter_mut().enumerate() {
        let answers = [(Role::Completion, ids(index)), (Role::Mismatched, ids(index + 1))];
        let answers = answers.map(|(role, ids)| Answer { role, ids, scored: None, text: None });
        group.answers = answers.into();
        group.annotations_mut().label = Some(index % 2 == 0);
    }
    let mut trainer = trainer(model, largest_budget(&groups), build("kto", &Parameters::default()).unwrap());
    add_references(&mut trainer, &mut groups);
    for group in &mut groups {
        let given = &mut group.annotations_mut().answers;
        // A drift above 0.
        let shifted = given[Role::Mismatched].references[0].sum() - 1.5;
        given[Role::Mismatched].references = vec![asft::data::Reference::Sum(shifted)];
    }
    groups
}

fn largest_budget(groups: &[Group]) -> Budget {
    let spans = Spans { prompt: true, answers: Roles::ALL };
    let rows = groups.iter().map(|group| spans.rows(group)).sum();
    let tokens = groups.iter().map(|group| spans.tokens(group)).sum();
    Budget { rows, tokens, head_rows: rows, ..budget(groups) }
}

fn step(objective: &dyn Objective, groups: &[Group], parts: Option<usize>, token_budget: usize) -> Step {
    let spans = objective.spans();
    let scored = (objective.learns_from() != spans.answers).then_some(spans);
    let config = LoaderConfig {
        seed: 0,
        shuffle: false,
        batch_size: groups.len(),
        token_budget,
        row_budget: 0,
        parts,
        spans: Spans { answers: objective.learns_from(), ..spans },
        scored,
        mixing: None,
    };
    let dataset = Arc::new(Dataset::new(groups.to_vec(), LoadReport::default()));
    Loader::new(dataset, config, 1, 1).unwrap().next().unwrap()
}

fn run<B: Backend>(trainer: &mut Trainer<B>, step: &Step) -> StepOutcome {
    let pending = trainer.step(step, 0.0).unwrap();
    pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap()
}

/// The objectives of this kind, with groups.
fn coupled(model: &str) -> Vec<(Box<dyn Objective>, Vec<Group>)> {
    let made = |name: &str| build(name, &Parameters::default()).unwrap();
    let pairs = pairs(model);
    let mut all: Vec<_> = ["aot", "aot_unpaired", "relative_po", "aot:0.5,sft:0.5"]
        .map(|name| (made(name), pairs.clone()))
        .into();
    all.push((made("kto"), completions(model)));
    all
}

#[test]
fn a_step_has_the_same_loss_and_gradients_however_it_is_cut() {
    for model in MODELS {
        for (index, (objective, groups)) in coupled(model).into_iter().enumerate() {
            assert_eq!(objective.coupling(), Coupling::Step);
            let mut whole: Option<(StepOutcome, _)> = None;
            // Fewer logits than rows at a time, too.
            for (parts, tokens, head_rows) in
                [(Some(1), 0, usize::MAX), (Some(groups.len()), 0, 3), (Some(2), 0, 5), (None, 45, 7)]
            {
                let budget = largest_budget(&groups);
                let budget = Budget { head_rows: head_rows.min(budget.rows), ..budget };
                let (objective, _) = coupled(model).swap_remove(index);
                let step = step(objective.as_ref(), &groups, parts, tokens);
                let mut trainer = trainer(model, budget, objective);
                let outcome = run(&mut trainer, &step);
                let what =
                    format!("{model}, {}, {} micro-batches", trainer.objective.name(), step.batches.len());
                assert!(!outcome.bad && outcome.gradient_norm > 0.0, "{what}");
                let gradients = gradients(&mut trainer);
                let Some((first, expected)) = &whole else {
                    whole = Some((outcome, widened(&gradients)));
                    continue;
                };
                assert_eq!(outcome.loss.to_bits(), first.loss.to_bits(), "{what}");
                assert_eq!(outcome.metrics, first.metrics, "{what}");
                assert_near(&what, &gradients, expected, GRADIENT);
            }
        }
    }
}

/// Through the head that asks the objective unit by unit, group by group where there is one group.
#[test]
fn one_pair_at_a_time_is_dpo() {
    let model = MODELS[0];
    for group in pairs(model) {
        let groups = [group];
        let gradients_of = |name: &str| {
            let objective = build(name, &Parameters::default()).unwrap();
            let step = step(objective.as_ref(), &groups, Some(1), 0);
            let mut trainer: Trainer<CpuBackend> = trainer(model, largest_budget(&groups), objective);
            let loss = run(&mut trainer, &step).loss;
            (loss, gradients(&mut trainer))
        };
        let (dpo, expected) = gradients_of("dpo");
        for name in ["aot", "aot_unpaired", "relative_po"] {
            let (loss, gradients) = gradients_of(name);
            assert!((loss - dpo).abs() <= 1e-14 * dpo.abs(), "{name}: {loss}, {dpo}");
            assert_near(name, &gradients, &widened(&expected), 1e-6);
        }
    }
}

#[test]
fn what_is_only_scored_is_not_in_the_pass_with_gradients() {
    let model = MODELS[0];
    let groups = completions(model);
    let kto = build("kto", &Parameters::default()).unwrap();
    let step = step(kto.as_ref(), &groups, Some(2), 0);
    let tokens = |batches: &[asft::data::Batch]| batches.iter().map(|batch| batch.ids.len()).sum::<usize>();
    let mismatched: usize =
        groups.iter().map(|group| group.answer(Role::Mismatched).unwrap().ids.len()).sum();
    assert_eq!(tokens(&step.scoring), tokens(&step.batches) + mismatched);
    // z moves every coefficient: without it the gradient is another.
    let mut trainer = trainer(model, largest_budget(&groups), kto);
    let outcome = run(&mut trainer, &step);
    assert!((outcome.metrics.mean("kl").unwrap() - 1.5).abs() < 1e-4, "{:?}", outcome.metrics);
}

#[test]
fn a_loss_that_is_not_finite_stops_a_coupled_step() {
    let model = MODELS[0];
    let mut groups = pairs(model);
    let (aot, _) = coupled(model).swap_remove(0);
    groups[2].annotations_mut().answers[Role::Chosen].references = vec![asft::data::Reference::Sum(f64::NAN)];
    let step = step(aot.as_ref(), &groups, Some(2), 0);
    let mut trainer = trainer(model, largest_budget(&groups), aot);
    let before = state_bits(&mut trainer);
    let pending = trainer.step(&step, 1e-3).unwrap();
    assert!(pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap().bad);
    assert!(state_bits(&mut trainer) == before, "the weights moved");
}
