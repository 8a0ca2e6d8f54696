use crate::shell::Shell;

/// Every setting of train with a value that is not its default, and what that value is in TOML. Settings that exclude each
/// other stand in different lists, as does what they need.
const SETTINGS: &[&[(&str, &str, &str)]] = &[
    &[
        ("model", "folder", "\"folder\""),
        ("data", "pairs.jsonl", "[\"pairs.jsonl\"]"),
        ("chat_template", "chatml", "\"chatml\""),
        ("template_date", "2024-07-26", "\"2024-07-26\""),
        ("map", "prompt=question", "[\"prompt=question\"]"),
        ("max_length", "77", "77"),
        ("truncation_mode", "drop", "\"drop\""),
        ("drop_identical", "true", "true"),
        ("no_shuffle", "true", "true"),
        ("objective", "orpo", "\"orpo\""),
        ("c", "0.5", "0.5"),
        ("lambda", "0.25", "0.25"),
        ("beta", "0.7", "0.7"),
        ("gamma", "0.9", "0.9"),
        ("ift_propagation", "none", "\"none\""),
        ("ift_detach_weights", "true", "true"),
        ("ift_embedding", "live", "\"live\""),
        ("delta", "1.5", "1.5"),
        ("alpha", "0.3", "0.3"),
        ("mu", "0.25", "0.25"),
        ("tau", "0.4", "0.4"),
        ("eta", "0.2", "0.2"),
        ("rho", "-0.3", "-0.3"),
        ("tau_min", "0.2", "0.2"),
        ("tau_max", "4.5", "4.5"),
        ("logit_eps", "0.002", "0.002"),
        ("ld_alpha", "0.6", "0.6"),
        ("f_alpha", "0.8", "0.8"),
        ("desirable_weight", "1.25", "1.25"),
        ("undesirable_weight", "0.75", "0.75"),
        ("f_divergence", "js", "\"js\""),
        ("weighting", "wpo", "\"wpo\""),
        ("nll_reduction", "token", "\"token\""),
        ("nll_on", "prompt-and-response", "\"prompt-and-response\""),
        ("label_smoothing", "0.1", "0.1"),
        ("reference", "other", "[\"other\"]"),
        ("max_samples", "100", "100"),
        ("strict", "true", "true"),
        ("no_cache", "false", "false"),
        ("data_cache", "tokens", "\"tokens\""),
        ("reference_mode", "resident", "\"resident\""),
        ("reference_cache", "kept", "\"kept\""),
        ("batch_size", "32", "32"),
        ("learning_rate", "0.001", "0.001"),
        ("weight_decay", "0.125", "0.125"),
        ("adam_beta1", "0.8", "0.8"),
        ("adam_beta2", "0.95", "0.95"),
        ("adam_epsilon", "0.01", "0.01"),
        ("max_grad_norm", "2.5", "2.5"),
        ("freeze", "hft", "\"hft\""),
        ("hft_redraw", "250", "250"),
        ("max_steps", "800", "800"),
        ("lr_scheduler_type", "cosine", "\"cosine\""),
        ("warmup_steps", "12", "12"),
        ("seed", "7", "7"),
        ("eval_data", "held.jsonl", "[\"held.jsonl\"]"),
        ("max_eval_samples", "60", "60"),
        ("eval_steps", "50", "50"),
        ("load_best_model_at_end", "true", "true"),
        ("metric_for_best_model", "eval_rewards/accuracies", "\"eval_rewards/accuracies\""),
        ("greater_is_better", "true", "true"),
        ("early_stopping_patience", "3", "3"),
        ("early_stopping_threshold", "0.5", "0.5"),
        ("log_command", "cat", "\"cat\""),
        ("sample_answers", "20", "20"),
        ("output", "out", "\"out\""),
        ("save_steps", "100", "100"),
        ("save_total_limit", "2", "2"),
        ("save_dtype", "bf16", "\"bf16\""),
        ("logging_steps", "1", "1"),
        ("device", "cpu", "\"cpu\""),
        ("threads", "2", "2"),
        ("dtype", "f32", "\"f32\""),
        ("skip_nonfinite", "true", "true"),
        ("optimizer_state", "f32", "\"f32\""),
        ("head_logits", "f32", "\"f32\""),
        ("recompute", "blocks", "\"blocks\""),
        ("max_tokens_per_batch", "4096", "4096"),
        ("head_rows", "256", "256"),
    ],
    &[
        ("init", "config.json", "\"config.json\""),
        ("tokenizer", "tok", "\"tok\""),
        ("per_device_train_batch_size", "8", "8"),
        ("gradient_accumulation_steps", "4", "4"),
        ("num_train_epochs", "2.5", "2.5"),
        ("warmup_ratio", "0.03", "0.03"),
        ("eval_split", "0.02", "0.02"),
    ],
];

#[test]
fn each_setting_is_a_flag_a_variable_and_a_key() {
    let shell = Shell::new();
    for settings in SETTINGS {
        let flags: Vec<String> =
            settings.iter().map(|(key, value, _)| format!("--{}={value}", key.replace('_', "-"))).collect();
        let flags =
            shell.asft(&[&["config"], &*flags.iter().map(String::as_str).collect::<Vec<_>>()].concat());

        let names: Vec<String> =
            settings.iter().map(|(key, ..)| format!("ASFT_{}", key.to_uppercase())).collect();
        let variables: Vec<(&str, &str)> =
            names.iter().zip(*settings).map(|(name, (_, value, _))| (name.as_str(), *value)).collect();
        let environment = shell.asft_with(&variables, &["config"]);

        let file: String = settings.iter().map(|(key, _, toml)| format!("{key} = {toml}\n")).collect();
        shell.write("all.toml", file);
        let file = shell.asft(&["config", "--config", "all.toml"]);

        for (line, (key, _, toml)) in settings.iter().enumerate() {
            let holds = |ran: &crate::shell::Ran, origin: &str| {
                let expected = format!("{key} = {toml}  # {origin}");
                assert!(
                    ran.stdout.lines().any(|line| line == expected),
                    "no {expected}:\n{}{}",
                    ran.stdout,
                    ran.stderr
                );
            };
            holds(&flags, "flag");
            holds(&environment, &names[line]);
            holds(&file, &format!("all.toml:{}", line + 1));
        }
    }
}

#[test]
fn the_list_above_is_complete() {
    use clap::Args;
    let command = asft::config::TrainArguments::augment_args(clap::Command::new("asft"));
    let listed: Vec<&str> = SETTINGS.concat().iter().map(|(key, ..)| *key).collect();
    let not_recorded = ["overwrite_output_dir", "resume"];
    for argument in command.get_arguments() {
        let key = argument.get_id().as_str();
        assert!(listed.contains(&key) || not_recorded.contains(&key), "{key}");
    }
}

/// With nothing given at all: every setting stands there once, with its value and "default", or as a comment.
#[test]
fn everything_is_shown_where_nothing_is_given() {
    use clap::Args;
    let shell = Shell::new();
    let ran = shell.asft(&["config"]);
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let command = asft::config::TrainArguments::augment_args(clap::Command::new("asft"));
    for argument in command.get_arguments() {
        let key = argument.get_id().as_str();
        let starts = [format!("{key} = "), format!("# {key}: ")];
        let found: Vec<&&str> =
            lines.iter().filter(|line| starts.iter().any(|start| line.starts_with(start))).collect();
        let [line] = found[..] else { panic!("{key}: {found:?}") };
        let expected = match key {
            "model" => "# a placeholder: asft train needs --model or --init",
            "output" => "# a placeholder: asft train needs --output",
            "data" => "# data: missing; asft train needs --data",
            _ => "default",
        };
        assert!(line.contains(expected), "{line}");
    }
    let has = |line: &str| assert!(lines.contains(&line), "no {line}:\n{}", ran.stdout);
    has("batch_size = 128  # default");
    has("# threads: every core (default)");
    has("# tokenizer: not set (default)");
    // The objective's own defaults.
    has("lambda = 1.0  # default");

    let given =
        shell.asft(&["config", "--tokenizer", "t", "--resume", "--objective", "sft", "--lambda", "1"]);
    assert_eq!(given.code, 0, "{}", given.stderr);
    assert!(given.stderr.contains("(--lambda is not a parameter of sft)"), "{}", given.stderr);
    for line in [
        "init = \"CONFIG.json\"  # a placeholder: asft train needs --model or --init",
        "tokenizer = \"t\"  # flag",
        "lambda = 1.0  # flag",
        "# resume: given (flag), but how a run starts is not recorded",
    ] {
        assert!(given.stdout.lines().any(|found| found == line), "no {line}:\n{}", given.stdout);
    }
}

/// What is printed is a file of settings that gives the same settings.
#[test]
fn what_is_printed_is_a_file_of_settings() {
    let shell = Shell::new();
    let flags = ["--model", "m", "--objective", "dpo", "--beta", "0.3", "--threads", "3", "--max-steps", "7"];
    let first = shell.asft(&[&["config"], &flags[..]].concat()).stdout;
    shell.write("first.toml", &first);
    let second = shell.asft(&["config", "--config", "first.toml"]).stdout;
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(settings(&first), settings(&second));
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let shell = Shell::new();
    shell.write("c.toml", "model = \"m\"\nseed = 1\n");
    let file: &[&str] = &["--config", "c.toml"];
    let variables = &[("ASFT_SEED", "2")];
    let flag: &[&str] = &["--config", "c.toml", "--seed", "3"];
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(shell.setting("seed", &[], &["--model", "m"]), pair("42", "default"));
    assert_eq!(shell.setting("seed", &[], file), pair("1", "c.toml:2"));
    assert_eq!(shell.setting("seed", variables, file), pair("2", "ASFT_SEED"));
    assert_eq!(shell.setting("seed", variables, flag), pair("3", "flag"));
    assert_eq!(shell.setting("seed", &[("ASFT_SEED", "")], file), pair("1", "c.toml:2"), "empty is not set");
    assert_eq!(shell.setting("seed", &[("ASFT_CONFIG", "c.toml")], &[]), pair("1", "c.toml:2"));
}

#[test]
fn a_choice_replaces_the_other_alternative_of_lower_layers() {
    let shell = Shell::new();
    let choices: [(&str, &[&str], &str, &str); 7] = [
        ("init = \"c.json\"\ntokenizer = \"t\"", &["--model", "m"], "model", "\"m\""),
        (
            "model = \"m\"\nbatch_size = 8",
            &["--per-device-train-batch-size", "3"],
            "per_device_train_batch_size",
            "3",
        ),
        (
            "model = \"m\"\nper_device_train_batch_size = 8\ngradient_accumulation_steps = 2",
            &["--batch-size", "6"],
            "batch_size",
            "6",
        ),
        ("model = \"m\"\nmax_steps = 8", &["--num-train-epochs", "3"], "num_train_epochs", "3.0"),
        ("model = \"m\"\nwarmup_ratio = 0.1", &["--warmup-steps", "3"], "warmup_steps", "3"),
        ("model = \"m\"\neval_data = \"e\"", &["--eval-split", "0.5"], "eval_split", "0.5"),
        ("model = \"m\"\noverwrite_output_dir = true", &["--resume"], "model", "\"m\""),
    ];
    for (file, flags, key, value) in choices {
        shell.write("c.toml", file);
        let words = [&["--config", "c.toml"], flags].concat();
        assert_eq!(shell.setting(key, &[], &words).0, value, "{file} {flags:?}");
    }
    // Unsetting is no choice.
    shell.write("c.toml", "model = \"m\"\noverwrite_output_dir = true\nresume = false\n");
    assert_eq!(shell.asft(&["config", "--config", "c.toml"]).code, 0);
    shell.write("c.toml", "model = \"m\"\noverwrite_output_dir = true\n");
    assert_eq!(
        shell.asft_with(&[("ASFT_RESUME", "false")], &["config", "--config", "c.toml", "--resume"]).code,
        0
    );
}

#[test]
fn underscores_and_aliases() {
    let shell = Shell::new();
    let m: &[&str] = &["--model", "m"];
    let value = |key: &str, words: &[&str]| shell.setting(key, &[], words).0;
    assert_eq!(value("learning_rate", &[m, &["--learning_rate", "0.5"]].concat()), "0.5");
    assert_eq!(value("learning_rate", &[m, &["--learning_rate=0.5"]].concat()), "0.5");
    assert_eq!(
        value("output", &[m, &["--output_dir=a_b"]].concat()),
        "\"a_b\"",
        "values keep their underscores"
    );
    assert_eq!(value("output", &[m, &["--output-dir", "a_b"]].concat()), "\"a_b\"");
    assert_eq!(value("objective", &[m, &["--loss-type", "orpo"]].concat()), "\"orpo\"");
    assert_eq!(value("model", &["--model_name_or_path", "x"]), "\"x\"");
    assert_eq!(
        value("nll_on", &[m, &["--nll-on", "prompt_and_response"]].concat()),
        "\"prompt-and-response\""
    );
    assert_eq!(
        value("lr_scheduler_type", &[m, &["--lr-scheduler-type", "constant_with_warmup"]].concat()),
        "\"constant\""
    );

    shell.write("c.toml", "model_name_or_path = \"x\"\noutput-dir = \"y\"\nloss_type = \"dpo\"\n");
    assert_eq!(value("model", &["--config", "c.toml"]), "\"x\"");
    assert_eq!(value("output", &["--config", "c.toml"]), "\"y\"");
    assert_eq!(value("objective", &["--config", "c.toml"]), "\"dpo\"");
    assert_eq!(shell.setting("output", &[("ASFT_OUTPUT_DIR", "z")], m).0, "\"z\"");
}

#[test]
fn lists_repeat_the_flag_and_a_single_string_is_a_list() {
    let shell = Shell::new();
    let words = ["--model", "m", "--data", "a", "--data", "b"];
    assert_eq!(shell.setting("data", &[], &words).0, "[\"a\", \"b\"]");
    shell.write("c.toml", "model = \"m\"\ndata = \"a\"\neval_data = [\"b\", \"c\"]\n");
    assert_eq!(shell.setting("data", &[], &["--config", "c.toml"]).0, "[\"a\"]");
    assert_eq!(shell.setting("eval_data", &[], &["--config", "c.toml"]).0, "[\"b\", \"c\"]");
}

#[test]
fn switches_can_be_turned_off_again() {
    let shell = Shell::new();
    shell.write("c.toml", "model = \"m\"\nno_shuffle = true\n");
    assert_eq!(shell.setting("no_shuffle", &[], &["--config", "c.toml"]).0, "true");
    assert_eq!(shell.setting("no_shuffle", &[], &["--config", "c.toml", "--no-shuffle=false"]).0, "false");
    assert_eq!(shell.setting("no_shuffle", &[("ASFT_NO_SHUFFLE", "0")], &["--config", "c.toml"]).0, "false");
    assert_eq!(shell.setting("no_shuffle", &[], &["--model", "m", "--no-shuffle"]).0, "true");
}

#[test]
fn score_has_the_same_layers() {
    use asft::config::{Device, Origin, ScoreArguments, ScoreConfig, merge};
    let shell = Shell::new();
    let path = shell.write("s.toml", "model = \"file\"\ndata = \"file\"\nmax_length = 5\ntokens = true\n");
    let environment = [("ASFT_DATA", "environment"), ("ASFT_MODEL", "environment"), ("ASFT_THREADS", "3")];
    let flags = ScoreArguments { model: Some("flag".into()), ..Default::default() };
    let merged = merge(&flags, environment.map(|(name, value)| (name.into(), value.into())), Some(&path));
    let merged = merged.expect("settings that exist");
    assert_eq!(merged.origins["model"], Origin::Flag);
    assert_eq!(merged.origins["data"], Origin::Environment("ASFT_DATA".to_owned()));
    assert_eq!(merged.origins["max_length"], Origin::File(path, 3));
    let expected = ScoreConfig {
        template: Default::default(),
        model: "flag".into(),
        data: "environment".into(),
        output: None,
        tokens: true,
        columns: Default::default(),
        max_length: Some(5),
        truncation: Default::default(),
        device: Device::Auto,
        formats: Default::default(),
        threads: Some(3),
        max_tokens_per_batch: None,
    };
    assert_eq!(merged.arguments.resolve().expect("settings that agree"), expected);
}

#[cfg(unix)]
#[test]
fn reference_log_probs_are_kept_where_caches_are() {
    let shell = Shell::new();
    let cache = |variables: &[(&str, &str)]| shell.setting("reference_cache", variables, &["--model", "m"]).0;
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), "\"/x/asft/reference\"");
    let home = [("XDG_CACHE_HOME", "relative"), ("HOME", "/h")];
    assert_eq!(cache(&home), "\"/h/.cache/asft/reference\"", "a relative folder does not count");
}
