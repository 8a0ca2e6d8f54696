use std::process::Command;

use clap::Args;

use crate::golden::done;
use crate::shell::Shell;

/// The flags of train.
fn train_flags() -> Vec<String> {
    let command = asft::config::TrainArguments::augment_args(clap::Command::new("asft"));
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
        .collect()
}

/// What a program says of a text on its standard input; none where the program is not installed.
fn checked(program: &str, flags: &[&str], text: &str) -> Option<(bool, String)> {
    Command::new(program).arg("--version").output().ok()?;
    let output = assert_cmd::Command::new(program).args(flags).write_stdin(text).output().ok()?;
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn skipped(test: &str, program: &str) {
    crate::skip::skip(&format!("cli::{test}"), program, "not installed");
}

#[test]
fn completions_name_every_flag_and_parse() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(&shell, &format!("completions {name}")).stdout;
        for flag in train_flags() {
            let bare = flag.trim_start_matches("--");
            // fish writes `-l batch-size`.
            assert!(script.contains(&flag) || script.contains(&format!("-l {bare}")), "{name} lacks {flag}");
        }
        if ["bash", "zsh", "fish"].contains(&name) {
            let Some((parses, message)) = checked(name, &["-n"], &script) else {
                skipped("completions_name_every_flag_and_parse", name);
                continue;
            };
            assert!(parses, "{name}: {message}");
        }
    }
    assert_eq!(shell.asft(&["completions", "csh"]).code, 2);
}

/// Sourced by a real bash and asked for the words that begin with `--optim` after `asft train`.
#[test]
fn bash_completes_a_flag_and_its_values() {
    let shell = Shell::new();
    let script = done(&shell, "completions bash").stdout;
    let ask = |words: &str, current: &str| {
        let question = format!(
            "{script}\nCOMP_WORDS=({words} '{current}'); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _asft asft '{current}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.rsplit(' ').next().unwrap()
        );
        let output = Command::new("bash").args(["--norc", "-c", &question]).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(flags) = ask("asft train", "--optim") else {
        return skipped("bash_completes_a_flag_and_its_values", "bash");
    };
    assert_eq!(flags, "--optimizer-state\n");
    assert_eq!(ask("asft train --recompute", "").unwrap(), "auto\nnone\nnorms\nblocks\n");
    assert!(ask("asft", "pl").unwrap().contains("plan\n"));
}

#[test]
fn every_command_has_a_page_that_groff_takes() {
    let shell = Shell::new();
    done(&shell, "man --output pages");
    let mut pages: Vec<String> = std::fs::read_dir(shell.path().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    for name in ["asft.1", "asft-train.1", "asft-plan.1", "asft-bench-step.1", "asft-man.1"] {
        assert!(pages.contains(&name.to_owned()), "no {name}: {pages:?}");
    }
    for name in &pages {
        let page = std::fs::read_to_string(shell.path().join("pages").join(name)).unwrap();
        // A dash stands between commands, and within the name of one.
        let words = name.trim_end_matches(".1").replace('-', " ");
        let dashed = [
            "mt-bench",
            "extract-prompt",
            "reward-augmented",
            "rejection-sample",
            "token-diff",
            "training-dynamics",
        ];
        let words = dashed.iter().fold(words, |words, name| words.replace(&name.replace('-', " "), name));
        let words = words.strip_prefix("asft").unwrap().trim_start();
        assert_eq!(done(&shell, &format!("man {words}")).stdout, page, "{name}");
        let Some((taken, warnings)) = checked("groff", &["-man", "-ww", "-z", "-Tutf8"], &page) else {
            skipped("every_command_has_a_page_that_groff_takes", "groff");
            continue;
        };
        assert!(taken && warnings.is_empty(), "{name}: {warnings}");
    }
    let train = std::fs::read_to_string(shell.path().join("pages/asft-train.1")).unwrap().replace('\\', "");
    for flag in train_flags() {
        assert!(train.contains(&flag), "asft-train.1 lacks {flag}");
    }
}

#[test]
fn a_page_of_no_command_is_refused() {
    let shell = Shell::new();
    let ran = shell.asft(&["man", "bench", "steps"]);
    assert_eq!((ran.code, &*ran.stdout), (2, ""));
    assert_eq!(ran.stderr, "error: asft bench has no command \"steps\"; asft bench --help lists them\n");
    shell.write("file", "");
    let ran = shell.asft(&["man", "--output", "file"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("`file`") || ran.stderr.contains("file"), "{}", ran.stderr);
}
