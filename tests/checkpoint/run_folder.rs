//! What a run may write to, and what it may delete.

use std::fs;
use std::path::Path;

use asft::checkpoint::CheckpointError;
use asft::checkpoint::run_folder::{ExistingRun, is_run, prepare, write_run_file};

use crate::fixture::snapshot;

fn command() -> Vec<String> {
    ["asft", "train", "--data", "my pairs.jsonl", "--output", "out"].map(str::to_owned).to_vec()
}

fn go(dir: &Path, existing: ExistingRun) -> Result<(), CheckpointError> {
    prepare(dir, existing, &[], &command())
}

fn run(dir: &Path) {
    fs::create_dir_all(dir.join("checkpoint-1/asft")).unwrap();
    fs::write(dir.join("checkpoint-1/asft/state.json"), "{}").unwrap();
    fs::write(dir.join("metrics.jsonl"), "").unwrap();
    write_run_file(dir, "seed = 1\n").unwrap();
}

#[test]
fn a_new_or_empty_folder_is_made_ready() {
    let dir = tempfile::tempdir().unwrap();
    for existing in [ExistingRun::Refuse, ExistingRun::Resume, ExistingRun::Overwrite] {
        let target = dir.path().join(format!("{existing:?}/run"));
        go(&target, existing).unwrap();
        assert!(target.is_dir());
        go(&target, existing).unwrap();
        // A run killed before it wrote its run.toml.
        fs::write(target.join(".run.toml.tmp-4194305"), "half").unwrap();
        go(&target, existing).unwrap();
    }
}

#[test]
fn an_existing_run_is_refused_with_both_commands() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let before = snapshot(dir.path());
    let error = go(dir.path(), ExistingRun::Refuse).unwrap_err().to_string();
    let line = "asft train --data 'my pairs.jsonl' --output out";
    assert!(error.starts_with(&format!("{} holds a run already.", dir.path().display())), "{error}");
    assert!(error.contains(&format!("\n  {line} --resume\n")), "{error}");
    assert!(error.ends_with(&format!("\n  {line} --overwrite-output-dir")), "{error}");
    assert_eq!(snapshot(dir.path()), before);
    go(dir.path(), ExistingRun::Resume).unwrap();
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn overwriting_deletes_a_run_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    go(dir.path(), ExistingRun::Overwrite).unwrap();
    assert_eq!(snapshot(dir.path()), []);
    assert!(!dir.path().join("checkpoint-1").exists());
    // Somebody's work, and another program's run.toml.
    for files in
        [&[("thesis.tex", "..."), ("config.json", "{}")][..], &[("run.toml", "[run]\nname = 'theirs'\n")]]
    {
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let before = snapshot(dir.path());
        for existing in [ExistingRun::Refuse, ExistingRun::Resume, ExistingRun::Overwrite] {
            let error = go(dir.path(), existing).unwrap_err().to_string();
            assert!(error.contains("holds no run.toml of an asft run, so it is left alone"), "{error}");
            assert_eq!(snapshot(dir.path()), before);
        }
    }
}

#[cfg(unix)]
#[test]
fn overwriting_does_not_follow_links_out_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (target, outside) = (dir.path().join("run"), dir.path().join("outside"));
    run(&target);
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "1").unwrap();
    std::os::unix::fs::symlink(&outside, target.join("link")).unwrap();
    go(&target, ExistingRun::Overwrite).unwrap();
    assert_eq!(snapshot(dir.path()), [("outside/precious".into(), b"1".to_vec())]);
}

#[test]
fn overwriting_spares_what_the_run_reads() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let before = snapshot(dir.path());
    let elsewhere = Path::new("/nowhere");
    for input in [
        dir.path().to_owned(),
        dir.path().join("checkpoint-1"),
        dir.path().join("checkpoint-1/../metrics.jsonl"),
    ] {
        let error =
            prepare(dir.path(), ExistingRun::Overwrite, &[elsewhere, &input], &command()).unwrap_err();
        let expected = format!("would delete {}, which this run reads", input.display());
        assert!(error.to_string().contains(&expected), "{error}");
        assert_eq!(snapshot(dir.path()), before);
    }
    prepare(dir.path(), ExistingRun::Overwrite, &[elsewhere], &command()).unwrap();
}

#[test]
fn a_file_or_a_path_through_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(go(&file, ExistingRun::Overwrite).unwrap_err().to_string().contains("is a file, not a folder"));
    let error = go(&file.join("run"), ExistingRun::Refuse).unwrap_err().to_string();
    assert!(error.starts_with("cannot create "), "{error}");
}

#[test]
fn the_run_file_is_known_again_and_is_toml() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!is_run(dir.path()).unwrap());
    write_run_file(dir.path(), "seed = 1\n").unwrap();
    assert!(is_run(dir.path()).unwrap());
    let text = fs::read_to_string(dir.path().join("run.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["seed"].as_integer(), Some(1));
}
