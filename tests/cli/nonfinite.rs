use std::path::Path;

use serde_json::json;

use crate::bad_input::with_nan;
use crate::golden::*;
use crate::shell::{Ran, Shell};
use crate::simulator::links;

/// Steps of four pairs, of which the third has the only row with token 60 in it.
const GROUPS: u32 = 16;
const BAD_ROW: u32 = 9;
const BAD_STEP: std::ops::Range<u32> = 8..12;

/// A model in which the embedding of token 60 is no number (the head is not tied to it); `pairs.jsonl`, of which one row reads
/// it; and `without.jsonl`, which lacks the four rows of its step.
fn prepare(shell: &Shell) {
    with_nan(shell, "gqa-llama3", "model.embed_tokens.weight", 60 * 32);
    let row = |row: u32| {
        let prompt = if row == BAD_ROW { 60 } else { row + 3 };
        let (chosen, rejected) = ([row + 20, 2], [row + 30, 2]);
        json!({ "prompt_input_ids": [prompt], "chosen_input_ids": chosen, "rejected_input_ids": rejected })
            .to_string()
            + "\n"
    };
    shell.write("pairs.jsonl", (0..GROUPS).map(row).collect::<String>());
    shell.write("without.jsonl", (0..GROUPS).filter(|i| !BAD_STEP.contains(i)).map(row).collect::<String>());
}

fn train(shell: &Shell, device: &str, line: &str) -> Ran {
    let line = format!(
        "train --model model --no-shuffle --batch-size 4 --learning-rate 1e-3 --weight-decay 0.1 --dtype f32 \
         --lr-scheduler-type constant --reference-cache cache --logging-steps 1 --device {device} {line}"
    );
    let links = links();
    let words: Vec<&str> = line.split_whitespace().collect();
    shell.asft_with(&[("LD_LIBRARY_PATH", links.to_str().unwrap())], &words)
}

/// Weights and optimizer of a checkpoint, as they are in its files.
fn state(checkpoint: &Path) -> [Vec<u8>; 2] {
    ["model.safetensors", "asft/optimizer.safetensors"]
        .map(|name| std::fs::read(checkpoint.join(name)).unwrap())
}

#[track_caller]
fn trained(shell: &Shell, device: &str, line: &str) -> Ran {
    let ran = train(shell, device, line);
    assert_eq!(ran.code, 0, "{device}: {line}\n{}", ran.stderr);
    ran
}

#[test]
fn the_state_that_is_saved_has_the_bits_of_the_one_before() {
    let shell = Shell::new();
    prepare(&shell);
    for device in ["cpu", "cuda"] {
        let run = |name: &str| shell.path().join(format!("{device}-{name}"));
        let line = |name: &str, steps: u32| {
            format!(
                "--data pairs.jsonl --max-steps {steps} --save-steps {steps} --output {}",
                run(name).display()
            )
        };
        let ran = train(&shell, device, &line("stops", 4));
        assert_eq!(ran.code, 1, "{device}: {}", ran.stderr);
        let message = "loss or gradient was not finite at step 3 (pairs.jsonl:9, pairs.jsonl:10, pairs.jsonl:11, \
                       pairs.jsonl:12)";
        assert!(ran.stderr.contains(message), "{device}: {}", ran.stderr);
        trained(&shell, device, &line("two", 2));
        let [stopped, two] = ["stops", "two"].map(|name| state(&run(name).join("checkpoint-2")));
        assert!(stopped == two, "{device}: the state is not the one before the step");
        // The remedy may be taken up where the run stopped.
        let ran = trained(&shell, device, &format!("{} --skip-nonfinite --resume", line("stops", 4)));
        assert!(ran.stderr.contains("resuming after step 2") && ran.stderr.contains("step 3 is skipped"));
    }
}

/// Four steps of which the third is skipped leave what three steps leave that never saw its rows. On the CPU and on a device;
/// with coefficients from the device (asft) and from the host (orpo).
#[test]
fn a_skipped_step_leaves_no_trace() {
    let shell = Shell::new();
    prepare(&shell);
    for (device, objective) in [("cpu", "asft"), ("cpu", "orpo"), ("cuda", "asft"), ("cuda", "orpo")] {
        let run = |name: &str| shell.path().join(format!("{device}-{objective}-{name}"));
        let line = |name: &str, data: &str, steps: u32| {
            let output = run(name).display().to_string();
            format!("--data {data} --objective {objective} --max-steps {steps} --output {output}")
        };
        let skipping = line("skips", "pairs.jsonl", 4) + " --skip-nonfinite --save-steps 1";
        let ran = trained(&shell, device, &skipping);
        trained(&shell, device, &(line("without", "without.jsonl", 3) + " --save-steps 3"));
        let [skipped, without] = [("skips", 4), ("without", 3)]
            .map(|(name, step)| state(&run(name).join(format!("checkpoint-{step}"))));
        assert!(skipped == without, "{device} {objective}: the skipped step has left a trace");

        let message = "warning: step 3 is skipped: its loss or gradient was not finite (pairs.jsonl:9, pairs.jsonl:10, \
                       pairs.jsonl:11, pairs.jsonl:12); skipped so far: 1";
        assert!(ran.stderr.contains(message), "{device}: {}", ran.stderr);
        assert!(ran.stdout.contains("\n1 step was skipped, because"), "{}", ran.stdout);
        let lines = lines(run("skips").join("metrics.jsonl"));
        let marks: Vec<_> =
            lines.iter().map(|line| (line["skipped_steps"].as_u64(), line.get("skipped"))).collect();
        assert_eq!(marks, [(Some(0), None), (Some(0), None), (Some(1), Some(&json!(true))), (Some(1), None)]);
        assert!(lines[2]["loss"].is_null() && lines[3]["loss"].is_f64(), "{lines:?}");
        // Data and schedule go on all the same; the loss after the skip is that of the run without.
        let other = steps(&run("without"));
        assert_eq!(lines[3]["loss"], other[2]["loss"]);
        assert!(std::fs::read_to_string(run("skips").join("README.md")).unwrap().contains("skipped"));
    }
}

/// The optimizer's count of updates, which a skipped step does not raise, goes through a checkpoint.
#[test]
fn a_resume_after_a_skipped_step_has_the_same_bits() {
    let shell = Shell::new();
    prepare(&shell);
    let line = |output: &str| {
        format!(
            "--data pairs.jsonl --max-steps 7 --save-steps 1 --skip-nonfinite --output {output} --save-dtype bf16"
        )
    };
    trained(&shell, "cpu", &line("whole"));
    let ran = trained(&shell, "cpu", &format!("{} --resume whole/checkpoint-3", line("run")));
    assert!(ran.stderr.contains("resuming after step 3"), "{}", ran.stderr);
    let [whole, run] = ["whole", "run"].map(|name| shell.path().join(name));
    assert!(state(&whole.join("checkpoint-7")) == state(&run.join("checkpoint-7")));
    // The record of the steps before came along.
    assert_eq!(timeless(&whole), timeless(&run));
    assert_eq!(json(run.join("trainer_state.json")), json(whole.join("trainer_state.json")));
}

#[test]
fn a_run_that_skips_nothing_has_the_bits_of_one_that_may_not() {
    let shell = Shell::new();
    prepare(&shell);
    let line = |output: &str| format!("--data without.jsonl --max-steps 4 --save-steps 4 --output {output}");
    trained(&shell, "cpu", &line("strict"));
    trained(&shell, "cpu", &(line("lenient") + " --skip-nonfinite"));
    let [strict, lenient] = ["strict", "lenient"].map(|name| shell.path().join(name).join("checkpoint-4"));
    assert!(state(&strict) == state(&lenient));
}

#[test]
fn ten_steps_in_a_row_end_the_run_all_the_same() {
    let shell = Shell::new();
    prepare(&shell);
    with_nan(&shell, "gqa-llama3", "model.norm.weight", 0);
    let line = "--data pairs.jsonl --max-steps 30 --skip-nonfinite --output run";
    let ran = train(&shell, "cpu", line);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("not finite in steps 1 to 10, 10 in a row"), "{}", ran.stderr);
    assert!(ran.stderr.contains("run/checkpoint-10"), "{}", ran.stderr);
    let values = |folder: &str| tensors(shell.path().join(folder).join("model.safetensors"));
    for (name, saved) in values("run/checkpoint-10") {
        let before = &values("model")[&name].values;
        assert!(
            saved.values.iter().zip(before).all(|(a, b)| a.to_bits() == b.to_bits()),
            "{name} was updated"
        );
    }
    // It was given up on, so going on gives up at once: nine more would be too many.
    let ran = train(&shell, "cpu", &format!("{line} --resume"));
    assert!(ran.code == 1 && ran.stderr.contains("steps 1 to 11"), "{}", ran.stderr);
}
