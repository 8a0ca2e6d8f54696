use std::path::PathBuf;

use serde_json::json;

use crate::golden::*;
use crate::shell::Shell;

/// Exit code 2, nothing on stdout, no run folder, and these words in the last line that begins with `error:`.
#[track_caller]
pub fn refused(shell: &Shell, line: &str, message: &str) {
    let ran = typed(shell, line);
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{line}\n{}", ran.stderr);
    let error = ran.stderr.lines().find_map(|line| line.strip_prefix("error: "));
    let error = error.unwrap_or_else(|| panic!("no error:\n{}", ran.stderr));
    assert!(error.contains(message), "{error}\ndoes not say\n{message}");
    assert!(!shell.path().join("run").exists(), "{line} has left a run folder");
}

/// `asft train` of a golden checkpoint refuses these flags.
#[track_caller]
fn flags_refused(more: &str, message: &str) {
    refused(&Shell::new(), &train12("gqa-llama3", "run", more), message);
}

/// `asft train`, `asft plan` and, if `scores`, `asft score` refuse this data file, with its name in the message.
#[track_caller]
fn data_refused(text: impl AsRef<[u8]>, scores: bool, message: &str) {
    let shell = Shell::new();
    shell.write("pairs.jsonl", text);
    let input = format!("--model {} --data pairs.jsonl", checkpoint("gqa-llama3"));
    refused(&shell, &format!("train {input} --output run"), message);
    refused(&shell, &format!("plan {input}"), message);
    if scores {
        refused(&shell, &format!("score {input}"), message);
    }
}

/// Every command refuses this model folder.
#[track_caller]
pub fn model_refused(shell: &Shell, model: &str, message: &str) {
    let input = format!("--model {model} --data {}", batch("train12"));
    for line in [format!("train {input} --output run"), format!("plan {input}"), format!("score {input}")] {
        refused(shell, &line, message);
    }
}

/// A copy of a golden checkpoint to be damaged.
pub fn copied(shell: &Shell, name: &str) -> PathBuf {
    copy_folder(checkpoint(name).as_ref(), &shell.path().join("model"))
}

#[test]
fn parameters_that_an_objective_does_not_have() {
    flags_refused("--objective orpo --beta 0.1", "orpo: TRL's beta is --lambda here");
    flags_refused("--objective sft --lambda 0.1", "--lambda is not a parameter of sft");
    flags_refused("--objective asft --label-smoothing 0.1", "--label-smoothing is not a parameter of asft");
    flags_refused("--objective asftt", "unknown objective `asftt` (did you mean `asft`?)");
    flags_refused("--objective asft --beta -1", "asft: --beta = -1, but it must be ");
    let reference = checkpoint("gqa-llama3-reference");
    flags_refused(
        &format!("--reference {reference}"),
        "--reference is given, and asft uses no reference model; leave it out, or choose --objective dpo",
    );
}

#[test]
fn an_output_that_cannot_be_a_folder() {
    let shell = Shell::new();
    shell.write("file", "");
    refused(&shell, &train12("gqa-llama3", "file/run", ""), "file/run");
    refused(
        &shell,
        &train12("gqa-llama3", "file", ""),
        "file is a file, not a folder; choose another --output",
    );
}

#[test]
fn data_that_cannot_be_read() {
    let good = "{\"prompt_input_ids\":[1],\"chosen_input_ids\":[2],\"rejected_input_ids\":[3]}\n";
    data_refused("", false, "no rows in pairs.jsonl");
    data_refused(
        good.replace("[3]", "[]"),
        false,
        "none of the 1 rows of pairs.jsonl can be used: 1 empty rejected (line 1)",
    );
    data_refused(
        format!("{good}{good}{}", &good[..30]),
        true,
        "pairs.jsonl:3: malformed JSON: EOF while parsing a string (column 30); each line must hold one whole JSON object",
    );
    data_refused(format!("{good}[1]\n"), true, "pairs.jsonl:2: expected a JSON object, found ");
    data_refused(
        format!("{good}{}", good.replace("rejected_", "loser_")),
        true,
        "pairs.jsonl:2: column \"rejected_input_ids\" is missing; the row has prompt_input_ids, chosen_input_ids, \
         loser_input_ids",
    );
    data_refused(
        good.replace("[3]", "\"three\""),
        true,
        "pairs.jsonl:1: column \"rejected_input_ids\" holds ",
    );
    data_refused(good.replace("[3]", "[-3]"), true, "pairs.jsonl:1: column \"rejected_input_ids\"");
    data_refused(
        good.replace("[3]", "[3, 96]"),
        true,
        "pairs.jsonl:1: column \"rejected_input_ids\" has token id 96 at position 1, but the model's vocabulary has 96",
    );
    let text = json!({ "prompt": "a", "chosen": "b", "rejected": "c" });
    data_refused(
        format!("{text}\n"),
        true,
        "pairs.jsonl:1: the row holds text, but the model folder has no tokenizer.json (rows of *_input_ids need none)",
    );
    data_refused(b"{\"prompt\":\"\xff\"}\n", true, "pairs.jsonl:1: invalid UTF-8 at byte 12");
    let shell = Shell::new();
    let input = format!("--model {} --data nowhere.jsonl", checkpoint("gqa-llama3"));
    for line in [format!("train {input} --output run"), format!("score {input}")] {
        refused(&shell, &line, "cannot read nowhere.jsonl");
    }
}

#[test]
fn model_folders_that_are_none() {
    let shell = Shell::new();
    model_refused(&shell, "nowhere", "nowhere: there is no such folder");
    std::fs::create_dir(shell.path().join("empty")).unwrap();
    model_refused(&shell, "empty", "empty: holds no config.json; give a Hugging Face model folder");

    let model = copied(&shell, "gqa-llama3");
    std::fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).unwrap();
    model_refused(
        &shell,
        "model",
        "model: holds no model.safetensors, only pytorch_model.bin; pickles are not read",
    );
    std::fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    model_refused(&shell, "model", "model: ");

    let weights = std::fs::read(format!("{}/model.safetensors", checkpoint("gqa-llama3"))).unwrap();
    std::fs::write(model.join("model.safetensors"), &weights[..weights.len() - 4]).unwrap();
    model_refused(&shell, "model", "truncated; fetch it again");
    std::fs::write(model.join("model.safetensors"), &weights[..100]).unwrap();
    model_refused(&shell, "model", "model/model.safetensors: ");

    std::fs::write(model.join("model.safetensors"), &weights).unwrap();
    let config = json(model.join("config.json"));
    let with = |key: &str, value: serde_json::Value| {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    };
    with("intermediate_size", json!(48));
    model_refused(&shell, "model", "has shape [32, 32], but config.json asks for ");
    with("num_hidden_layers", json!(3));
    model_refused(&shell, "model", "model: missing tensors \"model.layers.2.");
    with("num_hidden_layers", json!(1));
    model_refused(&shell, "model", "not part of a Llama with this config.json");
    with("model_type", json!("mamba"));
    model_refused(&shell, "model", "model/config.json: ");
    with("max_position_embeddings", json!(16));
    model_refused(
        &shell,
        "model",
        "the longest sequence has 24 tokens and the model was made for 16 (max_position_embeddings); lower --max-length \
         to 16",
    );
    std::fs::write(model.join("config.json"), "{").unwrap();
    model_refused(&shell, "model", "model/config.json");
}

#[test]
fn references_that_do_not_fit() {
    let shell = Shell::new();
    let dpo =
        |reference: &str| train12("gqa-llama3", "run", &format!("--objective dpo --reference {reference}"));
    refused(&shell, &dpo("nowhere"), "nowhere: there is no such folder");
    // Another vocabulary: tied, so that only one tensor changes.
    done(
        &shell,
        &format!(
            "train --init {} --data {} --max-steps 1 --batch-size 1 --output small",
            shell.write("small.json", small_vocabulary()).display(),
            shell.write("pairs.jsonl", pair_of_small_ids()).display()
        ),
    );
    refused(
        &shell,
        &dpo("small"),
        "the reference model in small has a vocabulary of 50 tokens and the model one of 96; a reference must share the \
         model's tokenizer",
    );
}

#[test]
fn a_model_that_is_larger_than_the_memory() {
    let shell = Shell::new();
    let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    for (key, value) in [
        ("hidden_size", 32768),
        ("intermediate_size", 131_072),
        ("num_hidden_layers", 200),
        ("num_attention_heads", 256),
        ("num_key_value_heads", 256),
        ("head_dim", 128),
    ] {
        config[key] = json!(value);
    }
    shell.write("huge.json", config.to_string());
    let input = format!("--init huge.json --data {} --device cpu", batch("train12"));
    let ran = typed(&shell, &format!("train {input} --output run"));
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert!(!shell.path().join("run").exists());
    for words in [
        "error: the run needs ",
        " GiB of memory and ",
        "No setting makes it fit: with all of them at their smallest it takes ",
        "`asft plan` shows what takes how much",
    ] {
        assert!(ran.stderr.contains(words), "no {words}: {}", ran.stderr);
    }
    let table = done(&shell, &format!("plan {input}")).stdout;
    assert!(table.contains("\ndoes not fit: ") && table.contains("No setting makes it fit"), "{table}");
}

/// Runs `asft` so that permissions count, as they do not for root: without its capabilities. None where that cannot be.
#[cfg(unix)]
fn without_privileges(shell: &Shell, line: &str) -> Option<crate::shell::Ran> {
    let secret = shell.path().join("secret");
    if !secret.exists() {
        std::fs::write(&secret, "").unwrap();
        forbid(&secret);
    }
    if std::fs::read(&secret).is_err() {
        return Some(typed(shell, line));
    }
    let unshared = |words: &[&str]| {
        let mut command = assert_cmd::Command::new("unshare");
        command.arg("--user").args(words).current_dir(shell.path()).output().ok()
    };
    let unreadable = unshared(&["cat", "secret"]).is_some_and(|tried| tried.status.code() == Some(1));
    let words: Vec<&str> =
        std::iter::once(env!("CARGO_BIN_EXE_asft")).chain(line.split_whitespace()).collect();
    unreadable.then(|| unshared(&words).unwrap().into())
}

#[cfg(unix)]
fn forbid(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o0)).unwrap();
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_or_written() {
    use std::os::unix::fs::PermissionsExt;
    let shell = Shell::new();
    let copy = |name: &str| copy_folder(checkpoint("gqa-llama3").as_ref(), &shell.path().join(name));
    forbid(&copy("no-weights").join("model.safetensors"));
    forbid(&copy("no-config").join("config.json"));
    copy("model");
    forbid(&shell.write("data.jsonl", "{}"));
    forbid(&shell.write("settings.toml", ""));
    let closed = shell.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    let data = batch("train12");
    for (words, says) in [
        (
            format!("--model no-weights --data {data} --output run"),
            "error: cannot open no-weights/model.safetensors: ",
        ),
        (
            format!("--model no-config --data {data} --output run"),
            "error: cannot read no-config/config.json: ",
        ),
        ("--model model --data data.jsonl --output run".to_owned(), "error: cannot read data.jsonl"),
        ("--config settings.toml".to_owned(), "error: cannot read the configuration file settings.toml"),
        (format!("--model model --data {data} --output closed/run"), "error: cannot write to closed: "),
        (format!("--model model --data {data} --output closed"), "error: cannot write to closed: "),
    ] {
        let Some(ran) = without_privileges(&shell, &format!("train {words}")) else {
            return crate::skip::skip(
                "cli::what_may_not_be_read_or_written",
                "user namespaces",
                "root may do everything, and unshare does not work",
            );
        };
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{words}\n{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{words}: no {says}\n{}", ran.stderr);
        assert!(ran.stderr.contains("Permission denied"), "{words}\n{}", ran.stderr);
        assert!(!shell.path().join("run").exists() && contents(&closed).is_empty(), "{words}");
    }
}

/// The message holds both commands that go on, and they do.
#[test]
fn a_run_folder_that_exists() {
    let shell = Shell::new();
    let line = train12("gqa-llama3", "run", "--max-steps 1 --save-steps 1");
    done(&shell, &line);
    let before = contents(&shell.path().join("run"));
    let longer = line.replace("--max-steps 1", "--max-steps 2");
    let ran = typed(&shell, &longer);
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert_eq!(contents(&shell.path().join("run")), before, "nothing was touched");
    let program = env!("CARGO_BIN_EXE_asft");
    for flag in ["--resume", "--overwrite-output-dir"] {
        let command = format!("{program} {longer} {flag}");
        let printed = ran.stderr.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(printed.into_iter().any(|line| line == command), "no {command}:\n{}", ran.stderr);
        done(&shell, &format!("{longer} {flag}"));
    }
    // Another program's folder is left alone even then.
    std::fs::create_dir(shell.path().join("other")).unwrap();
    std::fs::write(shell.path().join("other/thesis.txt"), "years").unwrap();
    let ran = typed(&shell, &train12("gqa-llama3", "other", "--overwrite-output-dir"));
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("other exists, is not empty and holds no run.toml of an asft run"),
        "{}",
        ran.stderr
    );
    assert_eq!(contents(&shell.path().join("other")).len(), 1);
}

/// A cache is found by the fingerprint of what decides it; one that holds something else under that name is refused.
#[test]
fn reference_caches_that_do_not_match() {
    let shell = Shell::new();
    let line = |run: &str| train12("gqa-llama3", run, "--max-steps 1 --objective dpo");
    done(&shell, &line("first"));
    let cache = shell.path().join("cache");
    let name = files(&cache).into_iter().next().unwrap();
    let good = std::fs::read(cache.join(&name)).unwrap();
    let file = |name: &str, pairs: usize| {
        let bytes = vec![0u8; 8 * pairs];
        let view =
            || safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![pairs], &bytes).unwrap();
        safetensors::serialize([(name, view()), ("rejected", view())], None).unwrap()
    };
    for (bytes, problem) in [
        (file("chosen", 11), "chosen is not 12 numbers"),
        (file("preferred", 12), "chosen"),
        (good[..good.len() - 1].to_vec(), ""),
        (Vec::new(), ""),
    ] {
        std::fs::write(cache.join(&name), bytes).unwrap();
        refused(&shell, &line("run"), &format!("the reference cache cache/{name} is damaged ("));
        refused(&shell, &line("run"), problem);
        refused(&shell, &line("run"), "delete it, and it will be computed again");
    }
    std::fs::remove_file(cache.join(&name)).unwrap();
    done(&shell, &line("again"));
    assert_eq!(std::fs::read(cache.join(&name)).unwrap(), good);
}

fn small_vocabulary() -> String {
    let mut config = json(format!("{}/config.json", checkpoint("mqa-linear-tied")));
    config["vocab_size"] = json!(50);
    config.to_string()
}

fn pair_of_small_ids() -> String {
    json!({ "prompt_input_ids": [1], "chosen_input_ids": [2], "rejected_input_ids": [3] }).to_string()
}

/// A golden checkpoint with a NaN as one weight of a tensor.
pub fn with_nan(shell: &Shell, name: &str, tensor: &str, element: usize) {
    let path = copied(shell, name).join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + entries[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 4 * element;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_weight_that_is_not_a_number_stops_the_run_before_it_spreads() {
    let shell = Shell::new();
    with_nan(&shell, "mqa-linear-tied", "model.norm.weight", 0);
    let line = format!(
        "train --model model --data {} --no-shuffle --batch-size 4 --max-steps 3 --output run",
        batch("train12")
    );
    let ran = typed(&shell, &line);
    assert_eq!((ran.code, &*ran.stdout), (1, ""), "{}", ran.stderr);
    let rows: Vec<String> = (1..=4).map(|line| format!("{}:{line}", batch("train12"))).collect();
    let message = &format!("loss or gradient was not finite at step 1 ({})", rows.join(", "));
    assert!(ran.stderr.contains("the weights themselves are suspect"), "{}", ran.stderr);
    assert!(ran.stderr.contains(message) && ran.stderr.contains("run/checkpoint-0"), "{}", ran.stderr);
    let run = shell.path().join("run");
    assert!(!run.join("model.safetensors").exists(), "there is no result");
    assert_eq!(std::fs::read_to_string(run.join("metrics.jsonl")).unwrap(), "");
    let (saved, source) = (
        tensors(run.join("checkpoint-0/model.safetensors")),
        tensors(shell.path().join("model/model.safetensors")),
    );
    for (name, saved) in saved {
        let differ = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits();
        assert!(!saved.values.iter().zip(&source[&name].values).any(differ), "{name} was updated");
    }
    assert_eq!(json(run.join("checkpoint-0/asft/state.json"))["step"], 0);
}

#[test]
fn a_run_that_diverges_keeps_the_state_before() {
    let shell = Shell::new();
    // Only row 10 reads token 60, whose embedding is no number (the head is not tied to it): two steps are good.
    with_nan(&shell, "gqa-llama3", "model.embed_tokens.weight", 60 * 32);
    let row = |row: u32| {
        let prompt = if row == 9 { 60 } else { row + 3 };
        let (chosen, rejected) = ([row + 20, 2], [row + 30, 2]);
        json!({ "prompt_input_ids": [prompt], "chosen_input_ids": chosen, "rejected_input_ids": rejected })
            .to_string()
    };
    shell.write("pairs.jsonl", (0..16).map(|i| row(i) + "\n").collect::<String>());
    let line = |output: &str, steps: usize| {
        format!(
            "train --model model --data pairs.jsonl --no-shuffle --batch-size 4 --learning-rate 1e-3 \
             --lr-scheduler-type constant --output {output} --max-steps {steps}"
        )
    };
    let ran = typed(&shell, &line("run", 4));
    assert_eq!((ran.code, &*ran.stdout), (1, ""), "{}", ran.stderr);
    let message = "not finite at step 3 (pairs.jsonl:9, pairs.jsonl:10, pairs.jsonl:11, pairs.jsonl:12)";
    assert!(ran.stderr.contains(message) && ran.stderr.contains("run/checkpoint-2"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("step 4 "), "{}", ran.stderr);
    done(&shell, &line("two", 2));
    let [run, two] = ["run", "two"].map(|name| shell.path().join(name));
    assert_eq!(timeless(&run), timeless(&two));
    let weights = |folder: PathBuf| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(run.join("checkpoint-2")) == weights(two), "the state is not the one after step 2");
    // It can be resumed, and stops at the same place.
    let ran = typed(&shell, &format!("{} --resume", line("run", 4)));
    assert!(ran.code == 1 && ran.stderr.contains("resuming after step 2"), "{}", ran.stderr);
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}
