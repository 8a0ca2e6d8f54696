use serde_json::{Value, json};

use crate::golden::*;
use crate::shell::Shell;

fn plan(shell: &Shell, words: &str) -> Value {
    serde_json::from_str(&done(shell, &format!("plan {words} --json")).stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number of bytes"))
}

/// The sums of a plan, added up from its tensors; its total.
#[track_caller]
fn assert_adds_up(plan: &Value) -> u64 {
    let (mut lasting, mut scratch) = (0, 0);
    let mut seen = 0;
    for (arena, bytes) in plan["arenas"].as_object().unwrap() {
        let tensors = plan["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["arena"] == **arena);
        let (mut sum, mut count) = (0, 0);
        for tensor in tensors {
            let elements: u64 = tensor["shape"].as_array().unwrap().iter().map(number).product();
            let width = match tensor["dtype"].as_str().unwrap() {
                "f64" => 8,
                "f32" | "u32" => 4,
                "bf16" | "u16" => 2,
                "u8" => 1,
                other => panic!("a tensor of {other}"),
            };
            assert_eq!(number(&tensor["bytes"]), elements * width, "{tensor}");
            sum += elements * width;
            count += 1;
        }
        // Tensors start at multiples of 128 bytes.
        assert!(
            (sum..=sum + 127 * count).contains(&number(bytes)),
            "{arena}: {bytes} bytes for tensors of {sum}"
        );
        seen += count;
        if arena.ends_with("scratch") {
            scratch = scratch.max(number(bytes));
        } else {
            lasting += number(bytes);
        }
    }
    assert_eq!(seen, plan["tensors"].as_array().unwrap().len() as u64, "a tensor in no arena");
    assert_eq!(number(&plan["total_bytes"]), lasting + scratch);
    lasting + scratch
}

#[test]
fn a_plan_adds_up_and_the_table_says_the_same() {
    let shell = Shell::new();
    let (model, data) = (checkpoint("gqa-llama3"), batch("train12"));
    for words in [
        format!("--model {model} --data {data} --batch-size 4 --max-steps 3"),
        format!("--model {model} --data {data} --eval-data {data} --sample-answers 5"),
        format!("--model {model}"),
        format!("--init {model}/config.json --max-length 64"),
    ] {
        let json = plan(&shell, &words);
        let total = assert_adds_up(&json);
        assert_eq!(json["steps"].is_u64(), words.contains("--data"), "{words}");
        let table = done(&shell, &format!("plan {words}")).stdout;
        let row = |title: &str| {
            let line = table
                .lines()
                .find(|line| line.starts_with(title))
                .unwrap_or_else(|| panic!("no {title}: {table}"));
            line.split_whitespace().rev().nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(row("total"), total);
        for (arena, bytes) in json["arenas"].as_object().unwrap() {
            if number(bytes) > 0 {
                assert_eq!(row(arena), number(bytes), "{arena}");
            }
        }
        let parameters = format!("{} parameters; ", json["parameters"]);
        assert!(table.starts_with(&parameters), "{table}");
    }
    // 96 x 32 twice, two layers of (64 + 32 + 32) x 32 + 32 x 64 attention, 3 x 32 x 32 feed-forward and two norms, a norm.
    let expected = 2 * 96 * 32 + 2 * ((64 + 32 + 32) * 32 + 32 * 64 + 3 * 32 * 32 + 2 * 32) + 32;
    assert_eq!(plan(&shell, &format!("--model {model}"))["parameters"], expected);
    assert!(!shell.path().join("run").exists());
}

#[test]
fn smaller_batches_and_shorter_sequences_need_less() {
    let shell = Shell::new();
    let model = checkpoint("gqa-llama3");
    let total = |more: &str| assert_adds_up(&plan(&shell, &format!("--model {model} {more}")));
    let whole = total("");
    assert!(total("--max-tokens-per-batch 2048") < whole);
    let head =
        |more: &str| number(&plan(&shell, &format!("--model {model} {more}"))["arenas"]["head scratch"]);
    assert!(head("--head-rows 64") < head(""));
    assert!(total("--max-length 128 --max-tokens-per-batch 256") < total("--max-tokens-per-batch 2048"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_run_is_what_the_plan_says() {
    let shell = Shell::new();
    let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    for (key, value) in [
        ("hidden_size", 256),
        ("num_hidden_layers", 4),
        ("vocab_size", 4000),
        ("intermediate_size", 512),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
    ] {
        config[key] = json!(value);
    }
    shell.write("config.json", config.to_string());
    let ids =
        |seed: u32, count: u32| (0..count).map(|i| (seed * 7919 + i * 104_729) % 4000).collect::<Vec<_>>();
    let pair = |row: u32| {
        json!({
            "prompt_input_ids": ids(3 * row, 50),
            "chosen_input_ids": ids(3 * row + 1, 60),
            "rejected_input_ids": ids(3 * row + 2, 60),
        })
    };
    shell.write("pairs.jsonl", (0..10).map(|row| format!("{}\n", pair(row))).collect::<String>());
    let words = "--init config.json --data pairs.jsonl --batch-size 10 --max-steps 2";
    let planned = assert_adds_up(&plan(&shell, words)) as f64;
    done(&shell, &format!("train {words} --output run"));
    let last = steps(&shell.path().join("run")).pop().unwrap();
    let peak = last["peak_memory_bytes"].as_f64().unwrap();
    // The program itself, its stacks and the data take some 12 MiB besides.
    let fixed = f64::from(24 << 20);
    println!("planned {:.1} MiB, measured {:.1} MiB", planned / 1048576.0, peak / 1048576.0);
    assert!(planned > 100e6, "too small to tell: {planned}");
    assert!(peak > 0.9 * planned && peak < 1.1 * planned + fixed, "planned {planned}, measured {peak}");
}

/// Meta-Llama-3-8B's sizes.
fn llama_3_8b(shell: &Shell) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false,
        "hidden_act": "silu", "torch_dtype": "bfloat16"
    });
    shell.write("8b.json", config.to_string());
}

#[test]
fn eight_billion_parameters_fit_the_gpus_that_they_should() {
    let shell = Shell::new();
    llama_3_8b(&shell);
    for (gpu, state) in [(141_000_000_000, ""), (80_000_000_000u64, "--optimizer-state 8bit")] {
        let words = format!("--init 8b.json --device cuda --gpu-memory {}GB {state}", gpu / 1_000_000_000);
        let json = plan(&shell, &words);
        assert_eq!(json["parameters"], 8_030_261_248u64);
        let total = assert_adds_up(&json);
        assert!(total + (1 << 30) <= gpu, "{words}: {total}");
        let table = done(&shell, &format!("plan {words}")).stdout;
        assert!(table.contains("\nfits: "), "{table}");
    }
    let json = plan(&shell, "--init 8b.json --device cuda --gpu-memory 80GB");
    assert!(assert_adds_up(&json) > 80_000_000_000, "f32 state alone takes more");
    assert_eq!(json["recompute"], "blocks");
    let table = done(&shell, "plan --init 8b.json --device cuda --gpu-memory 80GB").stdout;
    assert!(table.contains("does not fit") && table.contains("--optimizer-state 8bit"), "{table}");
}

#[test]
fn recomputing_saves_what_the_table_says() {
    let shell = Shell::new();
    llama_3_8b(&shell);
    let saved = |level: &str| {
        let words = format!("--init 8b.json --device cuda --max-tokens-per-batch 4096 --recompute {level}");
        let json = plan(&shell, &words);
        let kept = number(&json["arenas"]["activations kept for backward"]);
        assert_eq!(kept, number(&json["activations_by_recompute"][level]));
        kept as f64
    };
    // Per token and layer, in elements of H = 4096: stream 1, norms 2, qkv 1.5, attention 1, middle 1, gate and up 7,
    // swiglu 3.5; what is shared by all layers weighs 1/32.
    let (all, norms, blocks) = (saved("none"), saved("norms"), saved("blocks"));
    assert!((norms / all - (17.0 - 5.5) / 17.0).abs() < 0.03, "{norms} of {all}");
    assert!((blocks / all - 1.0 / 17.0).abs() < 0.07, "{blocks} of {all}");
}

#[test]
fn a_device_refuses_what_it_has_no_kernels_for() {
    let shell = Shell::new();
    let refused = |words: &str| {
        let ran = typed(&shell, words);
        assert_eq!(ran.code, 2, "{words}\n{}", ran.stderr);
        ran.stderr
    };
    let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    config["head_dim"] = json!(48);
    shell.write("odd.json", config.to_string());
    let message = refused("plan --init odd.json --device cuda");
    assert!(message.contains("48 elements") && message.contains("16, 32, 64, 96, 128"), "{message}");
    done(&shell, "plan --init odd.json --device cpu");
    let model = checkpoint("gqa-llama3");
    for (words, says) in [
        ("--device cpu --gpu-memory 80GB", "--gpu-memory is for --device cuda"),
        ("--device cpu --dtype bf16 --optimizer-state 8bit", "--device cuda"),
        ("--device cuda --dtype f32 --optimizer-state 8bit", "goes with --dtype bf16"),
        ("--device cpu --optimizer-state bf16", "goes with --dtype bf16"),
        ("--device cuda --dtype f32 --head-logits bf16", "goes with --dtype bf16"),
    ] {
        let message = refused(&format!("plan --model {model} {words}"));
        assert!(message.contains(says), "{words}: {message}");
    }
}
