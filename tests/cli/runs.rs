use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use crate::golden::*;
use crate::shell::Shell;

/// The goldens' optimizer: every number of theirs that a flag can say.
fn golden_settings(hyper: &Value) -> String {
    let number = |key: &str| hyper[key].as_f64().unwrap();
    format!(
        "--no-shuffle --batch-size {} --max-steps {} --learning-rate {} --lr-scheduler-type {} --warmup-steps {} \
         --adam-beta1 {} --adam-beta2 {} --adam-epsilon {} --weight-decay {} --max-grad-norm {}",
        number("pairs_per_step"),
        number("max_steps"),
        number("learning_rate"),
        hyper["lr_scheduler_type"].as_str().unwrap(),
        number("warmup_steps"),
        number("adam_beta1"),
        number("adam_beta2"),
        number("adam_epsilon"),
        number("weight_decay"),
        number("max_grad_norm"),
    )
}

#[test]
fn twenty_steps_of_each_objective_are_those_of_pytorch() {
    let manifest = manifest();
    let hyper = &manifest["hyper"];
    let mut compared = BTreeSet::new();
    for run in manifest["runs"].as_array().unwrap() {
        let shell = Shell::new();
        let word = |key: &str| run[key].as_str().unwrap();
        let objective = match word("objective") {
            "asft" => format!("asft --lambda {}", hyper["asft_lambda"]),
            "sft_token_mean" => "sft".to_owned(),
            "orpo_trl" => format!("orpo --lambda {}", hyper["orpo_lambda"]),
            "dpo" => format!(
                "dpo --beta {} --reference {} --reference-cache cache",
                hyper["dpo_beta"],
                checkpoint(word("reference"))
            ),
            other => panic!("a golden run of {other}, which this test cannot type"),
        };
        let (model, data) = (checkpoint(word("checkpoint")), batch(word("batch")));
        let settings = golden_settings(hyper);
        let what = format!("{} {}", word("checkpoint"), word("objective"));
        done(
            &shell,
            &format!("train --model {model} --data {data} --output run --objective {objective} {settings}"),
        );
        let folder = shell.path().join("run");
        let (ours, theirs) = (steps(&folder), run["steps"].as_array().unwrap());
        assert_eq!(ours.len(), theirs.len(), "{what}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
            let ours = Value::Object(ours.clone());
            assert_eq!(ours["step"], theirs["step"]);
            let off = |key: &str| (number(&ours, key) - number(theirs, key)).abs();
            assert!(off("loss") < 1e-5, "{what}: {ours} is not {theirs}");
            assert!(off("learning_rate") < 1e-15, "{what}: {ours} is not {theirs}");
            assert!(off("grad_norm") < 1e-4 * number(theirs, "grad_norm"), "{what}: {ours} is not {theirs}");
        }
        let Some(file) = run["final_weights"].as_str() else { continue };
        let (ours, theirs) =
            (tensors(folder.join("model.safetensors")), tensors(repository(&format!("tests/golden/{file}"))));
        for (name, ours) in ours {
            let stored = &theirs[&format!("train_final.{}.{name}", word("objective"))].values;
            let distance = relative(&ours.values, stored);
            assert!(distance < 2e-6, "{what}: {name} is off by {distance:e}");
            compared.insert(format!("{what} {name}"));
        }
    }
    assert!(compared.len() > 60, "only {} final weights were compared", compared.len());
}

/// Names as a set.
fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

const MODEL: [&str; 5] =
    ["README.md", "config.json", "generation_config.json", "model.safetensors", "trainer_state.json"];

#[test]
fn a_run_folder_is_a_model_and_a_record() {
    let shell = Shell::new();
    let eval = batch("mixed6");
    let more = format!("--max-steps 7 --save-steps 3 --eval-data {eval} --eval-steps 2 --sample-answers 2");
    done(&shell, &train12("mqa-linear-tied", "run", &more));
    let run = shell.path().join("run");
    let mut expected = set(MODEL);
    expected.extend(set(["curves.svg", "facts.json", "metrics.jsonl", "run.toml", "samples.jsonl"]));
    for step in [3, 6] {
        let files = MODEL.into_iter().chain(["asft/optimizer.safetensors", "asft/state.json"]);
        expected.extend(files.map(|name| format!("checkpoint-{step}/{name}")));
    }
    assert_eq!(files(&run), expected);

    let all = lines(run.join("metrics.jsonl"));
    let order: Vec<(u64, bool)> =
        all.iter().map(|line| (line["step"].as_u64().unwrap(), line.contains_key("loss"))).collect();
    let (step, eval) = (true, false);
    let expected = [
        (0, eval),
        (1, step),
        (2, step),
        (2, eval),
        (3, step),
        (4, step),
        (4, eval),
        (5, step),
        (6, step),
        (6, eval),
        (7, step),
        (7, eval),
    ];
    assert_eq!(order, expected);
    for line in &all {
        let keys: Vec<&str> = line.keys().map(String::as_str).filter(|key| *key != "step").collect();
        if line.contains_key("loss") {
            assert!(!keys.iter().any(|key| key.starts_with("eval")), "{keys:?}");
            for key in [
                "learning_rate",
                "grad_norm",
                "rewards/chosen",
                "rewards/rejected",
                "rewards/accuracies",
                "rewards/margins",
                "logps/chosen",
                "logps/rejected",
                "nll_loss",
                "mean_token_accuracy",
                "num_tokens",
                "tokens_per_second",
                "peak_memory_bytes",
            ] {
                assert!(line[key].as_f64().is_some(), "no {key} in {keys:?}");
            }
        } else {
            assert!(keys.iter().all(|key| key.starts_with("eval_")), "{keys:?}");
            assert!(line["eval_loss"].is_f64() && line["eval_rewards/accuracies"].is_f64(), "{keys:?}");
        }
    }

    let state = json(run.join("trainer_state.json"));
    assert_eq!((&state["global_step"], &state["max_steps"]), (&7.into(), &7.into()));
    assert_eq!(json(run.join("checkpoint-3/trainer_state.json"))["global_step"], 3);
    let config = json(run.join("config.json"));
    let source = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    for key in
        ["architectures", "hidden_size", "vocab_size", "tie_word_embeddings", "eos_token_id", "rope_theta"]
    {
        assert_eq!(config[key], source[key], "{key}");
    }
    let card = |folder: &Path| std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card(&run).contains("(curves.svg)") && card(&run).contains("| `loss` |"), "{}", card(&run));
    assert!(!card(&run.join("checkpoint-3")).contains("curves.svg"), "a checkpoint has none");
    assert!(std::fs::read_to_string(run.join("curves.svg")).unwrap().starts_with("<svg "));
}

#[test]
fn weights_keep_the_format_of_their_source() {
    for (name, dtype) in
        [("mqa-linear-tied", Dtype::F32), ("mha-bf16-v5", Dtype::BF16), ("gqa-f16-sharded-tied", Dtype::F16)]
    {
        let shell = Shell::new();
        done(&shell, &train12(name, "run", "--max-steps 2 --save-steps 1"));
        done(&shell, &train12(name, "wide", "--max-steps 2 --save-dtype f32"));
        for (folder, dtype) in [("run", dtype), ("run/checkpoint-1", dtype), ("wide", Dtype::F32)] {
            let saved = tensors(shell.path().join(folder).join("model.safetensors"));
            let formats: BTreeSet<String> =
                saved.values().map(|tensor| format!("{:?}", tensor.dtype)).collect();
            assert_eq!(formats, set([&*format!("{dtype:?}")]), "{name} {folder}");
        }
        let (run, wide) = (shell.path().join("run"), shell.path().join("wide"));
        assert_eq!(losses(&run), losses(&wide), "{name}: the format is one of saving only");
        // Rounded once, from f32: nearer than a unit in the last place of the narrow format.
        let wide = tensors(wide.join("model.safetensors"));
        for (tensor, ours) in tensors(run.join("model.safetensors")) {
            let distance = relative(&ours.values, &wide[&tensor].values);
            assert!(distance < 4e-3, "{name} {tensor}: {distance:e}");
        }
    }
}

#[test]
fn run_toml_repeats_the_run() {
    let shell = Shell::new();
    done(&shell, &train12("gqa-llama3", "first", "--max-steps 4 --lambda 0.5 --seed 7"));
    done(&shell, "train --config first/run.toml --output second");
    let [first, second] = ["first", "second"].map(|name| shell.path().join(name));
    assert_eq!(timeless(&first), timeless(&second));
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert_eq!(weights(&first), weights(&second));
}

#[test]
fn threads_and_the_cut_into_parts_decide_nothing() {
    let shell = Shell::new();
    for (name, more) in [
        ("one", "--threads 1 --batch-size 4"),
        ("two", "--threads 2 --batch-size 4"),
        ("parts", "--per-device-train-batch-size 2 --gradient-accumulation-steps 2"),
        ("budget", "--batch-size 4 --max-tokens-per-batch 48"),
    ] {
        let (model, data) = (checkpoint("gqa-llama3"), batch("train12"));
        done(
            &shell,
            &format!(
                "train --model {model} --data {data} --learning-rate 1e-3 --max-steps 5 --output {name} {more}"
            ),
        );
    }
    let folder = |name: &str| shell.path().join(name);
    let weights = |name: &str| std::fs::read(folder(name).join("model.safetensors")).unwrap();
    assert_eq!(timeless(&folder("one")), timeless(&folder("two")));
    assert!(weights("one") == weights("two"), "one and two threads give different weights");
    // Gradients of parts are added up in another order, so the updates agree within f32; the loss of a step is the same
    // to the bit where the weights are.
    for name in ["parts", "budget"] {
        assert_eq!(losses(&folder("one"))[0], losses(&folder(name))[0], "{name}");
        for (ours, whole) in steps(&folder(name)).iter().zip(steps(&folder("one"))) {
            let number = |line: &serde_json::Map<String, Value>| line["loss"].as_f64().unwrap();
            assert!((number(ours) - number(&whole)).abs() < 1e-6 * number(&whole), "{name}: {ours:?}");
        }
        let whole = tensors(folder("one").join("model.safetensors"));
        for (tensor, ours) in tensors(folder(name).join("model.safetensors")) {
            let distance = relative(&ours.values, &whole[&tensor].values);
            assert!(distance < 1e-6, "{name} {tensor}: {distance:e}");
        }
    }
}

#[test]
fn the_seed_decides_weights_and_order() {
    let shell = Shell::new();
    let (init, data) = (format!("{}/config.json", checkpoint("gqa-llama3")), batch("train12"));
    for (name, more) in [("a", "--seed 1"), ("b", "--seed 1"), ("c", "--seed 2")] {
        done(
            &shell,
            &format!(
                "train --init {init} --data {data} --no-shuffle --batch-size 4 --max-steps 2 --output {name} {more}"
            ),
        );
    }
    let weights = |name: &str| std::fs::read(shell.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"), "the same seed gives different bits");
    assert!(weights("a") != weights("c"), "another seed gives the same weights");

    for (name, more) in [
        ("one", "--seed 1"),
        ("other", "--seed 2"),
        ("file-1", "--seed 1 --no-shuffle"),
        ("file-2", "--seed 2 --no-shuffle"),
    ] {
        done(&shell, &train12("gqa-llama3", name, &format!("--max-steps 3 {more}")));
    }
    let losses = |name: &str| losses(&shell.path().join(name));
    assert_ne!(losses("one"), losses("other"), "the seed shuffles");
    assert_eq!(losses("file-1"), losses("file-2"), "nothing is shuffled");
    assert_ne!(losses("one"), losses("file-1"));
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let shell = Shell::new();
    let line = train12("mqa-linear-tied", "run", "--max-steps 1");
    done(&shell, &line);
    let run = shell.path().join("run");
    let before = contents(&run);
    let ran = typed(&shell, &line);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let program = env!("CARGO_BIN_EXE_asft");
    for flag in ["--resume", "--overwrite-output-dir"] {
        let command = format!("  {program} {line} {flag}");
        assert!(ran.stderr.lines().any(|line| line == command), "no {command} in\n{}", ran.stderr);
    }
    assert!(contents(&run) == before, "a file has changed");

    // A mistake in what was typed must not cost the run that is there.
    let mistaken = [
        "--objective dpo --reference nowhere --overwrite-output-dir",
        "--objective orpo --beta 1 --overwrite-output-dir",
        "--eval-data nowhere --overwrite-output-dir",
        "--max-tokens-per-batch 3 --overwrite-output-dir",
    ];
    for more in mistaken {
        assert_eq!(typed(&shell, &format!("{line} {more}")).code, 2, "{more}");
        assert!(contents(&run) == before, "{more} has touched the run");
    }
    std::fs::write(run.join("notes.txt"), "mine").unwrap();
    done(&shell, &format!("{line} --overwrite-output-dir"));
    assert_eq!(files(&run), before.into_keys().collect(), "the folder was deleted first");

    // A run that is overwritten must not delete what it is made from.
    let from_itself = format!(
        "train --model run --data {} --batch-size 4 --max-steps 1 --output run --overwrite-output-dir",
        batch("train12")
    );
    let ran = typed(&shell, &from_itself);
    assert!(ran.code == 2 && ran.stderr.contains("would delete run"), "{}", ran.stderr);

    let other = shell.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for (name, text) in [("thesis.txt", "mine"), ("run.toml", "title = \"another program's\"")] {
        std::fs::write(other.join(name), text).unwrap();
        let before = contents(&other);
        for flag in ["", "--overwrite-output-dir", "--resume"] {
            let ran = typed(&shell, &train12("mqa-linear-tied", "other", flag));
            assert!(ran.code == 2 && ran.stderr.contains("is left alone"), "{flag}: {}", ran.stderr);
            assert!(contents(&other) == before, "{flag} has changed a file");
        }
    }
}

#[test]
fn the_quickstart_starts_and_starts_again() {
    let shell = Shell::new();
    copy_folder(Path::new(&repository("examples")), &shell.path().join("examples"));
    let plan = done(&shell, "plan --config examples/quickstart.toml");
    assert!(
        plan.stdout.contains("840192 parameters") && plan.stdout.contains("800 optimizer steps"),
        "{}",
        plan.stdout
    );
    let line = "train --config examples/quickstart.toml --max-steps 3 --eval-steps 0 --sample-answers 2";
    let [first, second] = [(); 2].map(|()| done(&shell, line));
    let lines: Vec<&str> = first.stdout.lines().collect();
    let run = shell.path().join("runs/quickstart");
    let evaluations: Vec<f64> = lines_of_evaluations(&run);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let accuracy =
        lines.iter().find(|line| line.contains("reward accuracy")).map(|line| words(line)).unwrap();
    let shown = evaluations.iter().map(|accuracy| format!("{accuracy:.3}"));
    assert_eq!(accuracy[2..], shown.collect::<Vec<_>>(), "before and after, as metrics.jsonl has them");
    assert!((evaluations[0] - 0.5).abs() < 0.1, "random weights prefer neither answer: {evaluations:?}");
    assert!(first.stdout.starts_with("\nTrained 3 steps in "), "{}", first.stdout);
    assert!(lines.contains(&"Curves  runs/quickstart/curves.svg"), "{lines:?}");
    // The last line can be typed as it stands.
    let next =
        lines.last().unwrap().trim().split_once(" score ").map(|(_, arguments)| format!("score {arguments}"));
    let scored = done(&shell, &next.unwrap());
    assert_eq!(scored.stdout.lines().count(), 256);
    assert!(lines.contains(&"Greedy answers to held-out prompts: 0 of 2 exactly right"), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("  reverse: rain ship bell -> ")), "{lines:?}");
    assert!(first.stderr.contains("evaluation after step 0: ") && !first.stdout.contains("evaluation after"));
    let samples = crate::golden::lines(run.join("samples.jsonl"));
    let steps: Vec<u64> = samples.iter().map(|sample| sample["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 0, 3, 3]);
    assert_eq!(samples[2]["expected"], "bell ship rain");
    assert!(first.stderr.contains("sampled answers after step 3: 0 of 2 exactly right"), "{}", first.stderr);
    // The same but for the seconds in the first line.
    let rest = |text: &str| text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&first.stdout), rest(&second.stdout));
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        let source = std::fs::read(repository(&format!("examples/quickstart/{name}"))).unwrap();
        assert_eq!(std::fs::read(run.join(name)).unwrap(), source, "{name}");
    }
}

/// The reward accuracies of a run's evaluations.
fn lines_of_evaluations(run: &Path) -> Vec<f64> {
    lines(run.join("metrics.jsonl"))
        .iter()
        .filter_map(|line| line.get("eval_rewards/accuracies")?.as_f64())
        .collect()
}
