use crate::golden::*;
use crate::shell::{Ran, Shell};

/// A short run with evaluations and this command.
fn run(shell: &Shell, output: &str, command: &str, more: &str) -> Ran {
    let line =
        train12("mqa-linear-tied", output, &format!("--max-steps 6 --save-steps 3 --eval-steps 2 {more}"));
    let eval = batch("mixed6");
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.extend(["--eval-data", &eval, "--log-command", command]);
    shell.asft(&words)
}

#[test]
fn the_command_gets_every_line_of_the_record() {
    let shell = Shell::new();
    let ran = run(&shell, "run", "cat > got; echo \"in $ASFT_RUN_FOLDER\"", "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // What it prints is no result of this program's.
    assert!(
        ran.stderr.contains("in run\n") && !ran.stdout.contains("in run\n"),
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
    assert!(!ran.stderr.contains("log command"), "{}", ran.stderr);
    let read = |name: &str| std::fs::read_to_string(shell.path().join(name)).unwrap();
    assert_eq!(read("got"), read("run/metrics.jsonl"));
    assert_eq!(read("got").lines().count(), 10);
    // A resumed run hands on what is new.
    let ran = run(&shell, "run", "cat > got", "--resume run/checkpoint-3");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let whole = read("run/metrics.jsonl");
    let new: Vec<&str> = whole.lines().filter(|line| !line.contains("\"step\":3,")).skip(4).collect();
    assert_eq!(read("got").lines().collect::<Vec<_>>(), new);
}

#[test]
fn a_command_that_fails_is_reported_and_costs_nothing() {
    let shell = Shell::new();
    for (name, command, report) in [
        (
            "exits",
            "exit 7",
            "warning: the log command has ended (exit status: 7); the run goes on without it",
        ),
        ("missing", "no-such-program-anywhere", "warning: the log command has ended (exit status: 127)"),
        ("fails-later", "cat > /dev/null; exit 3", "warning: the log command failed: exit status: 3"),
        ("closes", "exec <&-; sleep 2", "warning: the log command has closed its stdin"),
    ] {
        let ran = run(&shell, name, command, "");
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("log command").count(), 1, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(report), "{name}: {}", ran.stderr);
        assert_eq!(steps(&shell.path().join(name)).len(), 6);
    }
}
