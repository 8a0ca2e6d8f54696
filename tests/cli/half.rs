//! `--freeze hft`: runs that go on, what a plan says of them, and what is refused.

use asft::train::half::frozen_half;
use serde_json::{Value, json};

use crate::golden::*;
use crate::resume::{assert_same_run, killed_after};
use crate::shell::Shell;

fn line(more: &str) -> String {
    let eval = batch("mixed6");
    train12(
        "gqa-llama3",
        "whole",
        &format!(
            "--max-steps 12 --save-steps 5 --weight-decay 0.1 --eval-data {eval} --eval-steps 4 --logging-steps 3 \
             --freeze hft {more}"
        ),
    )
}

#[test]
fn a_resumed_run_freezes_what_it_would_have_frozen() {
    // Rounds that end with an epoch, between checkpoints, after every step; several micro-batches; a reference.
    for more in [
        "",
        "--hft-redraw 4 --max-tokens-per-batch 64",
        "--hft-redraw 1 --objective dpo --skip-nonfinite",
        "--hft-redraw 7 --recompute blocks --objective orpo",
    ] {
        let shell = Shell::new();
        done(&shell, &line(more));
        let whole = shell.path().join("whole");
        for step in [5, 10] {
            let run = killed_after(&shell, &whole, step);
            let resumed =
                line(more).replace("--output whole", &format!("--output {} --resume", run.display()));
            done(&shell, &resumed);
            assert_same_run(&whole, &run);
        }
    }
}

#[test]
fn a_run_cannot_go_on_with_another_half() {
    let shell = Shell::new();
    done(&shell, &line("--hft-redraw 4"));
    for (changed, setting) in [
        (line("--hft-redraw 3"), "hft_redraw"),
        (line("").replace("--freeze hft", ""), "freeze"),
        (line("--hft-redraw 4 --seed 7"), "seed"),
    ] {
        let changed = changed.replace("--max-steps 12", "--max-steps 13 --resume");
        let ran = typed(&shell, &changed);
        assert!(ran.code == 2 && ran.stderr.contains(setting), "{changed}: {}", ran.stderr);
    }
}

/// Every parameter's bits but those that the rounds so far have learnt are the initial ones.
#[test]
fn what_is_frozen_keeps_the_bits_of_the_checkpoint() {
    let shell = Shell::new();
    done(&shell, &line("--hft-redraw 12 --save-dtype f32"));
    let frozen = frozen_half(2, 42, 0);
    let before = tensors(format!("{}/model.safetensors", checkpoint("gqa-llama3")));
    for (name, after) in tensors(shell.path().join("whole/model.safetensors")) {
        assert_eq!(after.values == before[&name].values, frozen.contains(&name), "{name}");
    }
}

#[test]
fn a_plan_leaves_out_the_products_of_frozen_matrices() {
    let shell = Shell::new();
    let plan = |more: &str| -> Value {
        let line = format!(
            "plan --json --model {} --data {} --batch-size 4 --max-steps 8 --no-shuffle {more}",
            checkpoint("gqa-llama3"),
            batch("train12")
        );
        serde_json::from_str(&done(&shell, &line).stdout).unwrap()
    };
    let all = plan("");
    let tokens: Vec<u64> = lines(batch("train12"))
        .iter()
        .map(|row| {
            let columns = ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"];
            columns.iter().map(|column| row[*column].as_array().unwrap().len() as u64).sum()
        })
        .collect();
    // Steps of four pairs, three an epoch.
    let of_step = |step: usize| tokens[4 * (step % 3)..][..4].iter().sum::<u64>();
    // Of q, k, v, o, and each of the feed-forward's: 64 x 32, 32 x 32, 32 x 32, 32 x 64, 32 x 32.
    let size = |name: &str| match name {
        name if name.contains("q_proj") || name.contains("o_proj") => 64 * 32,
        name if name.contains("norm") => 0,
        _ => 32 * 32,
    };
    for (more, steps_per_round) in [("--freeze hft", 3), ("--freeze half --hft-redraw 2", 2)] {
        let half = plan(more);
        let spared: u64 = (0..8)
            .map(|step| {
                let frozen = frozen_half(2, 42, (step / steps_per_round) as u64);
                2 * frozen.iter().map(size).sum::<u64>() * of_step(step)
            })
            .sum();
        let blocks = |plan: &Value| plan["flops"]["training"]["blocks"].as_u64().unwrap();
        assert_eq!(blocks(&all) - blocks(&half), spared, "{more}");
        assert!(spared * 8 > blocks(&all), "{more}: a sixth of the blocks' work or about that: {spared}");
        assert_eq!(half["total_bytes"], all["total_bytes"], "memory is that of learning everything");
    }
}

#[test]
fn what_half_fine_tuning_does_not_go_with_is_refused() {
    let shell = Shell::new();
    let config = json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 96,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false
    });
    shell.write("config.json", config.to_string());
    let data = batch("train12");
    for (more, words) in [
        ("--hft-redraw 3", "--hft-redraw has no effect without --freeze hft"),
        ("--freeze hft --hft-redraw 0", "is neither epoch nor a number of steps from 1 on"),
        ("--freeze quarter", "hft"),
    ] {
        let line = format!("train --init config.json --data {data} --output run {more}");
        let ran = typed(&shell, &line);
        assert!(ran.code == 2 && ran.stderr.contains(words), "{line}: {}\n{}", ran.code, ran.stderr);
    }
    // up begins at element 24 x 8, within a block.
    let line = format!(
        "plan --init config.json --data {data} --device cuda --gpu-memory 80GB --optimizer-state 8bit --freeze hft"
    );
    let ran = typed(&shell, &line);
    assert!(
        ran.code == 2 && ran.stderr.contains("up_proj.weight does not begin at a multiple of 256"),
        "{}",
        ran.stderr
    );
    done(&shell, &line.replace("--freeze hft", ""));
    done(&shell, &line.replace("8bit", "bf16"));
}
