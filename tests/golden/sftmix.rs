//! One SFTMix step with given confidences and weights against f64 (`make_sftmix.py`): loss, both terms, every gradient; on the CPU and
//! on CUDA.

use asft::backend::{Backend, STEP_STATE_LEN};
use asft::data::{Group, Halves, Mixture, Role, StepTotals, pack_mixed};
use asft::model::{Budget, Precision};
use asft::objective::{Objective, Parameters, build};
use asft::train::Evaluation;
use safetensors::SafeTensors;
use serde_json::Value;

use super::GRADIENT;
use super::cuda::{BF16, F32, TIMES_PYTORCH};
use super::harness::*;
use super::simulator::on_cuda;
use super::step::Distance;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The groups in the order of an epoch that keeps that of the file, and their mixtures.
fn mixed(golden: &Value, mut groups: Vec<Group>) -> (Vec<Group>, Vec<Mixture>) {
    for (group, confidence) in groups.iter_mut().zip(numbers(&golden["confidence"])) {
        group.annotations_mut().confidence = Some(confidence);
        group.answers.retain(|answer| answer.role == Role::Chosen);
    }
    let order = Halves::of(&groups).unwrap().order(0, 0, false);
    let pairs: Vec<usize> =
        golden["pairs"].as_array().unwrap().iter().flat_map(numbers).map(|row| row as usize).collect();
    assert_eq!(order, pairs);
    let groups = order.iter().map(|&row| groups[row].clone()).collect();
    let weights = numbers(&golden["weights"]);
    let mixture = |(pair, &weight): (usize, &f64)| Mixture {
        first: 2 * pair,
        second: 2 * pair + 1,
        weight: weight as f32,
        of: Role::Chosen,
    };
    (groups, weights.iter().enumerate().map(mixture).collect())
}

fn objective(golden: &Value) -> Box<dyn Objective> {
    build("sftmix", &Parameters { mu: golden["mu"].as_f64(), ..Parameters::default() }).unwrap()
}

/// How far every case is from the stored one. `judge` gets it and the distance.
fn every_case<B: Backend>(engine: &Engine<B>, judge: impl Fn(&Value, Distance)) {
    let text = std::fs::read(golden().join("sftmix.json")).unwrap();
    let golden_json: Value = serde_json::from_slice(&text).unwrap();
    let file = groups(&golden().join(golden_json["batch"].as_str().unwrap()));
    let (groups, mixtures) = mixed(&golden_json, file);
    let members: Vec<&Group> = groups.iter().collect();
    let mixed_rows: usize = mixtures.iter().map(|mixture| mixture.rows(&members)).sum();
    let mut totals = StepTotals::of(&groups);
    totals.answer_tokens[Role::Mixed] = mixed_rows;
    for case in golden_json["cases"].as_array().unwrap() {
        let plain = budget(&groups);
        let (rows, head_rows) = (plain.rows + mixed_rows, plain.head_rows + mixed_rows);
        let budget = Budget { rows, head_rows, mixed: true, ..plain };
        let checkpoint = golden().join(case["checkpoint"].as_str().unwrap());
        let mut trainer = engine.trainer(&checkpoint, budget, objective(&golden_json));
        let batch = pack_mixed(&members, trainer.objective.spans(), &mixtures);
        trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
        let ticket = trainer.micro_batch(&batch, totals, false).unwrap();
        let log_probs: Vec<f32> = trainer.backend.collect(ticket).unwrap();
        let mut evaluation = Evaluation::new(trainer.objective.as_ref(), totals);
        evaluation.add(&batch.groups, log_probs);
        let (loss, metrics) = evaluation.finish();
        let off = |got: f64, name: &str| (got - case[name].as_f64().unwrap()).abs();
        let terms =
            [off(metrics.mean("nll_loss").unwrap(), "nll"), off(metrics.mean("mix_loss").unwrap(), "mix")];
        let loss = off(loss, "loss").max(terms[0]).max(terms[1]);
        let mut distance = Distance { loss, gradient: 0.0, cosine: 1.0 };
        let file = case["file"].as_str().unwrap();
        let bytes = std::fs::read(golden().join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let gradients = trainer.model.gradients().unwrap();
        let ours = parameters(&mut trainer, gradients);
        assert_eq!(ours.len(), tensors.len());
        for (name, ours) in &ours {
            let theirs = stored(&tensors, &format!("grad.{name}"));
            distance.gradient = distance.gradient.max(relative(ours, &theirs));
            distance.cosine = distance.cosine.min(cosine(ours, &theirs));
        }
        println!("{file}: {distance:?}");
        judge(case, distance);
    }
}

fn check_f32(case: &Value, distance: Distance) {
    assert!(distance.loss < 1e-5 && distance.gradient < GRADIENT, "{case}: {distance:?}");
}

#[test]
fn a_step_on_the_cpu() {
    every_case(&CPU, check_f32);
}

#[test]
fn a_step_on_cuda_in_f32() {
    on_cuda("sftmix::a_step_on_cuda_in_f32", &[("CUDA_SIM_CHECK", "off")], || every_case(&F32, check_f32));
}

/// No further off than half as much again as PyTorch in bf16.
#[test]
fn a_step_on_cuda_in_bf16() {
    assert_eq!(BF16.precision, Precision::BF16);
    on_cuda("sftmix::a_step_on_cuda_in_bf16", &[("CUDA_SIM_CHECK", "off")], || {
        every_case(&BF16, |case, distance| {
            let pytorch = |key: &str| case["bf16"][key].as_f64().unwrap();
            let limit = (TIMES_PYTORCH * pytorch("max_relative_l2")).max(0.1);
            let cosine = (1.0 - TIMES_PYTORCH * (1.0 - pytorch("min_cosine"))).min(0.997);
            let loss = (TIMES_PYTORCH * pytorch("loss_abs")).max(0.02);
            assert!(distance.loss < loss && distance.gradient < limit, "{case}: {distance:?}");
            assert!(distance.cosine > cosine, "{case}: {distance:?}");
        });
    });
}
