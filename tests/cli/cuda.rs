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

/// In bf16, of which the reference keeps no more than the weights; in micro-batches of a pair or two.
#[test]
fn a_resident_reference_gives_the_bits_of_a_cached_one() {
    let shell = Shell::new();
    for objective in ["dpo --max-tokens-per-batch 96", "aot"] {
        let [cached, resident] = ["cached", "resident"].map(|mode| {
            let run = format!("{mode}-{}", &objective[..3]);
            asft(
                &shell,
                &format!(
                    "{} --max-steps 2 --device cuda --reference-mode {mode} --output {run}",
                    train(objective)
                ),
            );
            curve(&shell, &run).into_iter().map(|line| line.map(f64::to_bits)).collect::<Vec<_>>()
        });
        assert_eq!(cached, resident, "{objective}");
    }
}

/// Products over some rows of a weight's gradient; in f32 the CPU's numbers, and in bf16 with the smallest state as well.
#[test]
fn half_fine_tuning_takes_the_same_steps_as_on_the_cpu() {
    let shell = Shell::new();
    for device in ["cpu", "cuda"] {
        let line = format!(
            "{} --max-steps 3 --freeze hft --hft-redraw 1 --device {device} --dtype f32 --output {device}",
            train("asft")
        );
        asft(&shell, &line);
    }
    for (cpu, cuda) in curve(&shell, "cpu").iter().flatten().zip(curve(&shell, "cuda").iter().flatten()) {
        assert!((cpu - cuda).abs() < 1e-5 * cpu.abs(), "{cpu} on the CPU, {cuda} on CUDA");
    }
    let small = "--device cuda --dtype bf16 --optimizer-state 8bit --output small";
    asft(&shell, &format!("{} --max-steps 3 --freeze hft --hft-redraw 1 {small}", train("asft")));
    for (cpu, small) in curve(&shell, "cpu").iter().zip(curve(&shell, "small")) {
        assert!((cpu[0] - small[0]).abs() < 0.05, "{} in f32, {} in bf16", cpu[0], small[0]);
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

/// In bf16, which is what a GPU does by itself, a checkpoint goes to the CPU and back: master weights and moments are f32 on
/// both.
#[test]
fn a_checkpoint_in_bf16_goes_to_the_cpu_and_back() {
    let shell = Shell::new();
    let run = |more: &str| {
        let model = checkpoint("gqa-llama3");
        format!(
            "train --model {model} --data {} --objective asft --batch-size 4 --learning-rate 1e-3 \
                 --lr-scheduler-type constant --save-steps 1 {more}",
            batch("train12")
        )
    };
    asft(&shell, &run("--max-steps 4 --device cpu --output whole"));
    for (steps, device) in [(1, "cuda"), (2, "cpu"), (3, "cuda"), (4, "cuda")] {
        let stderr =
            asft(&shell, &run(&format!("--max-steps {steps} --device {device} --output both --resume")));
        assert!(steps == 1 || stderr.contains(&format!("resuming after step {}", steps - 1)), "{stderr}");
        assert_eq!(stderr.contains("activations in bf16"), device == "cuda", "{stderr}");
    }
    for (whole, both) in curve(&shell, "whole").iter().zip(curve(&shell, "both")) {
        // The distance of PyTorch's bf16 from f64 on this run is 1.5e-2.
        assert!((whole[0] - both[0]).abs() < 1.5e-2 * 1.5, "{} in f32, {} on two devices", whole[0], both[0]);
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
