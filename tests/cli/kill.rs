use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use asft::checkpoint::resume::checkpoints;

use crate::golden::*;
use crate::resume::assert_same_run;
use crate::shell::Shell;

/// Kills of a run of the suite; with `ASFT_TEST_LONG=1` as many as it takes to trust the figure.
const KILLS: [u64; 2] = [20, 300];

/// A run that saves and prunes after nearly every step, so that most kills hit a save: 30 steps, evaluated, sampled, with the
/// best of them as the result.
fn line(output: &str) -> String {
    let eval = batch("mixed6");
    train12(
        "mqa-linear-tied",
        output,
        &format!(
            "--max-steps 30 --lr-scheduler-type cosine --warmup-steps 3 --device cpu --threads 1 --save-steps 1 \
             --save-total-limit 2 --eval-data {eval} --eval-steps 4 --sample-answers 1 --load-best-model-at-end"
        ),
    )
}

/// The same moments on every machine, as shares of a run.
fn random(kill: u64) -> f64 {
    (xxhash_rust::xxh3::xxh3_64(&kill.to_le_bytes()) >> 11) as f64 / (1u64 << 53) as f64
}

/// Starts or resumes the run, and kills it after so long. Gives what it said, and whether it was killed before it was done.
fn killed(shell: &Shell, line: &str, after: Duration) -> (String, bool) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_asft"))
        .args(line.split_whitespace())
        .arg("--resume")
        .current_dir(shell.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    process.kill().unwrap();
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = process.wait().unwrap();
    assert!(status.code().is_none_or(|code| code == 0), "{status}: {said}");
    (said, !status.success())
}

/// The step that a run went on from; 0 for the beginning.
fn resumed_from(said: &str) -> Option<usize> {
    if said.contains("starting from the beginning") {
        return Some(0);
    }
    let (_, rest) = said.split_once("resuming after step ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_kill_at_any_moment_leaves_the_last_checkpoint_and_changes_no_bit() {
    let kills = KILLS[usize::from(std::env::var_os("ASFT_TEST_LONG").is_some())];
    let shell = Shell::new();
    let began = Instant::now();
    done(&shell, &line("whole/run"));
    let (whole, run) = (shell.path().join("whole/run"), shell.path().join("killed/run"));
    let length = began.elapsed();
    let line = line("killed/run");
    let (mut newest, mut finished, mut progress) = (0, 0, 0);
    for kill in 0..kills {
        let (said, was_killed) = killed(&shell, &line, length.mul_f64(random(kill)));
        // A line of the log may be missing where the kill came before it; never one that says less than was saved.
        if let Some(from) = resumed_from(&said) {
            assert!(
                from >= newest,
                "kill {kill}: step {newest} was saved, and the run went on from {from}:\n{said}"
            );
        }
        assert!(!said.contains("not a whole checkpoint"), "kill {kill}:\n{said}");
        let saved = checkpoints(&run).unwrap().last().map_or(0, |(step, _)| *step);
        progress += usize::from(saved > newest);
        newest = newest.max(saved);
        if !was_killed {
            assert_same_run(&whole, &run);
            std::fs::remove_dir_all(&run).unwrap();
            (newest, finished) = (0, finished + 1);
        }
    }
    println!(
        "{kills} kills, {progress} of them after a new checkpoint, {finished} runs came to their end in between"
    );
    assert!(progress > 0, "no kill came after a checkpoint");
    done(&shell, &format!("{line} --resume"));
    assert_same_run(&whole, &run);
    assert!(leftovers(&run).is_empty(), "{:?}", leftovers(&run));
}

/// Temporary names in a run folder.
fn leftovers(run: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}
