//! Products of bf16 on the CPU (`--dtype bf16`), against the f64 numbers: no further off than what PyTorch reaches under
//! bf16 autocast (`autocast.json`), which rounds the same operands, and results as well.
//!
//! Both distances are the largest, or the mean, of a few random errors, so one may be luckier than the other: [`Ratios`]
//! bounds each, and more closely what they are together.

use std::cell::RefCell;

use serde_json::Value;

use super::cuda::every_case;
use super::harness::*;
use super::step::manifest;
use super::training::{run_distance, stored_run};

/// How much further off than PyTorch ours may be once.
const ONCE: f64 = 2.0;
/// The same of the quadratic mean over all comparisons of one kind.
const TOGETHER: f64 = 1.1;

/// Our distances, and PyTorch's.
#[derive(Default)]
struct Ratios(Vec<(f64, f64)>);

impl Ratios {
    fn add(&mut self, what: &str, ours: f64, theirs: &Value) {
        let theirs = theirs.as_f64().unwrap();
        println!("{what}: {ours:.2e}, PyTorch {theirs:.2e}");
        assert!(ours < ONCE * theirs, "{what}: off by {ours:e}, PyTorch by {theirs:e}");
        self.0.push((ours, theirs));
    }

    fn judge(&self, what: &str) {
        let together = |pick: fn(&(f64, f64)) -> f64| -> f64 {
            (self.0.iter().map(|pair| pick(pair).powi(2)).sum::<f64>() / self.0.len() as f64).sqrt()
        };
        let (ours, theirs) = (together(|pair| pair.0), together(|pair| pair.1));
        println!("{what}: {ours:.2e} together, PyTorch {theirs:.2e}");
        assert!(ours < TOGETHER * theirs, "{what}: {ours:e} together, PyTorch {theirs:e}");
        assert!(ours > 0.1 * theirs, "{what}: {ours:e} together: has anything been rounded?");
    }
}

fn pytorch() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("autocast.json")).unwrap()).unwrap()
}

#[test]
fn log_probs_and_gradients() {
    let pytorch = pytorch();
    let all = RefCell::new([Ratios::default(), Ratios::default(), Ratios::default()]);
    every_case(&CPU_BF16, |index, file, log_probs, distances| {
        let theirs = &pytorch["cases"][index];
        assert_eq!(theirs["file"], file);
        let [of_log_probs, of_gradients, of_angles] = &mut *all.borrow_mut();
        of_log_probs.add(&format!("{file}: log-probs"), log_probs, &theirs["token_logps_max_abs"]);
        for (objective, distance) in distances {
            let theirs = &theirs["gradients"][objective];
            let what = format!("{file} {objective}");
            of_gradients.add(&format!("{what}: gradient"), distance.gradient, &theirs["max_relative_l2"]);
            let angle = Value::from(1.0 - theirs["min_cosine"].as_f64().unwrap());
            of_angles.add(&format!("{what}: 1 - cosine"), 1.0 - distance.cosine, &angle);
        }
    });
    let [of_log_probs, of_gradients, of_angles] = all.into_inner();
    of_log_probs.judge("log-probs");
    of_gradients.judge("gradients");
    of_angles.judge("1 - cosine");
}

#[test]
fn twenty_steps() {
    let pytorch = pytorch();
    let [mut worst, mut mean] = [Ratios::default(), Ratios::default()];
    for (run, theirs) in
        manifest()["runs"].as_array().unwrap().iter().zip(pytorch["runs"].as_array().unwrap())
    {
        let (checkpoint, groups, name, curve) = stored_run(&CPU_BF16, run);
        assert_eq!(
            (&run["checkpoint"], name.as_str()),
            (&theirs["checkpoint"], theirs["objective"].as_str().unwrap())
        );
        let distance = run_distance(&CPU_BF16, &checkpoint, groups, &name, &curve, |_| None);
        let what = format!("{} {name}", run["checkpoint"]);
        worst.add(&format!("{what}: largest distance of a loss"), distance.worst, &theirs["loss_max_abs"]);
        mean.add(&format!("{what}: mean distance"), distance.mean, &theirs["loss_mean_abs"]);
    }
    worst.judge("largest distance of a loss");
    mean.judge("mean distance of a loss");
}
