use crate::shell::{Ran, Shell};

/// Exit code 2, nothing on stdout, and exactly these lines on stderr.
#[track_caller]
fn refused(ran: &Ran, lines: &[&str]) {
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().collect::<Vec<_>>(), lines);
}

/// What `asft train` says to these flags, with a model, data and output already given.
#[track_caller]
fn train_refuses(flags: &[&str], lines: &[&str]) {
    let whole: &[&str] = &["train", "--model", "m", "--data", "d", "--output", "o"];
    refused(&Shell::new().asft(&[whole, flags].concat()), lines);
}

/// What `asft train` says to a file of settings.
#[track_caller]
fn file_refused(text: impl AsRef<[u8]>, lines: &[&str]) {
    let shell = Shell::new();
    shell.write("c.toml", text);
    refused(&shell.asft(&["train", "--config", "c.toml"]), lines);
}

#[test]
fn what_train_cannot_do_without() {
    let shell = Shell::new();
    refused(
        &shell.asft(&["train", "--model", "m", "--output", "o"]),
        &["error: --data is missing", "hint: give the file of preference pairs: --data FILE"],
    );
    refused(
        &shell.asft(&["train", "--model", "m", "--data", "d"]),
        &[
            "error: --output is missing",
            "hint: give the folder for the trained model and everything the run writes: --output DIR",
        ],
    );
    refused(
        &shell.asft(&["train", "--data", "d", "--output", "o"]),
        &[
            "error: --model or --init is missing",
            "hint: give a Hugging Face Llama folder, --model DIR, or random weights, --init CONFIG.json",
        ],
    );
}

#[test]
fn what_score_cannot_do_without() {
    let shell = Shell::new();
    refused(
        &shell.asft(&["score", "--data", "d"]),
        &["error: --model is missing", "hint: give the folder of the model that scores: --model DIR"],
    );
    refused(
        &shell.asft(&["score", "--model", "m"]),
        &["error: --data is missing", "hint: give the file of rows to score: --data FILE"],
    );
    refused(
        &shell.asft(&["score", "--model", "m", "--data", "d", "--max-length", "1"]),
        &["error: --max-length 1: must be at least 2"],
    );
}

#[test]
fn settings_that_exclude_each_other() {
    train_refuses(
        &["--init", "c.json"],
        &[
            "error: --model and --init exclude each other",
            "hint: --model trains the weights of a folder, --init starts from random ones: choose one",
        ],
    );
    train_refuses(
        &["--tokenizer", "t"],
        &[
            "error: --model and --tokenizer exclude each other",
            "hint: a --model folder brings its own tokenizer: leave --tokenizer out",
        ],
    );
    let batch = "hint: --batch-size is already the product of --per-device-train-batch-size and \
                 --gradient-accumulation-steps: give either it or those two";
    train_refuses(
        &["--batch-size", "8", "--per-device-train-batch-size", "8"],
        &["error: --batch-size and --per-device-train-batch-size exclude each other", batch],
    );
    train_refuses(
        &["--batch-size", "8", "--gradient-accumulation-steps", "8"],
        &["error: --batch-size and --gradient-accumulation-steps exclude each other", batch],
    );
    train_refuses(
        &["--warmup-steps", "8", "--warmup-ratio", "0.1"],
        &[
            "error: --warmup-steps and --warmup-ratio exclude each other",
            "hint: both say how long the learning rate rises: give one",
        ],
    );
    train_refuses(
        &["--eval-data", "e", "--eval-split", "0.1"],
        &[
            "error: --eval-data and --eval-split exclude each other",
            "hint: held-out pairs come from a file of their own or from --data: choose one",
        ],
    );
    train_refuses(
        &["--resume", "--overwrite-output-dir"],
        &[
            "error: --resume and --overwrite-output-dir exclude each other",
            "hint: --resume continues what is in the folder, --overwrite-output-dir deletes it: choose one",
        ],
    );
}

#[test]
fn settings_that_need_another() {
    train_refuses(
        &["--gradient-accumulation-steps", "2"],
        &[
            "error: --gradient-accumulation-steps has no effect without --per-device-train-batch-size",
            "hint: give --per-device-train-batch-size as well, or leave --gradient-accumulation-steps out",
        ],
    );
    for flag in ["--eval-steps", "--sample-answers", "--early-stopping-patience", "--metric-for-best-model"] {
        train_refuses(
            &[flag, "2"],
            &[
                &format!("error: {flag} has no effect without --eval-data or --eval-split"),
                &format!("hint: give --eval-data or --eval-split as well, or leave {flag} out"),
            ],
        );
    }
    for (flags, flag, other) in [
        (
            &["--eval-split", "0.1", "--load-best-model-at-end"][..],
            "--load-best-model-at-end",
            "--eval-steps",
        ),
        (
            &["--eval-split", "0.1", "--early-stopping-patience", "2"],
            "--early-stopping-patience",
            "--eval-steps",
        ),
        (&["--early-stopping-threshold", "2"], "--early-stopping-threshold", "--early-stopping-patience"),
        (&["--greater-is-better"], "--greater-is-better", "--metric-for-best-model"),
    ] {
        train_refuses(
            flags,
            &[
                &format!("error: {flag} has no effect without {other}"),
                &format!("hint: give {other} as well, or leave {flag} out"),
            ],
        );
    }
    train_refuses(
        &["--eval-split", "0.1", "--metric-for-best-model", "logps/rejected"],
        &[
            "error: --greater-is-better is missing",
            "hint: say whether more of this --metric-for-best-model is better (--greater-is-better) or less \
             (--greater-is-better=false); its name does not tell",
        ],
    );
}

#[test]
fn numbers_out_of_range() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("--seed", &["-1"], "at least 0"),
        ("--max-length", &["1", "-5"], "at least 2"),
        ("--batch-size", &["0", "-1"], "at least 1"),
        ("--per-device-train-batch-size", &["0"], "at least 1"),
        ("--max-steps", &["0", "-1"], "at least 1"),
        ("--warmup-steps", &["-1"], "at least 0"),
        ("--save-steps", &["-1"], "at least 0"),
        ("--eval-steps", &["-1"], "at least 0"),
        ("--sample-answers", &["-1"], "at least 0"),
        ("--save-total-limit", &["0"], "at least 1"),
        ("--early-stopping-patience", &["0"], "at least 1"),
        ("--early-stopping-threshold", &["-1", "NaN", "inf"], "a finite number, at least 0"),
        ("--logging-steps", &["0"], "at least 1"),
        ("--threads", &["0"], "at least 1"),
        ("--max-tokens-per-batch", &["0"], "at least 1"),
        ("--head-rows", &["0"], "at least 1"),
        ("--num-train-epochs", &["0", "-1", "NaN", "inf"], "a finite number above 0"),
        ("--learning-rate", &["-1", "NaN", "inf"], "a finite number, at least 0"),
        ("--weight-decay", &["-1", "NaN", "inf"], "a finite number, at least 0"),
        ("--max-grad-norm", &["-1", "NaN", "inf"], "a finite number, at least 0"),
        ("--adam-beta1", &["-0.1", "1", "NaN"], "at least 0 and below 1"),
        ("--adam-beta2", &["-0.1", "1", "NaN"], "at least 0 and below 1"),
        ("--adam-epsilon", &["0", "-1", "NaN", "inf"], "a finite number above 0"),
        ("--warmup-ratio", &["-0.1", "1.1", "NaN"], "from 0 to 1"),
        ("--eval-split", &["0", "1", "NaN"], "above 0 and below 1"),
    ];
    for (flag, values, must) in cases {
        for value in *values {
            train_refuses(&[flag, value], &[&format!("error: {flag} {value}: must be {must}")]);
        }
    }
    train_refuses(
        &["--gradient-accumulation-steps", "0", "--per-device-train-batch-size", "4"],
        &["error: --gradient-accumulation-steps 0: must be at least 1"],
    );
    let huge = i64::MAX.to_string();
    train_refuses(
        &["--gradient-accumulation-steps", "4", "--per-device-train-batch-size", &huge],
        &["error: --gradient-accumulation-steps 4: must be smaller: the batch is beyond 2^63 pairs"],
    );
}

#[test]
fn what_this_build_and_its_objectives_do_not_have() {
    // What follows is the answer of a machine without CUDA.
    if asft::backend::probe::cuda(true).is_err() {
        let lines = [
            "error: no CUDA driver (libcuda.so.1 cannot be loaded)",
            "hint: use --device cpu, or --device auto",
        ];
        train_refuses(&["--device", "cuda"], &lines);
    }
    train_refuses(
        &["--objective", "asftt"],
        &[
            "error: no default learning rate is known for the objective \"asftt\"",
            "hint: asft objectives lists the objectives; --learning-rate sets the rate for any of them",
        ],
    );
}

#[test]
fn keys_of_the_file_that_are_none() {
    file_refused(
        "model = \"m\"\n\nbatch_sise = 3\n",
        &["error: c.toml:3: unknown key \"batch_sise\"", "hint: did you mean \"batch_size\"?"],
    );
    file_refused(
        "leraning-rate = 3\n",
        &["error: c.toml:1: unknown key \"leraning-rate\"", "hint: did you mean \"learning_rate\"?"],
    );
    file_refused(
        "quantile_state = 3\n",
        &[
            "error: c.toml:1: unknown key \"quantile_state\"",
            "hint: keys are the names of the flags with \"_\" for \"-\": see asft train --help",
        ],
    );
    file_refused(
        "[optimizer]\nlearning_rate = 3\n",
        &[
            "error: c.toml:1: unknown key \"optimizer.learning_rate\"",
            "hint: keys are not in tables: write them at the top of the file, under no [heading]",
        ],
    );
    file_refused(
        "[optimizer]\nlearnin_rate = 3\n",
        &["error: c.toml:1: unknown key \"optimizer.learnin_rate\"", "hint: did you mean \"learning_rate\"?"],
    );
    file_refused(
        "output = \"a\"\noutput_dir = \"b\"\n",
        &[
            "error: c.toml:2: \"output\" and \"output_dir\" are two names of one setting",
            "hint: keep \"output\"",
        ],
    );
}

#[test]
fn values_of_the_file_that_cannot_be() {
    let cases = [
        ("batch_size = \"many\"", "batch_size", "invalid type: string \"many\", expected an integer"),
        ("batch_size = 1.5", "batch_size", "invalid type: floating point `1.5`, expected an integer"),
        ("learning_rate = \"1e-6\"", "learning_rate", "invalid type: string \"1e-6\", expected a number"),
        ("learning-rate = true", "learning-rate", "invalid type: boolean `true`, expected a number"),
        ("data = 3", "data", "invalid type: integer `3`, expected a path or a list of paths"),
        ("data = [\"a\", 3]", "data", "invalid type: integer `3`, expected path"),
        ("no_shuffle = 1", "no_shuffle", "invalid type: integer `1`, expected a boolean"),
        ("resume = 1", "resume", "invalid type: integer `1`, expected true, false or a checkpoint folder"),
        (
            "lr_scheduler_type = \"cosin\"",
            "lr_scheduler_type",
            "\"cosin\" is not one of linear, cosine, constant: did you mean \"cosine\"?",
        ),
        ("save_dtype = \"int8\"", "save_dtype", "\"int8\" is not one of f32, f16, bf16"),
    ];
    for (line, key, message) in cases {
        file_refused(
            format!("model = \"m\"\n{line}\n"),
            &[&format!("error: c.toml:2: key \"{key}\": {message}")],
        );
    }
}

#[test]
fn files_that_are_not_toml() {
    file_refused("seed = 1\nmodel = \"m\nx", &["error: c.toml:2:11: invalid basic string, expected `\"`"]);
    file_refused("seed = 1\nseed = 2\n", &["error: c.toml:2:1: duplicate key"]);
    file_refused(b"seed = 1\nmodel = \"\xff\"\n", &["error: c.toml:2:10: not UTF-8"]);
    let missing = Shell::new().asft(&["train", "--config", "none.toml"]);
    refused(
        &missing,
        &[
            "error: cannot read the configuration file none.toml",
            "  caused by: No such file or directory (os error 2)",
        ],
    );
}

#[test]
fn variables_that_cannot_be() {
    let shell = Shell::new();
    refused(
        &shell.asft_with(&[("ASFT_SEED", "abc")], &["train"]),
        &[
            "error: environment variable ASFT_SEED: invalid value 'abc' for '--seed <N>': invalid digit found in string",
        ],
    );
    refused(
        &shell.asft_with(&[("ASFT_SAVE_DTYPE", "int8")], &["train"]),
        &["error: environment variable ASFT_SAVE_DTYPE: invalid value 'int8' for '--save-dtype <DTYPE>' \
         [possible values: f32, f16, bf16]"],
    );
    let twice = [("ASFT_OUTPUT", "a"), ("ASFT_OUTPUT_DIR", "b")];
    let ran = shell.asft_with(&twice, &["train"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("error: environment: \"ASFT_OUTPUT"), "{}", ran.stderr);
    assert!(ran.stderr.contains("are two names of one setting"), "{}", ran.stderr);
}

#[test]
fn flags_that_are_none() {
    let ran = Shell::new().asft(&["train", "--batchsize", "3"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("'--batch-size'"), "{}", ran.stderr);
    let ran = Shell::new().asft(&["train", "--seed", "1", "--seed", "2"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("cannot be used multiple times"), "{}", ran.stderr);
    assert_eq!(Shell::new().asft(&[]).code, 2);
}
