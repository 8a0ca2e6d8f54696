use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::golden::*;
use crate::shell::{Ran, Shell};

/// The loss of every step.
fn losses(shell: &Shell, run: &str) -> Vec<String> {
    let steps = steps(&shell.path().join(run));
    assert!(!steps.is_empty());
    steps.iter().map(|step| step["loss"].to_string()).collect()
}

/// `asft train` of a golden checkpoint on this data for three steps.
fn train(data: &str, output: &str, more: &str) -> String {
    let model = checkpoint("gqa-llama3");
    format!(
        "train --model {model} {data} --batch-size 4 --learning-rate 1e-3 --max-steps 3 --output {output} {more}"
    )
}

fn refused(shell: &Shell, line: &str) -> Ran {
    let ran = typed(shell, line);
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{line}\n{}", ran.stderr);
    assert!(!shell.path().join("run").exists(), "{line} has left a run folder");
    ran
}

#[test]
fn the_form_of_a_file_changes_nothing() {
    let shell = Shell::new();
    let plain = std::fs::read(batch("train12")).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&plain).unwrap();
    shell.write("pairs.gz", gzip.finish().unwrap());
    // The name says nothing.
    shell.write("pairs.jsonl", zstd::encode_all(&plain[..], 0).unwrap());
    let rows: Vec<serde_json::Value> =
        plain.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    shell.write("pairs.json", serde_json::to_string_pretty(&rows).unwrap());
    done(&shell, &train(&format!("--data {}", batch("train12")), "plain", ""));
    let expected = losses(&shell, "plain");
    for (n, name) in ["pairs.gz", "pairs.jsonl", "pairs.json"].into_iter().enumerate() {
        let output = format!("run{n}");
        done(&shell, &train(&format!("--data {name}"), &output, ""));
        assert_eq!(losses(&shell, &output), expected, "{name}");
    }
    let model = checkpoint("gqa-llama3");
    let of = |data: &str| done(&shell, &format!("score --model {model} --data {data}")).stdout;
    assert_eq!(of("pairs.gz"), of(&batch("train12")));
}

#[test]
fn weights_are_recorded_and_may_not_change() {
    let shell = Shell::new();
    let data = format!("--data {}:0.5 --data {}:1.5", batch("train12"), batch("mixed6"));
    let ran = done(&shell, &train(&data, "run", "--save-steps 2 --eval-split 0.2"));
    // Half of 12, once and a half of 6; of the 6 + 6 different rows a fifth is held out.
    assert!(ran.stderr.contains("training data: 15 pairs of 18 rows"), "{}", ran.stderr);
    for line in ["      12      12     0.5          6  ", "       6       6     1.5          9  "] {
        assert!(ran.stderr.contains(line.trim_start()), "{}", ran.stderr);
    }
    assert!(ran.stderr.contains("held out 2 pairs; "), "{}", ran.stderr);
    let toml = std::fs::read_to_string(shell.path().join("run/run.toml")).unwrap();
    assert!(toml.contains("train12.jsonl:0.5\"") && toml.contains("mixed6.jsonl:1.5\""), "{toml}");
    std::fs::rename(shell.path().join("run"), shell.path().join("first")).unwrap();
    done(&shell, "train --config first/run.toml --output run");
    assert_eq!(losses(&shell, "run"), losses(&shell, "first"));
    let other = data.replace(":0.5", ":0.6");
    let ran =
        typed(&shell, &train(&other, "run", "--save-steps 2 --eval-split 0.2 --resume run/checkpoint-2"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("train12.jsonl:0.6"), "{}", ran.stderr);
}

#[test]
fn the_first_rows_are_a_trial() {
    let shell = Shell::new();
    let data = format!("--data {} --eval-data {}", batch("train12"), batch("mixed6"));
    let ran = done(&shell, &train(&data, "run", "--max-samples 5 --max-eval-samples 2"));
    assert!(ran.stderr.contains("training data: 5 pairs of 5 rows"), "{}", ran.stderr);
    assert!(ran.stderr.contains("evaluation data: 2 pairs of 2 rows"), "{}", ran.stderr);
    let shell = Shell::new();
    let ran = refused(&shell, &train(&format!("--data {}", batch("train12")), "run", "--max-eval-samples 2"));
    assert!(ran.stderr.contains("--max-eval-samples has no effect without --eval-data"), "{}", ran.stderr);
    let ran = refused(&shell, &train(&format!("--data {}:0", batch("train12")), "run", ""));
    assert!(ran.stderr.contains("train12.jsonl:0: must be a weight above 0"), "{}", ran.stderr);
}

#[test]
fn unusable_rows_are_dropped_or_refused() {
    let shell = Shell::new();
    let good = std::fs::read_to_string(batch("train12")).unwrap();
    let empty = "{\"prompt_input_ids\":[3],\"chosen_input_ids\":[],\"rejected_input_ids\":[4]}\n";
    shell.write("pairs.jsonl", [&good, empty, empty].concat());
    let ran = done(&shell, &train("--data pairs.jsonl", "dropped", ""));
    assert!(ran.stderr.contains("training data: 2 of 14 rows dropped (14.3%):"), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 empty chosen: pairs.jsonl:13, pairs.jsonl:14"), "{}", ran.stderr);
    assert!(ran.stderr.contains("training data: 14% of the rows are not used!"), "{}", ran.stderr);
    let ran = refused(&shell, &train("--data pairs.jsonl", "run", "--strict"));
    let message =
        "error: 2 of 14 rows cannot be used, and --strict allows none: 2 empty chosen (lines 13, 14)";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
    // Scoring says so in the row's place.
    let model = checkpoint("gqa-llama3");
    let scores = done(&shell, &format!("score --model {model} --data pairs.jsonl")).stdout;
    assert_eq!(scores.lines().count(), 14);
    assert_eq!(scores.lines().last(), Some("{\"row\":13,\"skipped\":\"empty chosen\"}"));
}

#[test]
fn tokens_are_kept_and_used_again() {
    let shell = Shell::new();
    let golden = std::fs::read_to_string(batch("train12")).unwrap();
    shell.write("pairs.jsonl", golden.repeat(100));
    let line =
        |output: &str, more: &str| train("--data pairs.jsonl", output, &format!("--data-cache kept {more}"));
    let kept = || std::fs::read_dir(shell.path().join("kept")).map_or(0, Iterator::count);
    let hit = "pairs.jsonl: tokens kept by an earlier run (kept/";
    assert!(!done(&shell, &line("none", "--no-cache")).stderr.contains(hit) && kept() == 0);
    assert!(!done(&shell, &line("cold", "")).stderr.contains(hit) && kept() == 1);
    let warm = done(&shell, &line("warm", "")).stderr;
    assert!(warm.contains(hit), "{warm}");
    assert!(!done(&shell, &line("again", "--no-cache")).stderr.contains(hit));
    assert_eq!(losses(&shell, "warm"), losses(&shell, "none"));
    let report =
        |stderr: &str| stderr.lines().find(|line| line.starts_with("training data:")).map(str::to_owned);
    assert_eq!(report(&warm), report(&done(&shell, &line("third", "--no-cache")).stderr));
}

#[test]
fn files_that_are_no_data() {
    let shell = Shell::new();
    std::fs::create_dir(shell.path().join("folder")).unwrap();
    shell.write("cut.gz", [0x1f, 0x8b, 8, 0]);
    shell.write("zip.jsonl", "PK\x03\x04");
    let model = checkpoint("gqa-llama3");
    for (name, message) in [
        ("folder", "error: folder is a folder; give the data files in it, each with --data FILE\n"),
        (
            "cut.gz",
            "error: cannot read cut.gz\n  caused by: the gzip stream is cut off; fetch or write the file again\n",
        ),
        (
            "zip.jsonl",
            "error: zip.jsonl is a zip archive; unpack it; gzip and Zstandard are read as they are\n",
        ),
    ] {
        for line in
            [train(&format!("--data {name}"), "run", ""), format!("score --model {model} --data {name}")]
        {
            assert!(refused(&shell, &line).stderr.contains(message), "{line}");
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_trains_as_json_lines_do() {
    let shell = Shell::new();
    let files = repository("tests/data/files");
    let quickstart = repository("examples/quickstart");
    for form in ["chat.jsonl", "chat.zstd.parquet"] {
        let line = format!(
            "train --init {quickstart}/config.json --tokenizer {quickstart} --data {files}/{form} --batch-size 4 \
             --max-length 128 --max-steps 1 --output {form}"
        );
        done(&shell, &line);
    }
    assert_eq!(losses(&shell, "chat.jsonl"), losses(&shell, "chat.zstd.parquet"));
    std::fs::write(
        shell.path().join("cut.parquet"),
        &std::fs::read(format!("{files}/chat.zstd.parquet")).unwrap()[..9000],
    )
    .unwrap();
    let ran = refused(&shell, &train("--data cut.parquet", "run", ""));
    assert!(ran.stderr.contains("error: cut.parquet: Parquet: "), "{}", ran.stderr);
}
