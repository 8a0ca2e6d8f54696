//! Linux only: limits and mounts are made with its tools.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use asft::checkpoint::resume::{checkpoints, find_newest};

use crate::golden::*;
use crate::resume::assert_same_run;
use crate::shell::{Ran, Shell};
use crate::skip::skip;

/// Whoever has no rights: `nobody`.
const NOBODY: u32 = 65534;

fn line(output: &str, more: &str) -> String {
    train12(
        "mqa-linear-tied",
        output,
        &format!("--lr-scheduler-type constant --save-steps 4 --device cpu {more}"),
    )
}

/// Runs a script in the shell's folder, with `$ASFT` for the program.
fn script(shell: &Shell, text: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", text]).env("ASFT", env!("CARGO_BIN_EXE_asft")).current_dir(shell.path());
    Ran::from(command.output().unwrap())
}

/// The names in a run folder that a save has not finished with.
fn leftovers(run: &Path) -> Vec<String> {
    files(run).into_iter().filter(|name| name.starts_with('.')).collect()
}

#[test]
fn a_limit_on_files_costs_the_run_and_no_checkpoint() {
    let shell = Shell::new();
    done(&shell, &line("whole/run", "--max-steps 12"));
    done(&shell, &line("run", "--max-steps 4"));
    let run = shell.path().join("run");
    let before = contents(&run.join("checkpoint-4"));
    let largest = before.values().map(Vec::len).max().unwrap();
    // 512-byte blocks: fewer than the largest file of a checkpoint needs.
    let limited =
        format!("ulimit -f {}; exec \"$ASFT\" {}", largest / 1024, line("run", "--max-steps 12 --resume"));
    let ran = script(&shell, &limited);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [
        "cannot save the state after step 8. A limit on the size of files (ulimit -f) is in the way; a checkpoint takes ",
        "run/checkpoint-4 is whole, and the same command with --resume goes on from it",
        "(os error 27)",
    ] {
        assert!(ran.stderr.contains(words), "no {words:?} in\n{}", ran.stderr);
    }
    assert!(contents(&run.join("checkpoint-4")) == before, "the checkpoint before has changed");
    assert!(leftovers(&run).is_empty(), "{:?}", leftovers(&run));
    done(&shell, &line("run", "--max-steps 12 --resume"));
    let whole = shell.path().join("whole/run");
    let weights = |run: &Path| std::fs::read(run.join("checkpoint-12/asft/optimizer.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&run));
}

#[test]
fn a_full_disk_costs_the_run_and_no_checkpoint() {
    let shell = Shell::new();
    let mount = "mkdir -p small && mount -t tmpfs -o size=24m none small 2>&1";
    let probe = script(&shell, &format!("unshare -rm sh -c '{mount}'"));
    if probe.code != 0 {
        let why = format!("{}{}", probe.stdout.trim(), probe.stderr.trim());
        return skip("cli::disk::a_full_disk_costs_the_run_and_no_checkpoint", "a mount of its own", &why);
    }
    let train =
        |output: &str| line(output, "--max-steps 600").replacen("--save-steps 4", "--save-steps 10", 1);
    done(&shell, &train("whole/run"));
    // There is room for all of it at first, until somebody else takes the rest. What is in the mount is gone with the process:
    // it is copied out.
    let fill =
        "while [ ! -d small/run/checkpoint-20 ]; do sleep 0.01; done; cat /dev/zero > small/other 2>&-";
    let small = train("small/run");
    let inside = format!(
        "{mount} && {{ {{ {fill}; }} & \"$ASFT\" {small}; code=$?; wait; cp -r small/run kept; exit $code; }}"
    );
    let ran = script(&shell, &format!("unshare -rm sh -c '{inside}'"));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [
        "There is no space left for small/run; a checkpoint takes ",
        "is whole, and the same command",
        "(os error 28)",
    ] {
        assert!(ran.stderr.contains(words), "no {words:?} in\n{}", ran.stderr);
    }
    let kept = shell.path().join("kept");
    let saved = checkpoints(&kept).unwrap();
    assert!(saved.len() > 1, "the disk was full from the beginning");
    assert_eq!(
        find_newest(&kept).unwrap().as_ref(),
        saved.last().map(|(_, path)| path),
        "the newest is not whole"
    );
    assert!(leftovers(&kept).is_empty(), "{:?}", leftovers(&kept));
    // On a larger disk it goes on to the same bits.
    std::fs::create_dir(shell.path().join("large")).unwrap();
    std::fs::rename(&kept, shell.path().join("large/run")).unwrap();
    done(&shell, &(train("large/run") + " --resume"));
    let [whole, large] = ["whole/run", "large/run"].map(|run| shell.path().join(run));
    assert_eq!(timeless(&whole), timeless(&large));
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&large));
}

/// The user may write at first and not any more when the first checkpoint is due.
#[test]
fn a_folder_that_cannot_be_written_to_any_more_costs_the_run_and_no_checkpoint() {
    let shell = Shell::new();
    let name = "cli::disk::a_folder_that_cannot_be_written_to_any_more_costs_the_run_and_no_checkpoint";
    // The rights of a folder mean nothing to root.
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = |command: &mut Command| {
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    if is_root {
        chown(shell.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut probe = Command::new(env!("CARGO_BIN_EXE_asft"));
        user(probe.arg("--version").stdout(Stdio::null()));
        if !probe.status().is_ok_and(|status| status.success()) {
            return skip(name, "a user other than root", "the program cannot be started as nobody");
        }
    }
    let asft = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_asft"));
        user(command.args(line.split_whitespace()).current_dir(shell.path()).stdin(Stdio::null()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let run = shell.path().join("run");
    let began = Instant::now();
    let more = "--max-steps 800 --save-steps 200 --save-total-limit 1";
    let train = line("run", more).replacen("--save-steps 4 ", "", 1);
    let child = asft(&train);
    while !run.join("checkpoint-200").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    let rights = |mode: u32| std::fs::set_permissions(&run, std::fs::Permissions::from_mode(mode)).unwrap();
    rights(0o555);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [
        "The folder run and what is in it must be writable for this user; ",
        " is whole, and the same command with --resume goes on from it",
        "(os error 13)",
    ] {
        assert!(ran.stderr.contains(words), "no {words:?} in\n{}", ran.stderr);
    }
    // Found at once where it is so from the beginning, before anything is loaded.
    let early = train.replace(&batch("train12"), "no-such-file");
    let ran = Ran::from(asft(&format!("{early} --resume")).wait_with_output().unwrap());
    assert!(
        ran.code == 2 && ran.stderr.starts_with("error: cannot write to run: Permission denied"),
        "{}",
        ran.stderr
    );
    rights(0o755);
    let ran = Ran::from(asft(&format!("{train} --resume")).wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    done(&shell, &train.replace("--output run", "--output whole/run"));
    assert_same_run(&shell.path().join("whole/run"), &run);
}
