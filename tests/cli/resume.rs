use std::path::{Path, PathBuf};

use asft::checkpoint::resume::checkpoints;

use crate::golden::*;
use crate::shell::Shell;

/// Twelve steps with a falling learning rate, shuffled data and evaluations between the saves; `more` says which.
fn recipe(model: &str, output: &str, more: &str) -> String {
    let eval = batch("mixed6");
    let more = format!(
        "--max-steps 12 --save-steps 5 --lr-scheduler-type cosine --warmup-steps 2 --weight-decay 0.1 \
         --eval-data {eval} --eval-steps 4 --sample-answers 2 --logging-steps 3 {more}"
    );
    train12(model, output, &more)
}

/// The folder of a whole run as a kill some steps after `checkpoint-STEP` would have left it, under the same name in
/// another folder (a model card has the folder's name).
pub fn killed_after(shell: &Shell, whole: &Path, step: usize) -> PathBuf {
    let place = shell.path().join(format!("killed-{step}"));
    let run = copy_folder(whole, &place.join(whole.file_name().unwrap()));
    for name in ["model.safetensors", "config.json", "trainer_state.json", "README.md", "curves.svg"] {
        std::fs::remove_file(run.join(name)).unwrap();
    }
    for (_, path) in checkpoints(&run).unwrap().into_iter().filter(|(later, _)| *later > step) {
        std::fs::remove_dir_all(path).unwrap();
    }
    // The record went on for a step and a half; a save had begun.
    let record = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let of_next = |line: &&str| line.starts_with(&format!("{{\"step\":{},", step + 2));
    let end = record.find(record.lines().find(of_next).unwrap()).unwrap() + 30;
    std::fs::write(run.join("metrics.jsonl"), &record[..end]).unwrap();
    // Beyond the largest process id there is.
    let half = run.join(format!(".checkpoint-{}.tmp-4194305", step + 5));
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("model.safetensors"), "half").unwrap();
    run
}

/// Every file of two runs but for times and memory in the record, and for where they lie in run.toml.
#[track_caller]
pub fn assert_same_run(one: &Path, other: &Path) {
    for (ours, theirs) in timeless(one).iter().zip(timeless(other)) {
        assert_eq!(*ours, theirs);
    }
    assert_eq!(timeless(one).len(), timeless(other).len());
    let (mut ours, mut theirs) = (contents(one), contents(other));
    for machine in ["metrics.jsonl", "run.toml"] {
        assert!(ours.remove(machine).is_some() && theirs.remove(machine).is_some());
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let differing: Vec<&String> = ours.keys().filter(|name| ours[*name] != theirs[*name]).collect();
    assert!(differing.is_empty(), "{differing:?} differ");
}

#[test]
fn a_resumed_run_has_the_bits_of_one_that_never_stopped() {
    for (model, more) in [
        ("mqa-linear-tied", ""),
        ("mha-bf16-v5", ""),
        ("gqa-llama3", "--objective dpo --beta 0.3"),
        (
            "gqa-f16-sharded-tied",
            "--objective orpo --per-device-train-batch-size 1 --gradient-accumulation-steps 4",
        ),
    ] {
        let shell = Shell::new();
        let mut line = recipe(model, "whole", more);
        if more.contains("per-device") {
            line = line.replace("--batch-size 4", "");
        }
        done(&shell, &line);
        let whole = shell.path().join("whole");
        for step in [5, 10] {
            let run = killed_after(&shell, &whole, step);
            let ran = done(
                &shell,
                &format!("{line} --output {} --resume", run.display()).replace("--output whole", ""),
            );
            assert!(ran.stderr.contains(&format!("resuming after step {step} from ")), "{}", ran.stderr);
            assert!(ran.stdout.starts_with(&format!("\nTrained {} steps in ", 12 - step)), "{}", ran.stdout);
            assert_same_run(&whole, &run);
            if more.contains("dpo") {
                assert!(ran.stderr.contains("reference log-probs: 12 rows from "), "{}", ran.stderr);
                assert!(
                    ran.stderr.contains("reference log-probs (evaluation): 6 rows from "),
                    "{}",
                    ran.stderr
                );
                assert!(!ran.stderr.contains("computed"), "{}", ran.stderr);
            }
        }
    }
}

#[test]
fn reference_log_probs_do_not_depend_on_the_cache() {
    let shell = Shell::new();
    let line = train12("gqa-llama3", "run", "--objective dpo --max-steps 2");
    let first = done(&shell, &line);
    assert!(
        first.stderr.contains("reference log-probs: 12 rows computed, kept in cache/"),
        "{}",
        first.stderr
    );
    assert!(first.stderr.contains("first loss 0.693147, ln 2 = 0.693147"), "{}", first.stderr);
    let cached = done(&shell, &train12("gqa-llama3", "cached", "--objective dpo --max-steps 2"));
    assert!(cached.stderr.contains("reference log-probs: 12 rows from cache/"), "{}", cached.stderr);
    // Another reference, and other pairs, have a cache of their own.
    let other = checkpoint("gqa-llama3-reference");
    let other = train12("gqa-llama3", "other", &format!("--objective dpo --max-steps 2 --reference {other}"));
    assert!(done(&shell, &other).stderr.contains("computed"));
    assert_eq!(std::fs::read_dir(shell.path().join("cache")).unwrap().count(), 2);
    let [run, cached, other] = ["run", "cached", "other"].map(|name| shell.path().join(name));
    assert_eq!(timeless(&run), timeless(&cached));
    assert_ne!(losses(&run), losses(&other));
    // A damaged cache is told from a good one.
    for entry in std::fs::read_dir(shell.path().join("cache")).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let ran = typed(&shell, &format!("{line} --overwrite-output-dir"));
    assert!(
        ran.code == 2 && ran.stderr.contains("is damaged") && ran.stderr.contains("delete it"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_run_goes_on_from_the_checkpoint_that_is_named() {
    let shell = Shell::new();
    let line = recipe("mqa-linear-tied", "run", "");
    done(&shell, &line);
    let run = shell.path().join("run");
    let before = copy_folder(&run, &shell.path().join("before/run"));
    let ran = done(&shell, &format!("{line} --resume run/checkpoint-5"));
    assert!(ran.stderr.contains("resuming after step 5 from run/checkpoint-5"), "{}", ran.stderr);
    // What lay beyond is no checkpoint of this course of the run, and not deleted either.
    let aside = run.join("checkpoint-10.set-aside");
    assert!(contents(&aside) == contents(&before.join("checkpoint-10")));
    std::fs::remove_dir_all(aside).unwrap();
    assert_same_run(&before, &run);
    for folder in ["run", "nowhere"] {
        let ran = typed(&shell, &format!("{line} --resume {folder}"));
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        let message =
            format!("error: {folder}: is no checkpoint: there is no folder asft/ in it; give a checkpoint-N");
        assert!(ran.stderr.contains(&message), "{}", ran.stderr);
    }
    assert_same_run(&before, &run);
}

#[test]
fn other_settings_are_refused_in_a_table() {
    let shell = Shell::new();
    let line = recipe("mqa-linear-tied", "run", "");
    done(&shell, &line);
    let run = shell.path().join("run");
    std::fs::remove_file(run.join("trainer_state.json")).unwrap();
    let before = contents(&run);
    let line = line.replace("--learning-rate 1e-3", "--learning-rate 2e-3");
    let ran = typed(&shell, &format!("{line} --lambda 0.5 --resume"));
    assert_eq!((ran.code, &*ran.stdout), (2, ""));
    let (_, table) = ran.stderr.split_once("error: ").unwrap();
    let expected = "run/checkpoint-10 cannot be resumed with other settings:\n  \
                    setting        now    checkpoint\n  \
                    lambda         0.5    1.0\n  \
                    learning_rate  0.002  0.001\n";
    assert_eq!(table, expected);
    assert!(contents(&run) == before, "a file has changed");
    // What does not decide the bits may change.
    let line = recipe("mqa-linear-tied", "run", "--save-total-limit 2 --threads 1");
    done(&shell, &format!("{line} --resume"));
}

/// A mistake in what was typed is told at once, and not after hours of loading: there is nothing here to load.
#[test]
fn the_run_folder_is_looked_at_before_anything_is_loaded() {
    let shell = Shell::new();
    let line = recipe("mqa-linear-tied", "run", "");
    done(&shell, &line);
    let before = contents(&shell.path().join("run"));
    let unloadable =
        line.replace(&batch("train12"), "nowhere.jsonl").replace(&checkpoint("mqa-linear-tied"), "no-model");
    for (more, message) in [
        ("", "run holds a run already. To continue it:"),
        ("--lambda 0.5 --resume", "run/checkpoint-10 cannot be resumed with other settings:"),
        ("--resume run", "run: is no checkpoint"),
        ("--objective orpo --beta 1 --resume", "orpo: TRL's beta is --lambda here"),
    ] {
        let ran = typed(&shell, &format!("{unloadable} {more}"));
        assert!(ran.code == 2 && ran.stderr.contains(message), "{more}: {}", ran.stderr);
    }
    assert!(contents(&shell.path().join("run")) == before, "a file has changed");
}

/// Not where the files lie is compared but what is in them.
#[test]
fn inputs_may_have_moved() {
    let shell = Shell::new();
    let sub = shell.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    shell.write("pairs.jsonl", std::fs::read(batch("train12")).unwrap());
    copy_folder(checkpoint("mqa-linear-tied").as_ref(), &shell.path().join("model"));
    let line = recipe("model", "whole/run", "")
        .replace(&checkpoint("model"), "model")
        .replace(&batch("train12"), "pairs.jsonl");
    done(&shell, &line);
    let run = killed_after(&shell, &shell.path().join("whole/run"), 5);
    // The same files seen from another folder, one of them under another name.
    std::fs::rename(shell.path().join("pairs.jsonl"), shell.path().join("renamed.jsonl")).unwrap();
    let line = line.replace("--model model", "--model ../model").replace("pairs.jsonl", "../renamed.jsonl");
    let line =
        line.replace("whole/run", &format!("../{}", run.strip_prefix(shell.path()).unwrap().display()));
    let ran =
        shell.command().current_dir(&sub).args(line.split_whitespace()).arg("--resume").output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success() && stderr.contains("resuming after step 5"), "{stderr}");
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&shell.path().join("whole/run")));
    // Another model's architecture is another input.
    let config = shell.path().join("model/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06")).unwrap();
    let line = line.replace("--max-steps 12", "--max-steps 14");
    let mut command = shell.command();
    command.current_dir(&sub).args(line.split_whitespace()).arg("--resume");
    let ran = command.output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(2) && stderr.contains("\n  model    \"../model\" ("), "{stderr}");
}

#[test]
fn a_new_end_is_announced_with_what_it_does_to_the_schedule() {
    let shell = Shell::new();
    let line = |kind: &str, steps: usize| {
        let more = format!("--lr-scheduler-type {kind} --max-steps {steps} --save-steps 3");
        train12("mqa-linear-tied", kind, &more)
    };
    for kind in ["linear", "cosine", "constant"] {
        done(&shell, &line(kind, 6));
        let ran = done(&shell, &format!("{} --resume", line(kind, 12)));
        let said = "the run was planned for 6 steps and now has 12";
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        let rates: Vec<f64> = steps(&shell.path().join(kind))
            .iter()
            .map(|line| line["learning_rate"].as_f64().unwrap())
            .collect();
        assert_eq!(rates.len(), 12);
        match kind {
            "linear" => {
                // Of 6 steps the seventh has nothing left; of 12 it has the half.
                assert_eq!((rates[5], rates[6]), (1e-3 / 6.0, 5e-4));
                let warning = "from step 7 on the learning rate is that of the linear schedule over 12 steps (5.00e-4 at \
                               step 7 instead of ";
                assert!(ran.stderr.contains(warning), "{}", ran.stderr);
            }
            "cosine" => assert!(ran.stderr.contains("the cosine schedule over 12 steps"), "{}", ran.stderr),
            _ => assert!(ran.stderr.contains("learning rate 1.00e-3 as before"), "{}", ran.stderr),
        }
        let ran = typed(&shell, &format!("{} --resume {kind}/checkpoint-12", line(kind, 4)));
        let message = format!(
            "{kind}/checkpoint-12 is the state after step 12, and the run is to have 4 steps; ask for 12 or more"
        );
        assert!(ran.code == 2 && ran.stderr.contains(&message), "{}", ran.stderr);
    }
}

#[test]
fn a_result_without_a_checkpoint_is_not_trained_over() {
    let shell = Shell::new();
    let line =
        |steps: usize| train12("mqa-linear-tied", "run", &format!("--max-steps {steps} --save-steps 0"));
    done(&shell, &line(3));
    let before = contents(&shell.path().join("run"));
    let ran = typed(&shell, &format!("{} --resume", line(5)));
    let message = "run holds the result of a run of 3 steps and no checkpoint, so it cannot go on to step 5";
    assert!(ran.code == 2 && ran.stderr.contains(message), "{}", ran.stderr);
    assert!(contents(&shell.path().join("run")) == before, "a file has changed");
}

#[test]
fn checkpoints_none_of_which_is_whole_are_not_taken_for_none() {
    let shell = Shell::new();
    let line = recipe("mqa-linear-tied", "run", "");
    done(&shell, &line);
    let run = killed_after(&shell, &shell.path().join("run"), 5);
    std::fs::remove_file(run.join("checkpoint-5/asft/optimizer.safetensors")).unwrap();
    let line = line.replace("--output run", &format!("--output {}", run.display()));
    let before = std::fs::read(run.join("metrics.jsonl")).unwrap();
    let ran = typed(&shell, &format!("{line} --resume"));
    assert!(ran.code == 2 && ran.stderr.contains("are not whole; restore one"), "{}", ran.stderr);
    assert!(std::fs::read(run.join("metrics.jsonl")).unwrap() == before);
}

#[test]
fn a_checkpoint_goes_on_in_another_folder_with_its_record() {
    let shell = Shell::new();
    done(&shell, &recipe("mqa-linear-tied", "whole/run", ""));
    let line = recipe("mqa-linear-tied", "other/run", "--resume whole/run/checkpoint-5");
    done(&shell, &line);
    let [whole, other] = ["whole/run", "other/run"].map(|name| shell.path().join(name));
    std::fs::remove_dir_all(whole.join("checkpoint-5")).unwrap();
    assert_same_run(&whole, &other);
}

#[test]
fn other_data_are_refused() {
    let shell = Shell::new();
    let pairs = std::fs::read_to_string(batch("train12")).unwrap();
    shell.write("pairs.jsonl", &pairs);
    let line = recipe("mqa-linear-tied", "run", "").replace(&batch("train12"), "pairs.jsonl");
    done(&shell, &line);
    let run = killed_after(&shell, &shell.path().join("run"), 5);
    std::fs::remove_dir_all(run.join(".checkpoint-10.tmp-4194305")).unwrap();
    let before = contents(&run);
    let line = line.replace("--output run", &format!("--output {}", run.display()));
    // Another id in one answer: the same number of rows and tokens.
    shell.write("pairs.jsonl", pairs.replacen("[42, 53, 53,", "[42, 53, 54,", 1));
    let ran = typed(&shell, &format!("{line} --resume"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let message = "checkpoint-5 cannot be resumed with other inputs";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
    let row = ran.stderr.lines().find(|line| line.trim_start().starts_with("data ")).unwrap();
    assert_eq!(row.matches("[\"pairs.jsonl\"] (").count(), 2, "{row}");
    assert!(contents(&run) == before, "a file has changed");
    shell.write("pairs.jsonl", &pairs);
    done(&shell, &format!("{line} --resume"));
}

#[test]
fn nothing_to_resume_is_a_beginning() {
    let shell = Shell::new();
    let ran = done(&shell, &recipe("mqa-linear-tied", "run", "--resume"));
    assert!(ran.stderr.contains("no checkpoint in run: starting from the beginning"), "{}", ran.stderr);
    done(&shell, &recipe("mqa-linear-tied", "fresh/run", ""));
    assert_same_run(&shell.path().join("fresh/run"), &shell.path().join("run"));
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let shell = Shell::new();
    let eval = batch("mixed6");
    let settings = format!("--max-steps 3 --sample-answers 1 --eval-data {eval}");
    let line = train12("mqa-linear-tied", "run", &settings);
    let first = done(&shell, &line);
    let run = shell.path().join("run");
    assert!(!files(&run).iter().any(|name| name.starts_with("checkpoint")), "only the result tells");
    let before = contents(&run);
    let ran = done(&shell, &format!("{line} --resume"));
    assert!(
        ran.stderr.contains("the run in run has done its 3 steps already; nothing to do"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.starts_with("\nThe run had done its 3 steps already.\n"), "{}", ran.stdout);
    let results = |text: &str| text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(results(&ran.stdout), results(&first.stdout), "with the results that it had");
    let other = typed(&shell, &format!("{line} --objective sft --resume"));
    assert!(other.code == 2 && other.stderr.contains("other settings"), "{}", other.stderr);
    assert!(contents(&run) == before, "a file has changed");
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let shell = Shell::new();
    let line = |output: &str, steps: usize| {
        let more = format!("--lr-scheduler-type constant --max-steps {steps} --save-steps 3");
        train12("mha-bf16-v5", output, &more)
    };
    done(&shell, &line("long/run", 8));
    done(&shell, &line("run", 4));
    let ran = done(&shell, &format!("{} --resume", line("run", 8)));
    assert!(ran.stderr.contains("resuming after step 3"), "{}", ran.stderr);
    // But for what the first checkpoint says of the length that was planned, everything is that of the long run.
    let (long, run) = (shell.path().join("long/run"), shell.path().join("run"));
    for name in
        ["README.md", "trainer_state.json", "asft/state.json"].map(|name| format!("checkpoint-3/{name}"))
    {
        std::fs::copy(long.join(&name), run.join(&name)).unwrap();
    }
    assert_same_run(&long, &run);
    // A checkpoint of the last step, and a kill before the result was written.
    done(&shell, &line("even/run", 6));
    let even = shell.path().join("even/run");
    let state = std::fs::read(even.join("trainer_state.json")).unwrap();
    std::fs::remove_file(even.join("trainer_state.json")).unwrap();
    done(&shell, &format!("{} --resume", line("even/run", 6)));
    assert!(std::fs::read(even.join("trainer_state.json")).unwrap() == state);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let shell = Shell::new();
    let checkpoints = |run: &str| {
        let mut found: Vec<String> = std::fs::read_dir(shell.path().join(run))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("checkpoint"))
            .collect();
        found.sort();
        found
    };
    done(&shell, &train12("mqa-linear-tied", "all", "--max-steps 5 --save-steps 1"));
    assert_eq!(checkpoints("all").len(), 5);
    done(&shell, &train12("mqa-linear-tied", "two", "--max-steps 5 --save-steps 1 --save-total-limit 2"));
    assert_eq!(checkpoints("two"), ["checkpoint-4", "checkpoint-5"]);
    done(&shell, &train12("mqa-linear-tied", "none", "--max-steps 5 --save-steps 0"));
    assert!(checkpoints("none").is_empty());
}
