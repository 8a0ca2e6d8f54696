//! What must be equal on a CUDA device in bf16: the same bits however a step is recomputed or packed, nothing changed after
//! a NaN, and no waiting where there is nothing to wait for. On the stand-in where there is no real device.

use asft::backend::cuda::CudaBackend;
use asft::backend::{Backend, STEP_STATE_LEN, View, probe};
use asft::data::{Group, Step, StepTotals, pack};
use asft::model::{Budget, Precision, Recompute, Rungs, chunks};
use asft::train::{LayoutSettings, Trainer, score};
use half::bf16;

use crate::fixture::*;
use crate::simulator::on_cuda;

const MODELS: [&str; 2] = ["gqa llama3", "mha"];
/// Checks of the stand-in watch over every kernel in `tests/ops`.
const UNCHECKED: [(&str, &str); 1] = [("CUDA_SIM_CHECK", "off")];

fn cuda_trainer(model: &str, budget: Budget, recompute: Recompute, name: &str) -> Trainer<CudaBackend> {
    let rungs = Rungs { tokens: 32, rows: 16 };
    let budget = Budget { rungs, ..budget };
    let settings = LayoutSettings {
        precision: Precision::BF16,
        recompute,
        workspace: 1 << 20,
        ..LayoutSettings::f32(budget, ADAMW)
    };
    let backend = CudaBackend::new(probe::cuda(true).unwrap()).unwrap();
    trainer_of(backend, model, 1, settings, objective(name))
}

/// All groups as a step of one micro-batch each.
fn step(trainer: &Trainer<CudaBackend>, groups: &[Group], index: usize) -> Step {
    let batches = groups.iter().enumerate().map(|(place, group)| {
        let mut batch = pack(&[group], trainer.objective.spans());
        batch.groups.iter_mut().for_each(|group| group.group = place as u32);
        batch
    });
    Step {
        index,
        epoch: 0.0,
        batches: batches.collect(),
        scoring: Vec::new(),
        totals: StepTotals::of(groups),
    }
}

/// Whether a step was bad.
fn run(trainer: &mut Trainer<CudaBackend>, step: &Step) -> bool {
    let pending = trainer.step(step, 1e-3).unwrap();
    pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap().bad
}

/// The bits of stored weights, remainders and moments.
fn state(trainer: &mut Trainer<CudaBackend>) -> Vec<Vec<u8>> {
    fn bytes<S: asft::backend::Scalar>(backend: &mut CudaBackend, view: View) -> Vec<u8> {
        let mut values = vec![<S as bytemuck::Zeroable>::zeroed(); view.len];
        backend.read(view, &mut values).unwrap();
        bytemuck::cast_slice(&values).to_vec()
    }
    let Trainer { backend, model, optimizer, .. } = trainer;
    vec![
        bytes::<bf16>(backend, model.weights()),
        bytes::<u16>(backend, model.remainders.unwrap()),
        bytes::<f32>(backend, optimizer.first_moments),
        bytes::<f32>(backend, optimizer.second_moments),
    ]
}

#[test]
fn a_pointwise_step_waits_for_nothing() {
    on_cuda("cuda::a_pointwise_step_waits_for_nothing", &UNCHECKED, || {
        let model = MODELS[0];
        for name in ["asft", "sft", "sftmix", "asft beta", "dpo", "orpo"] {
            let groups = groups_for(model, objective(name).as_ref());
            let mut trainer = cuda_trainer(model, budget(&groups), Recompute::Nothing, name);
            trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
            let steps = [1, 2].map(|index| step(&trainer, &groups, index));
            assert!(!run(&mut trainer, &steps[0]));
            let before = trainer.backend.waits();
            let pending = trainer.step(&steps[1], 1e-3).unwrap();
            let waits = trainer.backend.waits() - before;
            let coupling = trainer.objective.coupling();
            let capacity = trainer.activations.budget.head_capacity();
            let units: usize =
                steps[1].batches.iter().map(|batch| chunks(&batch.groups, coupling, capacity).len()).sum();
            let expected = if ["dpo", "orpo"].contains(&name) { units as u64 } else { 0 };
            assert_eq!(waits, expected, "{name}: waits in a step of {units} chunks");
            assert!(!pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap().bad);
        }
    });
}

#[test]
fn recomputing_gives_the_same_bits() {
    on_cuda("cuda::recomputing_gives_the_same_bits", &UNCHECKED, || {
        for model in MODELS {
            let all = groups_for(model, objective("asft").as_ref());
            let of = |recompute| {
                let mut trainer = cuda_trainer(model, budget(&all), recompute, "asft");
                trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
                let batch = pack(&all.iter().collect::<Vec<_>>(), trainer.objective.spans());
                trainer.micro_batch(&batch, StepTotals::of(&all), false).unwrap();
                let gradients = trainer.model.gradients().unwrap();
                bits(&read(&mut trainer, gradients))
            };
            let kept = of(Recompute::Nothing);
            for level in [Recompute::Norms, Recompute::Blocks] {
                assert!(kept == of(level), "{model}: {}", level.name());
            }
        }
    });
}

#[test]
fn a_log_prob_has_the_same_bits_wherever_its_group_is_packed() {
    on_cuda("cuda::a_log_prob_has_the_same_bits_wherever_its_group_is_packed", &UNCHECKED, || {
        for model in MODELS {
            let groups = groups();
            let mut trainer = cuda_trainer(model, budget(&groups), Recompute::Nothing, "asft beta");
            let spans = asft::data::Spans { prompt: true, answers: asft::data::Roles::PAIR };
            let mut log_probs = |members: &[&Group]| {
                let batch = pack(members, spans);
                let Trainer { backend, model, activations, .. } = &mut trainer;
                let all = score(backend, model, activations, &batch).unwrap();
                let of = |group: &asft::data::BatchGroup| {
                    group.spans().flat_map(|span| bits(&all[span.range()])).collect::<Vec<_>>()
                };
                batch.groups.iter().map(of).collect::<Vec<_>>()
            };
            let forward = log_probs(&groups.iter().collect::<Vec<_>>());
            let mut backward = log_probs(&groups.iter().rev().collect::<Vec<_>>());
            backward.reverse();
            let alone: Vec<_> = groups.iter().flat_map(|group| log_probs(&[group])).collect();
            assert!(forward == backward && forward == alone, "{model}");
        }
    });
}

#[test]
fn nothing_changes_from_the_first_nan_on() {
    on_cuda("cuda::nothing_changes_from_the_first_nan_on", &UNCHECKED, || {
        let model = MODELS[0];
        for name in ["asft", "dpo"] {
            let groups = groups_for(model, objective(name).as_ref());
            let mut trainer = cuda_trainer(model, budget(&groups), Recompute::Nothing, name);
            trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
            let steps: Vec<Step> = (1..=5).map(|index| step(&trainer, &groups, index)).collect();
            for step in &steps[..2] {
                assert!(!run(&mut trainer, step), "{name}: step {}", step.index);
            }
            let after_two = state(&mut trainer);
            let table = trainer.model.place(trainer.model.weights(), "model.norm.weight").slice(3..4);
            let mut good = [bf16::ZERO];
            trainer.backend.read(table, &mut good).unwrap();
            trainer.backend.write(table, &[bf16::NAN]);
            let poisoned = state(&mut trainer);
            for step in &steps[2..4] {
                assert!(run(&mut trainer, step), "{name}: step {} is not bad", step.index);
                assert!(state(&mut trainer) == poisoned, "{name}: step {} changed something", step.index);
            }
            trainer.backend.write(table, &good);
            assert!(
                state(&mut trainer) == after_two,
                "{name}: not the state of a run stopped after two steps"
            );
            // Without the flag the next step does move.
            trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
            assert!(!run(&mut trainer, &steps[4]), "{name}");
            assert!(state(&mut trainer).iter().zip(&after_two).all(|(a, b)| a != b), "{name}");
        }
    });
}

/// AOT couples all pairs of a step: in one micro-batch or in one each, its loss has the same bits.
#[test]
fn a_coupled_step_has_the_same_loss_however_it_is_cut() {
    on_cuda("cuda::a_coupled_step_has_the_same_loss_however_it_is_cut", &UNCHECKED, || {
        for model in MODELS {
            let groups = groups_for(model, objective("aot").as_ref());
            let loss = |in_one: bool| {
                let mut trainer = cuda_trainer(model, budget(&groups), Recompute::Nothing, "aot");
                trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
                let mut step = step(&trainer, &groups, 1);
                if in_one {
                    let all: Vec<&Group> = groups.iter().collect();
                    step.batches = vec![pack(&all, trainer.objective.spans())];
                }
                let pending = trainer.step(&step, 1e-3).unwrap();
                let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
                assert!(!outcome.bad && outcome.gradient_norm > 0.0, "{model}");
                outcome.loss.to_bits()
            };
            assert_eq!(loss(true), loss(false), "{model}");
        }
    });
}
