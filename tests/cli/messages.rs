use std::process::Stdio;

use serde_json::{Value, json};

use crate::shell::Shell;

#[test]
fn version_and_help_are_results() {
    let shell = Shell::new();
    let version = shell.asft(&["-V"]);
    let name = format!("asft {}", env!("CARGO_PKG_VERSION"));
    assert_eq!((version.code, version.stdout), (0, format!("{name}\n")));
    let long = shell.asft(&["--version"]);
    assert!(
        long.code == 0 && long.stdout.starts_with(&name) && long.stdout.contains("\nkernels: "),
        "{}",
        long.stdout
    );
    let help = shell.asft(&["train", "--help"]);
    assert_eq!((help.code, &*help.stderr), (0, ""));
    let headings =
        ["Model", "Data", "Objective", "Optimisation", "Schedule", "Evaluation", "Run folder", "Device"];
    let lines: Vec<&str> = help.stdout.lines().collect();
    let found = headings.map(|heading| lines.iter().position(|line| *line == format!("{heading}:")));
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{found:?}");
}

#[test]
fn messages_as_json_lines() {
    let shell = Shell::new();
    let variables = [("ASFT_SEDE", "1")];
    let words = [
        "train",
        "--log-format",
        "json",
        "--objective",
        "asftt",
        "--model",
        "m",
        "--data",
        "d",
        "--output",
        "o",
    ];
    let ran = shell.asft_with(&variables, &words);
    let lines: Vec<Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON object per line")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["level"], "warning");
    assert_eq!(lines[0]["message"], "environment variable ASFT_SEDE is no setting: did you mean ASFT_SEED?");
    let time = lines[0]["time"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    let error = json!({
        "level": "error",
        "message": "no default learning rate is known for the objective \"asftt\"",
        "causes": [],
        "hint": "asft objectives lists the objectives; --learning-rate sets the rate for any of them",
    });
    assert_eq!(lines[1], error);
}

#[test]
fn less_and_more() {
    let shell = Shell::new();
    let variables = [("ASFT_SEDE", "1")];
    let warned = |flags: &[&str], variables: &[(&str, &str)]| {
        let ran = shell.asft_with(variables, &[&["config", "--model", "m"], flags].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr.contains("warning: environment variable ASFT_SEDE")
    };
    assert!(warned(&[], &variables));
    assert!(warned(&["-v"], &variables));
    assert!(warned(&["-q"], &variables));
    assert!(!warned(&["-qq"], &variables));
    assert!(!warned(&["-vv"], &[("ASFT_SEDE", "1"), ("ASFT_LOG", "error")]), "ASFT_LOG decides");
    assert_eq!(shell.asft(&["config", "--model", "m", "-q", "-v"]).code, 2);
}

#[test]
fn colours_only_where_asked() {
    let shell = Shell::new();
    let colored = |words: &[&str]| shell.asft(words).stderr.contains('\x1b');
    for words in [&["train"][..], &["train", "--no-such-flag"]] {
        assert!(!colored(words), "stderr is no terminal here");
        assert!(colored(&[words, &["--color", "always"]].concat()), "{words:?}");
        assert!(colored(&[&["--color=always"], words].concat()), "{words:?}");
        assert!(!colored(&[words, &["--color", "never"]].concat()), "{words:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let shell = Shell::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_asft"));
    command.args(["config", "--model", "m"]).current_dir(shell.path()).stdout(writer).stderr(Stdio::piped());
    let output = command.output().expect("asft starts");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_asft"));
    let output = command.args(["config", "--model", "m"]).stdout(full).output().expect("asft starts");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("error: cannot write to stdout\n  caused by: No space left"), "{stderr}");
}
