//! The same comparisons on a CUDA device: f32 against the f64 numbers, bf16 against them within what PyTorch's bf16 reaches
//! (`bf16.json`). Without a real device the stand-in of `cuda-sim/` executes the kernels, its checks off: those watch over
//! every kernel in `tests/ops`.

use asft::backend::cuda::CudaBackend;
use asft::backend::{Backend, Element, probe};
use asft::model::Precision;
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::*;
use super::simulator::on_cuda;
use super::step::{gradient_distance, log_prob_distance, manifest, path_of};
use super::training::{run_distance, stored_run};
use super::{CURVE, GRADIENT, GRADIENT_MEMORISED, LOG_PROB};

fn backend() -> CudaBackend {
    CudaBackend::new(probe::cuda(true).unwrap()).unwrap()
}

/// Everything in f32.
pub const F32: Engine<CudaBackend> = Engine { backend, precision: Precision::F32 };
/// bf16 with f32 master weights.
pub const BF16: Engine<CudaBackend> = Engine { backend, precision: Precision::BF16 };

/// How much further off than PyTorch in bf16 ours may be.
pub const TIMES_PYTORCH: f64 = 1.5;

/// Whether everything is wanted, however long it takes.
pub fn long() -> bool {
    std::env::var_os("ASFT_TEST_LONG").is_some()
}

fn bf16_of_pytorch() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("bf16.json")).unwrap()).unwrap()
}

/// Log-probs, losses and gradients of every case. `judge` gets the case's index and file, the distance of log-probs, and per
/// objective its name and distance.
pub fn every_case<B: Backend>(
    engine: &Engine<B>,
    judge: impl Fn(usize, &str, f64, &[(String, super::step::Distance)]),
) {
    let manifest = manifest();
    for (index, case) in manifest["cases"].as_array().unwrap().iter().enumerate() {
        let checkpoint = path_of(&manifest, "checkpoints", case["checkpoint"].as_str().unwrap());
        let mut groups = groups(&path_of(&manifest, "batches", case["batch"].as_str().unwrap()));
        let file = case["file"].as_str().unwrap();
        let bytes = std::fs::read(golden().join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let log_probs = log_prob_distance(engine, &checkpoint, &groups, &stored(&tensors, "token_logps_all"));
        if let Some(reference) = case["reference"].as_str() {
            groups = with_reference(engine, groups, &path_of(&manifest, "checkpoints", reference));
        }
        let distances = case["gradients_stored"].as_array().unwrap().iter().map(|objective| {
            let objective = objective.as_str().unwrap();
            let gradient = |parameter: &str| stored(&tensors, &format!("grad.{objective}.{parameter}"));
            let loss = case["losses"][objective].as_f64().unwrap();
            let distance = gradient_distance(engine, &checkpoint, &groups, objective, loss, gradient);
            (objective.to_owned(), distance)
        });
        judge(index, file, log_probs, &distances.collect::<Vec<_>>());
    }
}

#[test]
fn log_probs_and_gradients_in_f32() {
    on_cuda("cuda::log_probs_and_gradients_in_f32", &[("CUDA_SIM_CHECK", "off")], || {
        every_case(&F32, |_, file, log_probs, distances| {
            println!("{file}: log-probs within {log_probs:.1e}, {distances:?}");
            assert!(log_probs < LOG_PROB, "{file}: {log_probs:e}");
            let tolerance = if file.contains("memorised") { GRADIENT_MEMORISED } else { GRADIENT };
            for (objective, distance) in distances {
                assert!(
                    distance.loss < 1e-5 && distance.gradient < tolerance,
                    "{file} {objective}: {distance:?}"
                );
            }
        });
    });
}

#[test]
fn log_probs_and_gradients_in_bf16() {
    on_cuda("cuda::log_probs_and_gradients_in_bf16", &[("CUDA_SIM_CHECK", "off")], || {
        let pytorch = bf16_of_pytorch();
        every_case(&BF16, |index, file, log_probs, distances| {
            let theirs = &pytorch["cases"][index];
            assert_eq!(theirs["file"], file);
            let number = |value: &Value| value.as_f64().unwrap();
            let limit = (TIMES_PYTORCH * number(&theirs["token_logps_max_abs"])).max(0.1);
            println!("{file}: log-probs within {log_probs:.1e}, PyTorch {}", theirs["token_logps_max_abs"]);
            assert!(log_probs < limit, "{file}: log-probs are off by {log_probs:e}, allowed {limit:e}");
            for (objective, distance) in distances {
                let theirs = &theirs["gradients"][objective];
                println!("  {objective}: {distance:?}, PyTorch {theirs}");
                let limit = (TIMES_PYTORCH * number(&theirs["max_relative_l2"])).max(0.1);
                let cosine = (1.0 - TIMES_PYTORCH * (1.0 - number(&theirs["min_cosine"]))).min(0.997);
                assert!(distance.gradient < limit, "{file} {objective}: {distance:?}, allowed {limit:e}");
                assert!(distance.cosine > cosine, "{file} {objective}: {distance:?}, allowed {cosine}");
            }
        });
    });
}

/// Logits in f32 are rounded no more: what is left of the distance comes from the hidden state.
#[test]
fn f32_logits_are_no_further_off_than_bf16_ones() {
    on_cuda("cuda::f32_logits_are_no_further_off_than_bf16_ones", &[("CUDA_SIM_CHECK", "off")], || {
        let manifest = manifest();
        let case = &manifest["cases"][0];
        let checkpoint = path_of(&manifest, "checkpoints", case["checkpoint"].as_str().unwrap());
        let groups = groups(&path_of(&manifest, "batches", case["batch"].as_str().unwrap()));
        let bytes = std::fs::read(golden().join(case["file"].as_str().unwrap())).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let exact = Engine { backend, precision: Precision { logits: Element::F32, ..Precision::BF16 } };
        let log_probs =
            |engine| log_prob_distance(engine, &checkpoint, &groups, &stored(&tensors, "token_logps_all"));
        let (plain, exact_logits) = (log_probs(&BF16), log_probs(&exact));
        println!("log-probs within {plain:.1e} from bf16 logits, {exact_logits:.1e} from f32 ones");
        assert!(exact_logits < plain, "{exact_logits:e} from f32 logits, {plain:e} from bf16 ones");
        let gradient = |parameter: &str| stored(&tensors, &format!("grad.asft.{parameter}"));
        let loss = case["losses"]["asft"].as_f64().unwrap();
        let distance = gradient_distance(&exact, &checkpoint, &groups, "asft", loss, gradient);
        println!("{distance:?}");
        assert!(distance.gradient < 0.1 && distance.cosine > 0.997, "{distance:?}");
    });
}

#[test]
fn twenty_steps_in_f32() {
    on_cuda("cuda::twenty_steps_in_f32", &[("CUDA_SIM_CHECK", "off")], || {
        // The plain f32 attention is slow in a simulator.
        let runs = &manifest()["runs"];
        let runs = runs.as_array().unwrap().iter();
        for run in runs.filter(|run| long() || run["checkpoint"] == "mqa-linear-tied") {
            let (checkpoint, groups, name, curve) = stored_run(&F32, run);
            let distance = run_distance(&F32, &checkpoint, groups, &name, &curve, |_| None);
            println!("{} {name}: {distance:?}", checkpoint.display());
            assert!(distance.worst < CURVE, "{} {name}: {distance:?}", checkpoint.display());
        }
    });
}

#[test]
fn twenty_steps_in_bf16() {
    on_cuda("cuda::twenty_steps_in_bf16", &[("CUDA_SIM_CHECK", "off")], || {
        let pytorch = bf16_of_pytorch();
        for (run, theirs) in
            manifest()["runs"].as_array().unwrap().iter().zip(pytorch["runs"].as_array().unwrap())
        {
            let (checkpoint, groups, name, curve) = stored_run(&BF16, run);
            assert_eq!(
                (&run["checkpoint"], name.as_str()),
                (&theirs["checkpoint"], theirs["objective"].as_str().unwrap())
            );
            let distance = run_distance(&BF16, &checkpoint, groups, &name, &curve, |_| None);
            println!("{} {name}: {distance:?}, PyTorch {theirs}", checkpoint.display());
            let number = |key: &str| TIMES_PYTORCH * theirs[key].as_f64().unwrap();
            assert!(distance.worst < number("loss_max_abs"), "{name}: {distance:?}, PyTorch {theirs}");
            assert!(distance.mean < number("loss_mean_abs"), "{name}: {distance:?}, PyTorch {theirs}");
        }
    });
}
