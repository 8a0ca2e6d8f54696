//! Saves that fail half way leave everything as it was, and nothing behind.

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use asft::checkpoint::{CheckpointError, atomic, export};

use crate::fixture::snapshot;

fn write(dir: &Path, files: &[(&str, &str)]) -> Result<(), CheckpointError> {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Ok(())
}

fn stop() -> CheckpointError {
    CheckpointError::RunFolder { path: "x".into(), problem: "stopped half way".into() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The id of a process that is not there: one above what Linux can give.
const DEAD: u32 = (1 << 22) + 1;

#[test]
fn a_folder_appears_whole_and_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("runs/checkpoint-1");
    atomic::save_folder(&target, |tmp| {
        assert_eq!(tmp.parent(), target.parent(), "the rename must not cross file systems");
        assert!(!target.exists());
        write(tmp, &[("a", "1"), ("asft/b", "2")])
    })
    .unwrap();
    assert_eq!(snapshot(&target), [("a".into(), b"1".to_vec()), ("asft/b".into(), b"2".to_vec())]);
    atomic::save_folder(&target, |tmp| {
        assert_eq!(
            fs::read(target.join("a")).unwrap(),
            b"1",
            "the old folder stays until the new one is whole"
        );
        write(tmp, &[("c", "3")])
    })
    .unwrap();
    assert_eq!(snapshot(&target), [("c".into(), b"3".to_vec())]);
    assert_eq!(names(target.parent().unwrap()), ["checkpoint-1"]);
}

#[test]
fn an_error_or_panic_leaves_the_old_folder_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    atomic::save_folder(&target, |tmp| write(tmp, &[("a", "old")])).unwrap();
    let error = atomic::save_folder(&target, |tmp| {
        write(tmp, &[("a", "new"), ("b", "new")])?;
        Err::<(), _>(stop())
    });
    assert_eq!(error.unwrap_err().to_string(), "stopped half way");
    let panic = catch_unwind(AssertUnwindSafe(|| {
        atomic::save_folder(&target, |tmp| -> Result<(), CheckpointError> {
            write(tmp, &[("a", "new")])?;
            panic!("half way")
        })
    }));
    assert!(panic.is_err());
    assert_eq!(snapshot(dir.path()), [("model/a".into(), b"old".to_vec())]);
    assert_eq!(names(dir.path()), ["model"]);
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("state.json");
    atomic::save_bytes(&target, b"old").unwrap();
    let error: Result<(), _> = atomic::save_file(&target, |writer| {
        writer.write_all(b"new").unwrap();
        Err::<(), _>(stop())
    });
    assert!(error.is_err());
    assert_eq!(snapshot(dir.path()), [("state.json".into(), b"old".to_vec())]);
    atomic::save_bytes(&target, b"new").unwrap();
    assert_eq!(snapshot(dir.path()), [("state.json".into(), b"new".to_vec())]);
}

#[test]
fn files_are_renamed_into_a_folder_and_stale_shards_go() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("model-00001-of-00002.safetensors", "s"), ("run.toml", "r"), ("config.json", "old")],
    )
    .unwrap();
    write(dir.path(), &[("model-00002-of-00002.safetensors", "s"), ("model.safetensors.index.json", "s")])
        .unwrap();
    let before = snapshot(dir.path());
    let failed = atomic::save_into(dir.path(), "done", export::is_weight_file, |tmp| {
        write(tmp, &[("config.json", "new")])?;
        Err::<(), _>(stop())
    });
    assert!(failed.is_err());
    assert_eq!(snapshot(dir.path()), before);
    atomic::save_into(dir.path(), "done", export::is_weight_file, |tmp| {
        write(tmp, &[("config.json", "new"), ("model.safetensors", "w")])
    })
    .unwrap();
    assert_eq!(names(dir.path()), ["config.json", "model.safetensors", "run.toml"]);
    assert_eq!(fs::read(dir.path().join("config.json")).unwrap(), b"new");
}

/// Whoever finds the mark finds the whole set: a kill in between must not leave an old mark on a mixed set, nor a new one on a
/// set that is not there yet.
#[test]
fn the_mark_of_a_set_goes_first_and_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("config.json", "old"), ("done", "old"), ("z-weights", "old"), ("stale", "old")])
        .unwrap();
    let looked = std::cell::Cell::new(0);
    let in_between = |name: &str| {
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(
            [read("config.json"), read("z-weights"), read("done")],
            [Some("new".into()), Some("new".into()), None]
        );
        looked.set(looked.get() + 1);
        name == "stale"
    };
    atomic::save_into(dir.path(), "done", in_between, |tmp| {
        write(tmp, &[("config.json", "new"), ("done", "new"), ("z-weights", "new")])
    })
    .unwrap();
    assert!(looked.get() > 0);
    assert_eq!(names(dir.path()), ["config.json", "done", "z-weights"]);
    assert_eq!(fs::read(dir.path().join("done")).unwrap(), b"new");
}

/// Elsewhere every other process is taken for dead.
#[cfg(target_os = "linux")]
#[test]
fn what_dead_runs_left_is_cleared_and_what_live_ones_write_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let own = std::process::id();
    let alive = std::os::unix::process::parent_id();
    let kept =
        [format!(".checkpoint-2.tmp-{alive}"), ".hidden".into(), "checkpoint-1".into(), ".x.tmp-".into()];
    let left = [
        format!(".checkpoint-3.tmp-{DEAD}"),
        format!(".checkpoint-3.trash-{DEAD}"),
        format!(".checkpoint-1.old-{DEAD}"),
        format!(".checkpoint-4.tmp-{own}"),
    ];
    for name in kept.iter().chain(&left) {
        write(&dir.path().join(name), &[("a", "1")]).unwrap();
    }
    fs::write(dir.path().join(format!(".state.json.tmp-{DEAD}")), "half").unwrap();
    atomic::recover(dir.path()).unwrap();
    let mut expected = kept.to_vec();
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    atomic::recover(&dir.path().join("absent")).unwrap();
}

/// A kill between the two renames of a replacement: the old folder is there under another name.
#[test]
fn a_replaced_folder_without_successor_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(format!(".checkpoint-5.old-{DEAD}")), &[("a", "old")]).unwrap();
    write(&dir.path().join(format!(".checkpoint-5.tmp-{DEAD}")), &[("a", "new")]).unwrap();
    atomic::recover(dir.path()).unwrap();
    assert_eq!(snapshot(dir.path()), [("checkpoint-5/a".into(), b"old".to_vec())]);
    assert_eq!(names(dir.path()), ["checkpoint-5"]);
}

/// A process that had this one's id died while writing the same folder.
#[test]
fn an_own_leftover_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(format!(".m.tmp-{}", std::process::id())), &[("stale", "1")]).unwrap();
    write(&dir.path().join(format!(".m.old-{}", std::process::id())), &[("stale", "1")]).unwrap();
    let target = dir.path().join("m");
    for text in ["1", "2"] {
        atomic::save_folder(&target, |tmp| write(tmp, &[("a", text)])).unwrap();
        assert_eq!(snapshot(&target), [("a".into(), text.as_bytes().to_vec())]);
    }
    atomic::remove_folder(&target).unwrap();
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}

#[test]
fn an_unwritable_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let target = dir.path().join("file/checkpoint-1");
    let error = atomic::save_folder(&target, |_| Ok::<(), CheckpointError>(())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot create {}", dir.path().join("file").display())), "{error}");
}
