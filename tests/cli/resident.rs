//! `--reference-mode resident`: the same run as with log-probs that are computed beforehand, to the bit.

use serde_json::{Value, json};

use crate::golden::*;
use crate::resume::{assert_same_run, killed_after};
use crate::shell::Shell;

/// The golden pairs with a weight for every token, and as labelled completions.
fn write_data(shell: &Shell) {
    let rows = |change: &dyn Fn(usize, &mut serde_json::Map<String, Value>)| -> String {
        let mut all = lines(batch("train12"));
        all.iter_mut().enumerate().for_each(|(index, row)| change(index, row));
        all.into_iter().map(|row| Value::Object(row).to_string() + "\n").collect()
    };
    shell.write(
        "weighted.jsonl",
        rows(&|_, row| {
            for answer in ["chosen", "rejected"] {
                let tokens = row[&format!("{answer}_input_ids")].as_array().unwrap().len();
                let weights: Vec<f64> = (0..tokens).map(|token| 1.0 / (1 + token % 3) as f64).collect();
                row.insert(format!("{answer}_weights"), json!(weights));
            }
        }),
    );
    shell.write(
        "labelled.jsonl",
        rows(&|index, row| {
            row.remove("rejected_input_ids");
            row.insert("label".to_owned(), json!(index % 3 > 0));
        }),
    );
}

fn line(mode: &str, more: &str) -> String {
    format!(
        "train --model {} --learning-rate 1e-3 --max-steps 5 --save-steps 3 --eval-steps 2 --reference-cache cache-{mode} \
         --reference-mode {mode} --output {mode}/run {more}",
        checkpoint("gqa-llama3")
    )
}

#[test]
fn a_resident_reference_gives_the_bits_of_a_cached_one() {
    let [pairs, held_out] = ["train12", "mixed6"].map(batch);
    let [initial, other] = ["gqa-llama3", "gqa-llama3-reference"].map(checkpoint);
    let held_out = format!("--eval-data {held_out}");
    for (objective, data) in [
        // Micro-batches of every kind, references of every number and need, couplings of every kind.
        ("dpo", format!("{pairs} {held_out} --batch-size 4 --max-tokens-per-batch 64")),
        ("ipo", format!("{pairs} {held_out} --reference {other} --batch-size 4 --recompute blocks")),
        (
            "mrpo",
            format!(
                "{pairs} {held_out} --reference {initial} --reference {other} --per-device-train-batch-size 1 \
                 --gradient-accumulation-steps 4"
            ),
        ),
        ("dpo", format!("{pairs} {held_out} --ld-alpha 0.3 --batch-size 4 --head-rows 5")),
        ("tis_dpo", "weighted.jsonl --eval-split 0.2 --batch-size 4 --dtype bf16".to_owned()),
        ("aot", format!("{pairs} {held_out} --batch-size 5 --max-tokens-per-batch 64")),
        ("kto", "labelled.jsonl --eval-split 0.2 --batch-size 6 --max-tokens-per-batch 100".to_owned()),
    ] {
        let shell = Shell::new();
        write_data(&shell);
        let more = format!("--objective {objective} --data {data}");
        let cached = done(&shell, &line("cached", &more));
        let resident = done(&shell, &line("resident", &more));
        assert!(cached.stderr.contains("rows computed, kept in cache-cached/"), "{}", cached.stderr);
        assert!(!resident.stderr.contains("rows computed"), "{}", resident.stderr);
        assert!(!shell.path().join("cache-resident").exists(), "{more}: something was kept");
        assert_same_run(&shell.path().join("cached/run"), &shell.path().join("resident/run"));
        // And goes on from a checkpoint, of either kind.
        let killed = killed_after(&shell, &shell.path().join("cached/run"), 3);
        let resumed = line("resident", &more).replace("resident/run", killed.to_str().unwrap());
        let resumed = done(&shell, &format!("{resumed} --resume"));
        assert!(resumed.stderr.contains("resuming after step 3"), "{}", resumed.stderr);
        assert_same_run(&shell.path().join("resident/run"), &killed);
    }
}

/// Weights of the reference on the device and a forward pass more per step: nothing else.
#[test]
fn a_plan_prices_resident_references() {
    let shell = Shell::new();
    let [initial, other] = ["gqa-llama3", "gqa-llama3-reference"].map(checkpoint);
    let plan = |more: &str| -> Value {
        let line = format!(
            "plan --json --model {initial} --data {} --eval-data {} --batch-size 4 --max-steps 6 {more}",
            batch("train12"),
            batch("train12")
        );
        serde_json::from_str(&done(&shell, &line).stdout).unwrap()
    };
    let cached = plan("--objective dpo");
    let constants = |plan: &Value| plan["arenas"]["reference: constants and state"].as_u64().unwrap();
    for (more, references) in [
        ("--objective dpo".to_owned(), 1),
        (format!("--objective mrpo --reference {other} --reference {initial}"), 2),
    ] {
        let resident = plan(&format!("{more} --reference-mode resident"));
        let weights = cached["arenas"]["weights"].as_u64().unwrap();
        assert_eq!(resident["arenas"]["reference: weights"], references * weights);
        let more = references * weights + constants(&resident);
        assert_eq!(resident["total_bytes"], cached["total_bytes"].as_u64().unwrap() + more);
        for (arena, bytes) in cached["arenas"].as_object().unwrap() {
            assert_eq!(resident["arenas"][arena], *bytes, "{arena}");
        }
        // Two epochs, two thirds of a training step's backward and forward pass each; one evaluation is a forward pass
        // of every model.
        let flops = |plan: &Value, what: &str| plan["flops"][what]["total"].as_u64().unwrap();
        assert_eq!(flops(&resident, "training"), flops(&cached, "training"));
        assert_eq!(3 * flops(&resident, "reference"), references * flops(&cached, "training"));
        assert_eq!(flops(&resident, "evaluation"), (1 + references) * flops(&cached, "evaluation"));
        assert_eq!(
            (&resident["reference_mode"], &resident["reference_bytes"]),
            (&json!("resident"), &Value::Null)
        );
    }
    // Without data as well.
    let line = format!("plan --json --model {initial} --objective dpo --reference-mode resident");
    let outline: Value = serde_json::from_str(&done(&shell, &line).stdout).unwrap();
    assert_eq!(outline["arenas"]["reference: weights"], outline["arenas"]["weights"]);
    let table = done(&shell, &line.replace("--json", "")).stdout;
    assert!(table.contains("\nreference: weights "), "{table}");
}

#[test]
fn what_a_resident_reference_does_not_go_with_is_refused() {
    let shell = Shell::new();
    let mut rows = lines(batch("train12"));
    for (name, value) in [("ref_chosen_logps", -3.5), ("ref_rejected_logps", -4.5)] {
        rows[4].insert(name.to_owned(), json!(value));
    }
    let rows = rows.into_iter().map(|row| Value::Object(row).to_string() + "\n").collect::<String>();
    shell.write("given.jsonl", rows);
    for (more, words) in [
        ("--objective dpo --data given.jsonl".to_owned(), "given.jsonl:5 brings reference log-probs"),
        (
            format!("--objective dpo --data {} --eval-data given.jsonl", batch("train12")),
            "choose --reference-mode cached, which takes them",
        ),
        (
            format!("--objective asft --data {}", batch("train12")),
            "--reference-mode resident is given, and asft uses no reference model",
        ),
        (format!("--objective dpo --data {} --reference-mode online", batch("train12")), "resident"),
    ] {
        let line = format!(
            "train --model {} --max-steps 1 --output run --reference-mode resident {more}",
            checkpoint("gqa-llama3")
        );
        let line =
            if more.contains("online") { line.replacen("--reference-mode resident ", "", 1) } else { line };
        let ran = typed(&shell, &line);
        assert!(ran.code == 2 && ran.stderr.contains(words), "{line}: {}\n{}", ran.code, ran.stderr);
        assert!(!shell.path().join("run").exists(), "{line}");
    }
}
