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
    let short = "--max-length 128";
    assert!(total(&format!("{short} --max-tokens-per-batch 1024")) < total(short));
    let head =
        |more: &str| number(&plan(&shell, &format!("--model {model} {more}"))["arenas"]["head scratch"]);
    assert!(head("--head-rows 64") < head(""));
    assert!(total(&format!("{short} --max-tokens-per-batch 256")) < whole);
}

/// IFT's first pass is a forward pass of every step, and has its lists in memory; without a mix there is neither.
#[test]
fn the_first_pass_of_ift_is_planned() {
    let shell = Shell::new();
    let (model, data) = (checkpoint("gqa-llama3"), batch("train12"));
    let words = format!("--model {model} --data {data} --batch-size 4 --max-steps 6 --objective ift");
    let total = |plan: &Value, what: &str| number(&plan["flops"][what]["total"]);
    let mixed = plan(&shell, &words);
    assert!(total(&mixed, "training") > 0);
    assert_eq!(total(&mixed, "training"), 3 * total(&mixed, "scoring"));
    assert_eq!(number(&mixed["flops"]["total"]), 4 * total(&mixed, "scoring"));
    let plain = plan(&shell, &format!("{words} --lambda 0"));
    assert_eq!((total(&plain, "scoring"), total(&plain, "training")), (0, total(&mixed, "training")));
    let names = |plan: &Value| -> Vec<String> {
        let tensors = plan["tensors"].as_array().unwrap().iter();
        tensors.map(|tensor| tensor["name"].as_str().unwrap().to_owned()).collect()
    };
    let more = |name: &str| {
        names(&mixed).iter().any(|own| own == name) && !names(&plain).iter().any(|own| own == name)
    };
    assert!(more("mixed token ids") && more("places of scored tokens"));
    let table = done(&shell, &format!("plan {words}")).stdout;
    assert!(table.contains("of a first pass without gradients"), "{table}");
}

/// Lengths of prompt, chosen and rejected answer of every row of a file of token ids.
fn lengths(file: &str) -> Vec<[u64; 3]> {
    let columns = ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"];
    lines(file).iter().map(|row| columns.map(|column| row[column].as_array().unwrap().len() as u64)).collect()
}

#[test]
fn the_operations_of_a_run_are_those_of_its_pairs() {
    let shell = Shell::new();
    let (model, data) = (checkpoint("gqa-llama3"), batch("train12"));
    // Two epochs, each pair twice; held out are the same pairs.
    let words = format!(
        "--model {model} --data {data} --eval-data {data} --eval-steps 2 --batch-size 4 --max-steps 6 --objective dpo"
    );
    let found = plan(&shell, &words);
    let (mut tokens, mut scored, mut seen) = (0, 0, 0);
    for [prompt, chosen, rejected] in lengths(&data) {
        tokens += prompt + chosen + rejected;
        scored += chosen + rejected;
        // A token sees all before it in its own sequence, and itself; the prompt's are computed once.
        seen += (1..=prompt).sum::<u64>();
        seen += (1..=chosen).map(|token| prompt + token).sum::<u64>();
        seen += (1..=rejected).map(|token| prompt + token).sum::<u64>();
    }
    // Two layers of (64 + 32 + 32) x 32 + 32 x 64 attention and 3 x 32 x 32 feed-forward; four heads of 16; 96 x 32 head.
    let blocks = 2 * ((64 + 32 + 32) * 32 + 32 * 64 + 3 * 32 * 32);
    let forward = [2 * blocks * tokens, 2 * 96 * 32 * scored, 4 * 2 * 64 * seen];
    let check = |what: &str, times: u64| {
        let keys = ["blocks", "head", "attention"];
        assert_eq!(keys.map(|key| number(&found["flops"][what][key])), forward.map(|x| times * x), "{what}");
    };
    check("training", 3 * 2);
    check("evaluation", 1);
    check("reference", 2);
    check("recomputed", 0);
    let forward: u64 = forward.iter().sum();
    // Before the first step, after steps 2 and 4, and after the last.
    assert_eq!(found["flops"]["evaluations"], 4);
    assert_eq!(number(&found["flops"]["total"]), (6 + 4 + 2) * forward);
    let per_step = &found["per_step"];
    let mean = |sum: u64| json!(sum as f64 / 6.0);
    assert_eq!(per_step["tokens"], mean(2 * tokens));
    assert_eq!(per_step["scored_tokens"], mean(2 * scored));
    assert_eq!(per_step["flops"], mean(6 * forward));
    assert_eq!((&found["steps"], &found["epochs"], &found["pairs"]), (&json!(6), &json!(2.0), &json!(12)));

    let again = plan(&shell, &format!("{words} --recompute blocks"));
    // Everything forward but the product with each layer's down projection.
    let blocks = 2 * 2 * (blocks - 2 * 32 * 32) * tokens;
    assert_eq!(number(&again["flops"]["recomputed"]["total"]), blocks + 2 * 4 * 2 * 64 * seen);
    let table = done(&shell, &format!("plan {words}")).stdout;
    for line in [
        "6 optimizer steps of 4 pairs: 2 epochs of 12 pairs, 12 held out\n",
        "4 evaluations of ",
        "log-probs ",
    ] {
        assert!(table.contains(line), "no {line}: {table}");
    }
}

/// Objectives that couple all pairs of a step score them first; KTO's mismatched completions go through that pass alone.
#[test]
fn the_first_pass_of_a_coupled_step_counts() {
    let shell = Shell::new();
    let (model, data) = (checkpoint("gqa-llama3"), batch("train12"));
    let of = |words: &str, data: &str| {
        plan(
            &shell,
            &format!("--model {model} --data {data} --batch-size 4 --max-steps 6 --objective {words}"),
        )
    };
    let flops = |plan: &Value, what: &str| number(&plan["flops"][what]["total"]);
    let (dpo, aot) = (of("dpo", &data), of("aot", &data));
    assert_eq!(flops(&dpo, "scoring"), 0);
    assert_eq!(3 * flops(&aot, "scoring"), flops(&aot, "training"));
    let total = |plan: &Value| number(&plan["flops"]["total"]);
    assert_eq!(total(&aot), total(&dpo) + flops(&aot, "scoring"));
    let resident = of("aot --reference-mode resident", &data);
    assert_eq!(flops(&resident, "reference"), flops(&aot, "scoring"));

    let rows: String = lines(&data)
        .into_iter()
        .map(|mut row| {
            row.remove("rejected_input_ids");
            row.insert("label".to_owned(), json!(true));
            Value::Object(row).to_string() + "\n"
        })
        .collect();
    shell.write("labelled.jsonl", rows);
    let kto = of("kto", "labelled.jsonl");
    let all = lengths(&data);
    let next = |index: usize| all[(index + 1) % all.len()][1];
    // Two epochs of a forward pass over prompt, completion and the next row's completion.
    let blocks = 2 * ((64 + 32 + 32) * 32 + 32 * 64 + 3 * 32 * 32);
    let mut forward = 0;
    for (index, [prompt, completion, _]) in all.iter().enumerate() {
        let tokens = prompt + completion + next(index);
        let seen: u64 = (1..=*prompt).sum::<u64>()
            + (1..=*completion).map(|token| prompt + token).sum::<u64>()
            + (1..=next(index)).map(|token| prompt + token).sum::<u64>();
        forward += 2 * blocks * tokens + 2 * 96 * 32 * (completion + next(index)) + 4 * 2 * 64 * seen;
    }
    assert_eq!(flops(&kto, "scoring"), 2 * forward);
    assert!(flops(&kto, "training") < 3 * flops(&kto, "scoring"));
    let table =
        done(&shell, &format!("plan --model {model} --data {data} --objective aot --batch-size 4")).stdout;
    assert!(table.contains("FLOP of a first pass without gradients\n"), "{table}");
}

/// A resumed run keeps the micro-batches that it began with, and its plan says so.
#[test]
fn a_plan_of_a_resumed_run_has_its_micro_batches() {
    let shell = Shell::new();
    let small = "--max-tokens-per-batch 64 --head-rows 9";
    done(&shell, &train12("gqa-llama3", "run", &format!("--max-steps 2 --save-steps 1 {small}")));
    let words = train12("gqa-llama3", "run", "--max-steps 4 --save-steps 1").replacen("train ", "", 1);
    let sizes = |more: &str| {
        let plan = plan(&shell, &format!("{words} {more}"));
        ["tokens", "rows", "head_rows", "total_bytes"].map(|key| plan[key].clone())
    };
    assert_eq!(sizes("--resume"), sizes(small));
    assert_ne!(sizes("--resume"), sizes(""));
    let ran = typed(&shell, &format!("plan {words} --resume --weight-decay 0.5"));
    assert!(ran.code == 2 && ran.stderr.contains("weight_decay"), "{}", ran.stderr);
}

#[test]
fn the_files_of_a_run_are_as_large_as_the_plan_says() {
    for dtype in ["f32", "bf16"] {
        let shell = Shell::new();
        let words = |limit: &str| {
            format!(
                "--model {} --data {} --batch-size 4 --max-steps 5 --save-steps 1 --save-dtype {dtype} {limit} --output run",
                checkpoint("gqa-llama3"),
                batch("train12")
            )
        };
        let disk = plan(&shell, &words("--save-total-limit 2"))["disk"].clone();
        done(&shell, &format!("train {}", words("--save-total-limit 2")));
        let run = shell.path().join("run");
        let size = |folder: &str| -> u64 {
            let files = files(&run.join(folder)).into_iter().filter(|name| name.ends_with(".safetensors"));
            files.map(|name| run.join(folder).join(name).metadata().unwrap().len()).sum()
        };
        let [model, checkpoint] = ["model_bytes", "checkpoint_bytes"].map(|key| number(&disk[key]));
        assert_eq!(run.join("model.safetensors").metadata().unwrap().len(), model);
        assert_eq!([size("checkpoint-4"), size("checkpoint-5")], [checkpoint; 2]);
        assert_eq!(disk["checkpoints_kept"], 2);
        // While the newest is written, two older ones are there.
        assert_eq!(number(&disk["total_bytes"]), 3 * checkpoint);
        let all = plan(&shell, &words(""))["disk"].clone();
        assert_eq!(number(&all["total_bytes"]), 5 * checkpoint + model);
    }
}

/// A file system of its own with so little room, as the folder `small` of the shell's, while `asft` runs; none where the
/// system does not let us.
#[cfg(target_os = "linux")]
fn on_small_disk(shell: &Shell, size: &str, words: &str) -> Option<crate::shell::Ran> {
    std::fs::create_dir_all(shell.path().join("small")).unwrap();
    let mount = format!("mount -t tmpfs -o size={size} none small");
    let inside = |script: &str| {
        let mut command = assert_cmd::Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(shell.path());
        command.output()
    };
    if !inside(&mount).is_ok_and(|tried| tried.status.success()) {
        return None;
    }
    let script =
        format!("{mount} && {} {words} ; code=$? ; ls -A small >&2 ; exit $code", env!("CARGO_BIN_EXE_asft"));
    Some(inside(&script).unwrap().into())
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_for_which_the_disk_has_no_room_does_not_begin() {
    let shell = Shell::new();
    let words =
        |more: &str| format!("{} --save-steps 1 {more}", train12("gqa-llama3", "small/run", "--max-steps 3"));
    let Some(refused) = on_small_disk(&shell, "400k", &words("")) else {
        return crate::skip::skip(
            "cli::a_run_for_which_the_disk_has_no_room_does_not_begin",
            "user namespaces",
            "unshare cannot mount a file system",
        );
    };
    assert_eq!((refused.code, &*refused.stdout), (2, ""), "{}", refused.stderr);
    let error =
        refused.stderr.lines().find(|line| line.starts_with("error: small/run: the run writes up to "));
    let error = error.unwrap_or_else(|| panic!("{}", refused.stderr));
    assert!(error.contains("--save-steps 0 (") && !error.contains("--save-total-limit"), "{error}");
    assert!(refused.stderr.ends_with(&format!("{error}\n")), "nothing was written:\n{}", refused.stderr);

    let done = on_small_disk(&shell, "400k", &words("--save-steps 0")).unwrap();
    assert!(done.code != 0, "--save-steps was given twice");
    let enough = words("").replace("--save-steps 1", "--save-steps 0");
    let done = on_small_disk(&shell, "400k", &enough).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let plan = on_small_disk(&shell, "400k", &words("").replacen("train", "plan", 1)).unwrap();
    assert!(
        plan.stdout.contains("are free at --output. It would fit with --save-steps 0 ("),
        "{}",
        plan.stdout
    );
}

/// A model and data of sizes that are made for a test.
struct Sizes {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    feed_forward: usize,
    vocabulary: usize,
    pairs: usize,
    prompt: usize,
    answers: [usize; 2],
}

impl Sizes {
    /// Writes `NAME.json` and `NAME.jsonl`.
    fn write(&self, shell: &Shell) {
        let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
        for (key, value) in [
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("vocab_size", self.vocabulary),
            ("intermediate_size", self.feed_forward),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.heads / 2),
            ("head_dim", self.hidden / self.heads),
            ("max_position_embeddings", 8192),
        ] {
            config[key] = json!(value);
        }
        config["tie_word_embeddings"] = json!(false);
        shell.write(&format!("{}.json", self.name), config.to_string());
        let ids = |seed: usize, count: usize| {
            (0..count).map(|i| (seed * 7919 + i * 104_729) % self.vocabulary).collect::<Vec<_>>()
        };
        let pair = |row: usize| {
            json!({
                "prompt_input_ids": ids(3 * row, self.prompt),
                "chosen_input_ids": ids(3 * row + 1, self.answers[0]),
                "rejected_input_ids": ids(3 * row + 2, self.answers[1]),
            })
        };
        let rows: String = (0..self.pairs).map(|row| format!("{}\n", pair(row))).collect();
        shell.write(&format!("{}.jsonl", self.name), rows);
    }
}

/// Bytes planned and the most that a run of these flags held, resident files included.
fn planned_and_measured(shell: &Shell, words: &str) -> [f64; 2] {
    let planned = assert_adds_up(&plan(shell, words));
    done(shell, &format!("train {words} --output run --overwrite-output-dir"));
    let last = steps(&shell.path().join("run")).pop().unwrap();
    [planned as f64, last["peak_memory_bytes"].as_f64().unwrap()]
}

#[cfg(target_os = "linux")]
#[track_caller]
fn assert_within_a_tenth(what: &str, [planned, measured]: [f64; 2]) {
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let difference = 100.0 * (measured / planned - 1.0);
    println!("| {what} | {:.1} | {:.1} | {difference:+.1}% |", mebibytes(planned), mebibytes(measured));
    assert!(planned > 300e6, "{what}: too small to tell: {planned}");
    assert!(difference.abs() < 10.0, "{what}: planned {planned}, measured {measured}");
}

/// The program itself, its stacks and the data take some 15 MiB; a folder's mapped weights would take a quarter of the plan
/// if they stayed in memory.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_run_is_what_the_plan_says() {
    let shell = Shell::new();
    let sizes = Sizes {
        name: "small",
        hidden: 256,
        layers: 4,
        heads: 4,
        feed_forward: 512,
        vocabulary: 40_000,
        pairs: 4,
        prompt: 50,
        answers: [60, 60],
    };
    sizes.write(&shell);
    let more = "--data small.jsonl --batch-size 4 --max-steps 2 --save-steps 0";
    assert_within_a_tenth(
        "random weights",
        planned_and_measured(&shell, &format!("--init small.json {more}")),
    );
    copy_folder(&shell.path().join("run"), &shell.path().join("model"));
    assert_within_a_tenth(
        "weights of a folder, DPO",
        planned_and_measured(
            &shell,
            &format!("--model model {more} --objective dpo --reference-cache cache"),
        ),
    );
}

/// The table of `benchmarks/plan.md`.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_larger_runs_is_what_the_plan_says() {
    if std::env::var_os("ASFT_TEST_LONG").is_none() {
        return crate::skip::skip(
            "cli::the_memory_of_larger_runs_is_what_the_plan_says",
            "ASFT_TEST_LONG=1",
            "takes minutes",
        );
    }
    let shell = Shell::new();
    let base = Sizes {
        name: "base",
        hidden: 384,
        layers: 6,
        heads: 6,
        feed_forward: 1024,
        vocabulary: 32_000,
        pairs: 4,
        prompt: 64,
        answers: [192, 128],
    };
    let long = Sizes { name: "long", pairs: 1, prompt: 512, answers: [3000, 1500], ..base };
    let wide = Sizes { name: "wide", hidden: 192, layers: 2, heads: 4, vocabulary: 128_256, ..base };
    for sizes in [&base, &long, &wide] {
        sizes.write(&shell);
    }
    let run = "--batch-size 4 --max-steps 2 --save-steps 0 --reference-cache cache";
    let cases = [
        ("4 pairs of 64 + 192 and 128 tokens", format!("--init base.json --data base.jsonl {run}")),
        (
            "the same, `--recompute blocks`",
            format!("--init base.json --data base.jsonl --recompute blocks {run}"),
        ),
        (
            "1 pair of 512 + 3000 and 1500",
            format!("--init long.json --data long.jsonl --max-length 4096 {run}"),
        ),
        ("vocabulary 128,256, hidden 192, 2 layers", format!("--init wide.json --data wide.jsonl {run}")),
        ("the same, `--head-rows 128`", format!("--init wide.json --data wide.jsonl --head-rows 128 {run}")),
        ("DPO, reference beforehand", format!("--init base.json --data base.jsonl --objective dpo {run}")),
        (
            "evaluation, checkpoints, sampled answers",
            format!(
                "--init base.json --data base.jsonl --eval-data base.jsonl --sample-answers 2 --eval-steps 1 {}",
                run.replace("--save-steps 0", "--save-steps 1")
            ),
        ),
    ];
    for (what, words) in &cases {
        assert_within_a_tenth(what, planned_and_measured(&shell, words));
    }
    copy_folder(&shell.path().join("run"), &shell.path().join("model"));
    assert_within_a_tenth(
        "weights of a folder",
        planned_and_measured(&shell, &format!("--model model --data base.jsonl {run}")),
    );
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

/// Planned with each remedy that a plan proposes, the run fits.
#[track_caller]
fn assert_remedies_help(shell: &Shell, words: &str, expected: &[&str]) {
    let refused = plan(shell, words);
    assert_eq!(refused["fits"], false, "{words}");
    let remedies = refused["remedies"].as_array().unwrap();
    let settings =
        |remedy: &Value| -> Vec<String> { serde_json::from_value(remedy["settings"].clone()).unwrap() };
    let proposed: Vec<String> = remedies.iter().map(|remedy| settings(remedy).join(" ")).collect();
    for expected in expected {
        assert!(proposed.iter().any(|found| found == expected), "{words}: {proposed:?} without {expected}");
    }
    let available = number(&refused["available_bytes"]);
    for remedy in remedies {
        let typed = settings(remedy);
        let replaced: Vec<&str> = typed.iter().map(|setting| setting.split(' ').next().unwrap()).collect();
        let mut words: Vec<&str> = words.split(' ').collect();
        // A setting that was given is replaced.
        while let Some(place) = words.iter().position(|word| replaced.contains(word)) {
            words.drain(place..place + 2);
        }
        let words = format!("{} {}", words.join(" "), typed.join(" "));
        let fitting = plan(shell, &words);
        assert_eq!(fitting["fits"], true, "{words}");
        assert!(number(&remedy["total_bytes"]) <= available, "{remedy}");
    }
    let table = done(shell, &format!("plan {words}")).stdout;
    for found in proposed {
        assert!(table.contains(&found.replace(" --", " and --")), "no {found}:\n{table}");
    }
}

#[test]
fn what_would_make_a_plan_fit_does() {
    let shell = Shell::new();
    llama_3_8b(&shell);
    assert_remedies_help(
        &shell,
        "--init 8b.json --device cuda --gpu-memory 80GB",
        &["--optimizer-state 8bit"],
    );
    // 83 GB are enough for bf16 state, with less to keep for the backward pass.
    assert_remedies_help(
        &shell,
        "--init 8b.json --device cuda --gpu-memory 86GB --recompute none --max-length 2048",
        &[],
    );
    let row = |prompt: usize| {
        let ids = |len: usize| (0..len).map(|id| id % 90).collect::<Vec<_>>();
        json!({ "prompt_input_ids": ids(prompt), "chosen_input_ids": ids(900), "rejected_input_ids": ids(700) }).to_string()
    };
    shell.write("long.jsonl", (1..5).map(|prompt| row(prompt) + "\n").collect::<String>());
    let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    config["max_position_embeddings"] = json!(4096);
    config["vocab_size"] = json!(50_000);
    shell.write("wide.json", config.to_string());
    let words = "--init wide.json --data long.jsonl --device cuda --gpu-memory 1230MB --recompute none";
    assert_remedies_help(&shell, words, &["--head-rows 128", "--max-length 256"]);
    // So little that nothing is enough, and a command that would train says so.
    let table = done(&shell, "plan --init 8b.json --device cuda --gpu-memory 30GB").stdout;
    assert!(
        table.contains("No setting makes it fit: with all of them at their smallest it takes 60."),
        "{table}"
    );
}

#[test]
fn on_cuda_the_arenas_are_the_plan() {
    let shell = Shell::new();
    let links = crate::simulator::links();
    let asft = |line: &str| {
        let ran = shell.asft_with(
            &[("LD_LIBRARY_PATH", links.to_str().unwrap())],
            &line.split_whitespace().collect::<Vec<_>>(),
        );
        assert_eq!(ran.code, 0, "{line}\n{}", ran.stderr);
        ran.stdout
    };
    for (dtype, more) in [("f32", "--objective dpo"), ("bf16", "--recompute blocks --optimizer-state 8bit")] {
        let line =
            train12("gqa-llama3", dtype, &format!("--max-steps 1 --device cuda --dtype {dtype} {more}"));
        let planned: Value =
            serde_json::from_str(&asft(&format!("{} --json", line.replacen("train", "plan", 1)))).unwrap();
        asft(&line);
        let last = steps(&shell.path().join(dtype)).pop().unwrap();
        assert_eq!(last["peak_memory_bytes"], planned["total_bytes"], "{line}");
    }
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
