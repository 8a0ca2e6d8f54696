//! IFT as the authors' code computes it, by `make_ift.py`: whole steps with mixed inputs against transformers, on the CPU and
//! on CUDA. (The losses as functions of log-probs are compared in `tests/objective/ift.rs`.)

use asft::backend::Backend;
use asft::backend::cuda::CudaBackend;
use asft::backend::probe;
use asft::model::Precision;
use asft::objective::{Parameters, build};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::*;
use super::simulator::on_cuda;
use super::step::{manifest, path_of};
use super::{GRADIENT, LOG_PROB};

const TABLE: &str = "model.embed_tokens.weight";

/// Loss and gradients of every stored step, with the table live and frozen.
fn every_step<B: Backend>(engine: &Engine<B>) {
    let manifest = manifest();
    let golden: Value = serde_json::from_slice(&std::fs::read(golden().join("ift.json")).unwrap()).unwrap();
    let bytes = std::fs::read(super::harness::golden().join("ift.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let steps = golden["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 8);
    for step in steps {
        let name = step["checkpoint"].as_str().unwrap();
        let checkpoint = path_of(&manifest, "checkpoints", name);
        let groups = groups(&path_of(&manifest, "batches", step["batch"].as_str().unwrap()));
        let compute = |policy: &str| {
            let mut parameters = step["parameters"].clone();
            parameters["ift_embedding"] = policy.into();
            let parameters: Parameters = serde_json::from_value(parameters).unwrap();
            let objective = build("ift", &parameters).unwrap();
            compute(&mut engine.trainer(&checkpoint, budget(&groups), objective), &groups)
        };
        let (live, loss) = (compute("live"), step["loss"].as_f64().unwrap());
        let what = format!("{name} {}", step["parameters"]);
        println!("{what}: loss {} for {loss}", live.loss);
        // The literal sum of the paper weighs every log-prob up to 20 times.
        let scale = if step["parameters"]["ift_propagation"] == "paper-linear" { 40.0 } else { 1.0 };
        assert!((live.loss - loss).abs() < scale * LOG_PROB, "{what}: {} for {loss}", live.loss);
        if step["gradients"] == false {
            continue;
        }
        let frozen = compute("frozen");
        assert_eq!(frozen.loss.to_bits(), live.loss.to_bits(), "{what}");
        for (parameter, ours) in &live.gradients {
            let distance = relative(ours, &stored(&tensors, &format!("{name}.{parameter}")));
            println!("  {parameter}: {distance:.1e}");
            assert!(distance < GRADIENT, "{what}: {parameter} is off by {distance:e}");
            let frozen = &frozen.gradients[parameter];
            let apart = format!("{name}.frozen.{parameter}");
            match (parameter == TABLE, tensors.tensor(&apart).is_ok()) {
                (true, true) => {
                    assert!(relative(frozen, &stored(&tensors, &apart)) < GRADIENT, "{what}: {apart}")
                }
                (true, false) => {
                    assert!(frozen.iter().all(|g| *g == 0.0), "{what}: a frozen table's gradient")
                }
                _ => assert_eq!(frozen, ours, "{what}: {parameter} depends on the table's policy"),
            }
        }
    }
}

#[test]
fn steps_of_ift() {
    every_step(&CPU);
}

#[test]
fn steps_of_ift_in_f32_on_cuda() {
    let backend = || CudaBackend::new(probe::cuda(true).unwrap()).unwrap();
    on_cuda("ift::steps_of_ift_in_f32_on_cuda", &[("CUDA_SIM_CHECK", "off")], || {
        every_step(&Engine { backend, precision: Precision::F32 });
    });
}
