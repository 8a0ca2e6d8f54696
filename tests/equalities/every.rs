//! Every objective of the registry through a whole step: what reaches the logits is what the Rust function says of the
//! log-probs that the device found, from the tokens or from whatever else the objective gives the model for them.

use asft::backend::Backend;
use asft::backend::cpu::CpuBackend;
use asft::backend::cuda::CudaBackend;
use asft::data::{
    Annotation, Answer, Group, Reference, Role, Roles, Spans, Step, StepTotals, pack, pack_mixed,
};
use asft::model::{Budget, Detail, Precision, Rungs};
use asft::objective::registry::{Entry, OBJECTIVES};
use asft::objective::{GroupLogps, Objective, Parameters, build};
use asft::train::{LayoutSettings, Trainer, score_in_detail};

use crate::fixture::*;
use crate::simulator::on_cuda;

const MODEL: &str = MODELS[0];

/// Groups with the answers of an entry, and whatever it says that rows hold.
fn rows(entry: &Entry) -> Vec<Group> {
    let pairs = groups();
    let mut rows = pairs.clone();
    for (index, group) in rows.iter_mut().enumerate() {
        let ids = |index: usize, role| pairs[index % pairs.len()].answer(role).unwrap().ids.clone();
        let answers = entry.answers.iter().map(|role| {
            let ids = match role {
                Role::Rejected => ids(index, Role::Rejected),
                Role::Third | Role::Mismatched => ids(index + 1, Role::Chosen),
                _ => ids(index, Role::Chosen),
            };
            Answer { role, ids, scored: None, text: None }
        });
        group.answers = answers.collect();
        annotate(group, entry, index);
    }
    rows
}

fn annotate(group: &mut Group, entry: &Entry, index: usize) {
    let numbers = |len: usize, size: f32| -> Box<[f32]> {
        (0..len).map(|token| size * (0.3 + ((index * 7 + token * 3) % 5) as f32 / 4.0)).collect()
    };
    let lengths: Vec<(Role, usize)> =
        group.answers.iter().map(|answer| (answer.role, answer.ids.len())).collect();
    let given = group.annotations_mut();
    for annotation in entry.annotations {
        match annotation {
            Annotation::Label => given.label = Some(index.is_multiple_of(2)),
            Annotation::Confidence => given.confidence = Some(-(index as f64)),
            Annotation::SoftLabel => given.soft_label = Some(0.6 + 0.08 * index as f64),
            Annotation::PromptEmbedding => given.prompt_embedding = Some(numbers(4, 1.0)),
            _ => {}
        }
    }
    for (role, len) in lengths {
        let answer = &mut given.answers[role];
        if entry.reference {
            answer.references = vec![Reference::Tokens(numbers(len, -4.0))];
        }
        for annotation in entry.annotations {
            match annotation {
                Annotation::Score => answer.score = Some(0.2 * index as f64),
                Annotation::Weights => answer.weights = Some(numbers(len, 1.0)),
                Annotation::Advantages => answer.advantages = Some(numbers(len, 0.7)),
                Annotation::OldLogps => answer.old_logps = Some(numbers(len, -3.0)),
                _ => {}
            }
        }
    }
}

/// All of it as one micro-batch of a step.
fn step(objective: &dyn Objective, groups: &[Group]) -> Step {
    let all: Vec<&Group> = groups.iter().collect();
    let spans = objective.spans();
    let learnt = Spans { answers: objective.learns_from(), ..spans };
    let scoring = if learnt == spans { Vec::new() } else { vec![pack(&all, spans)] };
    let mixtures = objective.mixing().map_or(Vec::new(), |mixing| mixing.of_step(all.len(), 3, 1));
    let mut totals = StepTotals::of(groups);
    totals.answer_tokens[Role::Mixed] = mixtures.iter().map(|mixture| mixture.rows(&all)).sum();
    Step { index: 1, epoch: 0.0, batches: vec![pack_mixed(&all, learnt, &mixtures)], scoring, totals }
}

/// A step's coefficients on the device are those of the function, to the bit.
fn check<B: Backend>(mut trainer: Trainer<B>, groups: &[Group]) {
    let step = step(trainer.objective.as_ref(), groups);
    let what = trainer.objective.name().to_owned();
    let scored = step.scoring.first().unwrap_or(&step.batches[0]);
    let Trainer { backend, model, activations, objective, .. } = &mut trainer;
    let mut scores =
        score_in_detail(backend, model, activations, scored, Detail::of(objective.as_ref())).unwrap();
    let pending = trainer.step(&step, 1e-3).unwrap();
    if trainer.objective.inputs().are_predicted() {
        // Those of other inputs.
        let logp = trainer.activations.head.logp.first(scores.logp.len());
        let logp = read(&mut trainer, logp);
        assert!(logp != scores.logp, "{what}: inputs are not mixed");
        scores.logp = logp;
    }
    let objective = trainer.objective.as_ref();
    let views: Vec<GroupLogps> =
        scored.groups.iter().map(|group| GroupLogps::of(group, scores.rows())).collect();
    let losses = objective.evaluate(&views, &step.totals);
    let batch = &step.batches[0];
    let mut expected = vec![0.0; batch.gather.len()];
    for (entry, loss) in batch.groups.iter().zip(&losses) {
        loss.write(entry, &mut expected);
    }
    let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
    let loss = losses.iter().fold(0.0, |sum, loss| sum + loss.value);
    assert_eq!(outcome.loss.to_bits(), loss.to_bits(), "{what}: {} and {loss}", outcome.loss);
    assert!(!outcome.bad && outcome.gradient_norm > 0.0, "{what}: gradient {}", outcome.gradient_norm);
    let coefficients = trainer.activations.head.coefficients.first(expected.len());
    let got = read(&mut trainer, coefficients);
    for (row, (got, expected)) in got.iter().zip(&expected).enumerate() {
        // Those that a device forms by itself are off by the rounding of one sum.
        let off = (f64::from(*got) - f64::from(*expected)).abs();
        assert!(off <= 1.2e-7 * f64::from(expected.abs()), "{what}: row {row}: {got:e}, not {expected:e}");
    }
    assert!(expected.iter().any(|g| *g != 0.0), "{what}: nothing is learnt");
}

fn places(groups: &[Group]) -> Budget {
    let spans = Spans { prompt: true, answers: Roles::ALL };
    let rows: usize = groups.iter().map(|group| spans.rows(group)).sum();
    let tokens = groups.iter().map(|group| spans.tokens(group)).sum();
    Budget { rows: 2 * rows, tokens, head_rows: 2 * rows, mixed: true, ..budget(groups) }
}

/// Every objective with its defaults, and those that ask for more than log-probs.
fn all() -> impl Iterator<Item = (Box<dyn Objective>, Vec<Group>)> {
    let wpo = Parameters { weighting: Some("wpo".parse().unwrap()), ..Parameters::default() };
    let tail = Parameters { ld_alpha: Some(0.3), ..Parameters::default() };
    let defaults = OBJECTIVES.iter().map(|entry| (*entry, Parameters::default()));
    let dpo = asft::objective::registry::find("dpo").unwrap();
    defaults
        .chain([(dpo, wpo), (dpo, tail)])
        .map(|(entry, parameters)| (build(entry.name, &parameters).unwrap(), rows(entry)))
}

#[test]
fn coefficients_are_those_of_the_function() {
    for (objective, groups) in all() {
        let backend = CpuBackend::new(2).unwrap();
        check(trainer_on(backend, MODEL, 1, places(&groups), objective), &groups);
    }
}

#[test]
fn coefficients_are_those_of_the_function_on_cuda() {
    on_cuda("every::coefficients_are_those_of_the_function_on_cuda", &[("CUDA_SIM_CHECK", "off")], || {
        for (objective, groups) in all() {
            let budget = Budget { rungs: Rungs { tokens: 32, rows: 16 }, ..places(&groups) };
            let settings = LayoutSettings {
                precision: Precision::BF16,
                workspace: 1 << 20,
                ..LayoutSettings::f32(budget, ADAMW)
            };
            let backend = CudaBackend::new(asft::backend::probe::cuda(true).unwrap()).unwrap();
            check(trainer_of(backend, MODEL, 1, settings, objective), &groups);
        }
    });
}
