use serde_json::{Value, json};

use crate::golden::*;
use crate::resume::{assert_same_run, killed_after};
use crate::shell::Shell;

/// The confidences that two golden checkpoints have in the twelve pairs, as a file to train on.
fn prepared(shell: &Shell) {
    let (one, other, data) = (checkpoint("gqa-llama3"), checkpoint("gqa-llama3-reference"), batch("train12"));
    done(
        shell,
        &format!(
            "prepare training-dynamics --model {one} --model {other} --data {data} --output sure.jsonl --device cpu"
        ),
    );
}

#[test]
fn confidence_is_what_transformers_finds() {
    let shell = Shell::new();
    let (one, other, data) = (checkpoint("gqa-llama3"), checkpoint("gqa-llama3-reference"), batch("mixed6"));
    let line =
        format!("prepare training-dynamics --model {one} --model {other} --data {data} --output sure.jsonl");
    let ran = done(&shell, &line);
    assert!(ran.stderr.contains("sure.jsonl: 6 rows made of 6"), "{}", ran.stderr);
    let stored = tensors(repository("tests/golden/cases/gqa-llama3.mixed6.safetensors"));
    let mean = |prefix: &str, row: usize| {
        stored[&format!("{prefix}seq_sum")].values[row] / stored["seq_len"].values[row]
    };
    for (row, (new, old)) in lines(shell.path().join("sure.jsonl")).into_iter().zip(lines(&data)).enumerate()
    {
        let expected = -((-mean("", row)).exp() + (-mean("ref.", row)).exp()) / 2.0;
        let got = new["confidence"].as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < 2e-5, "row {row}: {got}, not {expected}");
        let mut rest = new.clone();
        rest.remove("confidence");
        assert_eq!(rest, old, "the other columns stay");
    }
    // Read again, the column is replaced; a file that is there is not.
    let refused = typed(&shell, &line);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("sure.jsonl exists"), "{}", refused.stderr);
    let again = line.replace(&data, "sure.jsonl").replace("--output sure.jsonl", "--output again.jsonl");
    done(&shell, &again);
    assert_eq!(lines(shell.path().join("again.jsonl")), lines(shell.path().join("sure.jsonl")));
}

#[test]
fn rows_without_a_confidence_are_left_out_by_reason() {
    let shell = Shell::new();
    let row = |chosen: Value| json!({ "prompt_input_ids": [1, 5], "chosen_input_ids": chosen, "id": "x" });
    shell.write(
        "rows.jsonl",
        [row(json!([7, 9, 2])), row(json!([])), row(json!([4]))].map(|row| row.to_string() + "\n").concat(),
    );
    let model = checkpoint("mqa-linear-tied");
    let line = format!("prepare training-dynamics --model {model} --data rows.jsonl --output sure.jsonl");
    let ran = done(&shell, &line);
    assert!(ran.stderr.contains("1 of 3 rows left out"), "{}", ran.stderr);
    assert!(ran.stderr.contains("rows.jsonl:2"), "{}", ran.stderr);
    let rows = lines(shell.path().join("sure.jsonl"));
    assert_eq!(
        rows.iter().map(|row| row["chosen_input_ids"].clone()).collect::<Vec<_>>(),
        [json!([7, 9, 2]), json!([4])]
    );
    let strict = typed(&shell, &format!("{line} --overwrite --strict"));
    assert_eq!(strict.code, 2, "{}", strict.stderr);
    assert_eq!(lines(shell.path().join("sure.jsonl")), rows, "nothing has happened to the file");
    let none = typed(&shell, "prepare training-dynamics --data rows.jsonl --output none.jsonl");
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("--model"), "{}", none.stderr);
}

#[test]
fn a_resumed_run_has_the_bits_of_one_that_never_stopped() {
    let shell = Shell::new();
    prepared(&shell);
    let (model, eval) = (checkpoint("gqa-llama3"), shell.path().join("sure.jsonl"));
    let line = format!(
        "train --model {model} --data sure.jsonl --objective sftmix --batch-size 4 --learning-rate 1e-3 --mu 0.6 --max-steps 12 \
         --save-steps 5 --eval-data {} --eval-steps 4 --max-tokens-per-batch 120 --device cpu",
        eval.display()
    );
    done(&shell, &format!("{line} --output whole"));
    let whole = shell.path().join("whole");
    for step in [5, 10] {
        let run = killed_after(&shell, &whole, step);
        done(&shell, &format!("{line} --output {} --resume", run.display()));
        assert_same_run(&whole, &run);
    }
    for step in steps(&whole) {
        assert!(step.contains_key("mix_loss") && step.contains_key("nll_loss"), "{step:?}");
        let number = |key: &str| step[key].as_f64().unwrap();
        let sum = number("nll_loss") + 0.6 * number("mix_loss");
        assert!((number("loss") - sum).abs() < 1e-9, "{step:?}");
    }
    // An evaluation mixes nothing.
    let evaluations: Vec<_> = lines(whole.join("metrics.jsonl"));
    let evaluations: Vec<_> = evaluations.iter().filter(|line| line.contains_key("eval_loss")).collect();
    assert!(evaluations.len() > 2);
    for line in evaluations {
        // One sum of shares, one quotient of sums: the last bit may differ.
        let number = |key: &str| line[key].as_f64().unwrap();
        let (loss, nll) = (number("eval_loss"), number("eval_nll_loss"));
        assert!((loss / nll - 1.0).abs() < 1e-14, "{line:?}");
        assert!(!line.contains_key("eval_mix_loss"));
    }
}

#[test]
fn without_weight_a_run_is_that_of_sft() {
    let shell = Shell::new();
    prepared(&shell);
    let train = |objective: &str, output: &str| {
        let model = checkpoint("mqa-linear-tied");
        done(
            &shell,
            &format!(
                "train --model {model} --data sure.jsonl --objective {objective} --batch-size 3 --learning-rate 1e-3 --max-steps 5 \
                 --output {output} --device cpu"
            ),
        );
        let run = shell.path().join(output);
        (losses(&run), std::fs::read(run.join("model.safetensors")).unwrap())
    };
    assert!(train("sftmix --mu 0", "mixed") == train("sft", "plain"));
}

#[test]
fn the_first_loss_has_the_same_bits_however_the_step_is_cut() {
    let shell = Shell::new();
    prepared(&shell);
    let model = checkpoint("gqa-llama3");
    let first = |more: &str, output: &str| {
        let line = format!(
            "train --model {model} --data sure.jsonl --objective sftmix --learning-rate 0 --max-steps 1 \
             --output {output} --device cpu {more}"
        );
        done(&shell, &line);
        losses(&shell.path().join(output))
    };
    let whole = first("--batch-size 12", "whole");
    assert_eq!(first("--batch-size 12 --max-tokens-per-batch 110", "small"), whole);
    assert_eq!(first("--gradient-accumulation-steps 6 --per-device-train-batch-size 2", "parts"), whole);
    assert_eq!(first("--batch-size 12 --head-rows 3", "rows"), whole);
}

#[test]
fn what_cannot_be_mixed_is_refused_and_mixed_rows_are_planned() {
    let shell = Shell::new();
    prepared(&shell);
    let model = checkpoint("gqa-llama3");
    let line = |more: &str| format!("train --model {model} --objective sftmix --output run {more}");
    let odd = typed(&shell, &line("--data sure.jsonl --batch-size 3"));
    assert_eq!(odd.code, 2);
    assert!(odd.stderr.contains("--batch-size must be even"), "{}", odd.stderr);
    let unsure = typed(&shell, &line(&format!("--data {} --batch-size 4", batch("train12"))));
    assert_eq!(unsure.code, 2);
    assert!(unsure.stderr.contains("confidence"), "{}", unsure.stderr);
    let rows = |objective: &str, data: &str| {
        let line = format!(
            "plan --model {model} --objective {objective} --batch-size 12 --max-steps 1 --json {data}"
        );
        let plan: Value = serde_json::from_str(&done(&shell, &line).stdout).unwrap();
        let tensors = plan["tensors"].as_array().unwrap();
        let tensor = tensors.iter().find(|tensor| tensor["name"] == "token log-probs").unwrap();
        tensor["shape"][0].as_u64().unwrap()
    };
    // Every chosen token, and what the six pairs have in common beside.
    let chosen: u64 = lines(shell.path().join("sure.jsonl"))
        .iter()
        .map(|row| row["chosen_input_ids"].as_array().unwrap().len() as u64)
        .sum();
    let (plain, mixed) = (rows("sft", "--data sure.jsonl"), rows("sftmix", "--data sure.jsonl"));
    assert_eq!(plain, chosen);
    assert!(mixed > chosen && mixed <= chosen + chosen / 2, "{mixed} rows for {chosen} tokens");
    let unknown = rows("sft", "--max-length 64");
    assert_eq!(rows("sftmix", "--max-length 64"), unknown + unknown / 2);
}
