//! A prompt shared by its answers gives what the sequences give one by one; and a row does not notice what it is packed
//! with.

use std::collections::VecDeque;
use std::sync::Mutex;

use asft::backend::Backend;
use asft::backend::cpu::{CpuBackend, Level, Simd};
use asft::data::{Answer, Group, Role, Roles, Span, Spans, StepTotals, pack};
use asft::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, Slope};
use asft::train::Evaluation;

use crate::fixture::*;

/// Two f32 computations of one log-prob (log-probs here reach -15).
const LOG_PROB: f64 = 1e-5;
/// Two f32 computations of one gradient tensor, relative L2.
const GRADIENT: f64 = 4e-6;

/// Coefficients that are known beforehand: one list for each group, in the order in which the head asks. The prompt is
/// not scored.
#[derive(Debug)]
struct Given(Mutex<VecDeque<Vec<f32>>>);

impl Objective for Given {
    fn name(&self) -> &str {
        "given"
    }

    fn coupling(&self) -> Coupling {
        Coupling::Group
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::CHOSEN }
    }

    fn evaluate(&self, groups: &[GroupLogps], _: &StepTotals) -> Vec<GroupLoss> {
        let of = |_: &GroupLogps| {
            let given = self.0.lock().unwrap().pop_front().unwrap();
            let mut loss = GroupLoss::default();
            loss.answers[Role::Chosen] = Slope::Tokens(given.into_iter().map(f64::from).collect());
            loss
        };
        groups.iter().map(of).collect()
    }

    fn metrics(&self, _: &GroupLogps, _: &StepTotals, _: &mut Metrics) {}
}

/// A sequence as a group of its own, without a shared prompt: all of it but the first token is answer.
fn alone(group: &Group, role: Role) -> Group {
    let mut ids = group.prompt.clone();
    ids.extend(&group.answer(role).unwrap().ids);
    let rest = ids.split_off(1);
    let answers = vec![Answer { role: Role::Chosen, ids: rest, scored: None, text: None }];
    Group { row: group.row, prompt: ids, answers, annotations: None }
}

fn shared_equals_separate(model: &str, name: &str) {
    let groups = groups_for(model, objective(name).as_ref());
    let mut shared = trainer(model, budget(&groups), objective(name));
    let batch = packed(&shared, &groups);
    let together = compute(&mut shared, &groups);

    let mut separate = trainer(model, budget(&groups), Box::new(Given(Mutex::default())));
    let mut log_probs = vec![f32::NAN; together.log_probs.len()];
    let mut first = true;
    for (group, entry) in groups.iter().zip(&batch.groups) {
        let of = |span: Option<Span>| span.map_or(&[][..], |span| &together.coefficients[span.range()]);
        for (role, prompt, answer) in
            [(Role::Chosen, entry.prompt, entry.chosen()), (Role::Rejected, None, entry.rejected())]
        {
            let Some(answer) = answer else { continue };
            // Prompt tokens 1.., whose coefficients count once, then the answer's.
            let mut coefficients = of(prompt).to_vec();
            coefficients.resize(group.prompt.len() - 1, 0.0);
            coefficients.extend(of(Some(answer)));
            separate.objective = Box::new(Given(Mutex::new([coefficients].into())));
            let alone = alone(group, role);
            let batch = pack(&[&alone], separate.objective.spans());
            let ticket = separate.micro_batch(&batch, StepTotals::of([&alone]), !first).unwrap();
            first = false;
            let scored: Vec<f32> = separate.backend.collect(ticket).unwrap();
            let (of_prompt, of_answer) = scored.split_at(group.prompt.len() - 1);
            log_probs[answer.range()].copy_from_slice(of_answer);
            if let Some(prompt) = prompt {
                log_probs[prompt.range()].copy_from_slice(of_prompt);
            }
        }
    }
    let what = format!("{model}, {name}");
    for (row, (&shared, &alone)) in together.log_probs.iter().zip(&log_probs).enumerate() {
        let off = f64::from(shared - alone).abs();
        assert!(off <= LOG_PROB, "{what}: log-prob {row} is {shared}, alone {alone}");
    }
    let mut evaluation = Evaluation::new(shared.objective.as_ref(), StepTotals::of(&groups));
    evaluation.add(&batch.groups, log_probs);
    let (loss, _) = evaluation.finish();
    assert!((together.loss - loss).abs() <= LOG_PROB, "{what}: loss {} instead of {loss}", together.loss);
    assert_near(&what, &together.gradients, &widened(&gradients(&mut separate)), GRADIENT);
}

#[test]
fn a_shared_prompt_equals_separate_sequences() {
    for model in MODELS {
        for name in OBJECTIVES {
            shared_equals_separate(model, name);
        }
    }
}

/// Log-probs of the group with this row, out of a batch of these.
fn score(trainer: &mut asft::train::Trainer<CpuBackend>, groups: &[&Group], row: usize) -> Vec<u32> {
    let spans = Spans { prompt: true, answers: Roles::PAIR };
    let batch = pack(groups, spans);
    let log_probs = trainer.score(&batch).unwrap();
    let entry = batch.groups.iter().find(|entry| entry.row == row).unwrap();
    entry.spans().flat_map(|span| bits(&log_probs[span.range()])).collect()
}

#[test]
fn a_log_prob_has_the_same_bits_wherever_it_is_packed() {
    // Segments longer than a tile of attention, and such as fill one just so.
    let mut groups = groups();
    groups.extend([group(5, 131, 70, 64), group(6, 64, 1, 129)]);
    for model in MODELS {
        for level in [Level::Portable, Level::Avx2, Level::Avx512, Level::Amx] {
            let backend = CpuBackend::with_simd(2, Simd::at_most(level)).unwrap();
            // Logits of other rows at a time, too.
            let (whole, few) = (budget(&groups), asft::model::Budget { head_rows: 29, ..budget(&groups) });
            let mut trainer = trainer_on(backend, model, 1, whole, objective("orpo"));
            let backend = CpuBackend::with_simd(2, Simd::at_most(level)).unwrap();
            let mut narrow = trainer_on(backend, model, 1, few, objective("orpo"));
            for group in &groups {
                let others: Vec<&Group> = groups.iter().filter(|other| other.row != group.row).collect();
                let alone = score(&mut trainer, &[group], group.row);
                for place in [0, others.len() / 2, others.len()] {
                    let mut all = others.clone();
                    all.insert(place, group);
                    let what = format!("{model}, {level:?}: group {} at place {place}", group.row);
                    assert!(score(&mut trainer, &all, group.row) == alone, "{what}");
                    assert!(score(&mut narrow, &all, group.row) == alone, "{what}, logits of 29 rows");
                }
            }
        }
    }
}

#[test]
fn training_and_scoring_give_the_same_bits() {
    for model in MODELS {
        let groups = groups();
        let mut trainer = trainer(model, budget(&groups), objective("orpo"));
        let trained = compute(&mut trainer, &groups).log_probs;
        let batch = packed(&trainer, &groups);
        assert_eq!(bits(&trainer.score(&batch).unwrap()), bits(&trained), "{model}");
    }
}
