//! A run that a signal ends has saved, and goes on to the same bits.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::golden::*;
use crate::shell::Shell;

const STEPS: usize = 300;

fn line(output: &str, more: &str) -> String {
    let model = checkpoint("mqa-linear-tied");
    format!(
        "train --model {model} --data {} --batch-size 4 --learning-rate 1e-3 --max-steps {STEPS} --save-steps 0 \
         --device cpu --output {output} {more}",
        batch("train12")
    )
}

fn start(shell: &Shell, line: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_asft"));
    command
        .args(line.split_whitespace())
        .current_dir(shell.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until the run has recorded some steps.
fn wait_for_steps(run: &Path, count: usize) {
    let began = Instant::now();
    let recorded = || std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count();
    while recorded() < count {
        assert!(began.elapsed() < Duration::from_secs(60), "no step is recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal.
pub fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_signal_saves_and_the_run_goes_on_to_the_same_bits() {
    let shell = Shell::new();
    done(&shell, &line("whole", ""));
    let weights = |run: &str| std::fs::read(shell.path().join(run).join("model.safetensors")).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("USR1", 138)] {
        let run = shell.path().join(signal);
        let mut child = start(&shell, &line(signal, ""));
        wait_for_steps(&run, 3);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{signal}");
        assert!(!run.join("model.safetensors").exists(), "SIG{signal} came too late to test anything");
        let resumed = done(&shell, &line(signal, "--resume"));
        assert!(resumed.stderr.contains("resuming after step "), "{}", resumed.stderr);
        assert!(weights("whole") == weights(signal), "SIG{signal}: other weights than those of a whole run");
        assert_eq!(steps(&run).len(), STEPS);
    }
}
