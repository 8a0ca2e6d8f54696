//! Whole runs with `--device cuda`, on the stand-in that executes the kernels' PTX: the same numbers as on the CPU, and
//! checkpoints that go from one to the other.

use crate::golden::{batch, checkpoint, lines};
use crate::shell::Shell;
use crate::simulator::links;

fn asft(shell: &Shell, line: &str) -> String {
    let links = links();
    let variables = [("LD_LIBRARY_PATH", links.to_str().unwrap())];
    let words: Vec<&str> = line.split_whitespace().collect();
    let ran = shell.asft_with(&variables, &words);
    assert_eq!(ran.code, 0, "{line}\n{}", ran.stderr);
    ran.stderr
}

fn train(objective: &str) -> String {
    format!(
        "train --model {} --data {} --objective {objective} --batch-size 4 --learning-rate 1e-3 --weight-decay 0.1 \
         --lr-scheduler-type constant --reference-cache cache",
        checkpoint("mqa-linear-tied"),
        batch("train12")
    )
}

/// The losses and gradient norms of a run.
fn curve(shell: &Shell, run: &str) -> Vec<[f64; 2]> {
    let lines = lines(shell.path().join(run).join("metrics.jsonl"));
    lines.iter().map(|line| ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap())).collect()
}

#[test]
fn every_objective_takes_the_same_steps_as_on_the_cpu() {
    let shell = Shell::new();
    for objective in ["asft", "sft", "dpo", "orpo"] {
        for device in ["cpu", "cuda"] {
            let line = format!(
                "{} --max-steps 2 --device {device} --dtype f32 --output {objective}-{device}",
                train(objective)
            );
            let stderr = asft(&shell, &line);
            assert_eq!(stderr.contains("device: cuda-sim"), device == "cuda", "{stderr}");
        }
        let [cpu, cuda] = ["cpu", "cuda"].map(|device| curve(&shell, &format!("{objective}-{device}")));
        assert_eq!((cpu.len(), cuda.len()), (2, 2));
        for (cpu, cuda) in cpu.iter().flatten().zip(cuda.iter().flatten()) {
            assert!((cpu - cuda).abs() < 1e-5 * cpu.abs(), "{objective}: {cpu} on the CPU, {cuda} on CUDA");
        }
    }
}

#[test]
fn a_checkpoint_of_one_device_goes_on_on_the_other() {
    let shell = Shell::new();
    asft(&shell, &format!("{} --max-steps 3 --device cpu --output whole", train("asft")));
    let both = format!("{} --save-steps 1 --dtype f32 --output both", train("asft"));
    asft(&shell, &format!("{both} --max-steps 2 --device cuda"));
    let resumed = asft(&shell, &format!("{both} --max-steps 3 --device cpu --resume"));
    assert!(resumed.contains("resuming after step 2"), "{resumed}");
    for (whole, both) in curve(&shell, "whole").iter().flatten().zip(curve(&shell, "both").iter().flatten()) {
        assert!((whole - both).abs() < 1e-5 * whole.abs(), "{whole} in one go, {both} on two devices");
    }
}

#[test]
fn the_stand_in_is_taken_only_when_asked_for() {
    let shell = Shell::new();
    let line = format!("{} --max-steps 1 --device auto --output auto", train("asft"));
    let stderr = asft(&shell, &line);
    // On a machine with a real device the driver on the library path is the stand-in all the same.
    assert!(
        stderr.contains("device: cpu") && stderr.contains("only the stand-in cuda-sim is there"),
        "{stderr}"
    );
}
