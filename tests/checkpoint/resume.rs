//! Checkpoints that training continues from: bits kept, mismatches refused, the newest found, the old pruned.

use std::fs;
use std::path::{Path, PathBuf};

use asft::DType;
use asft::checkpoint::resume::{
    Fingerprint, OptimizerFile, ResumeState, Slot, checkpoint_path, find_newest, prune, write_resume,
};
use asft::checkpoint::{CheckpointError, ModelExport, SourceError, atomic};

use crate::fixture::{config, parse, values};

fn state(step: usize) -> ResumeState {
    let inputs = [("data".to_owned(), Fingerprint(u64::MAX)), ("model".to_owned(), Fingerprint(7))];
    let mut state = ResumeState::new(0xfedc_ba98_7654_3210, inputs.into());
    state.step = step;
    state.epoch = 1.0 / 3.0;
    state.tokens_seen = 12_345_678_901;
    (state.planned_steps, state.skipped_steps) = (20, 3);
    state.more.insert("sampler".into(), serde_json::json!({"draws": 3}));
    state
}

/// Values that only exact copying keeps: every kind of bit pattern.
fn bits(slot: Slot, name: &str, elements: usize) -> Vec<f32> {
    let seed =
        slot.tensor(name).bytes().fold(1u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (0..elements as u32).map(|i| f32::from_bits((i + 1).wrapping_mul(seed) & 0x7f7f_ffff)).collect()
}

fn write(dir: &Path, step: usize, parameters: &[(String, Vec<usize>)], slots: &[Slot]) {
    write_resume(dir, &state(step), parameters, slots, &mut |slot, name, start, out| {
        let shape = &parameters.iter().find(|(parameter, _)| parameter == name).ok_or("unknown parameter")?.1;
        out.copy_from_slice(&bits(slot, name, shape.iter().product())[start..start + out.len()]);
        Ok(())
    })
    .unwrap();
}

/// A whole checkpoint of the tiny model.
fn checkpoint(run: &Path, step: usize) -> PathBuf {
    let path = checkpoint_path(run, step);
    atomic::save_folder(&path, |tmp| {
        let model = parse(&config());
        let mut source = |name: &str, start: usize, out: &mut [f32]| -> Result<(), SourceError> {
            out.copy_from_slice(&values(name, start + out.len())[start..]);
            Ok(())
        };
        ModelExport::new(&model, DType::F32, None).write(tmp, &mut source)?;
        write(tmp, step, &model.parameters(), Slot::of_export(DType::F32));
        Ok::<(), CheckpointError>(())
    })
    .unwrap();
    path
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

fn steps(run: &Path) -> Vec<usize> {
    asft::checkpoint::resume::checkpoints(run).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn state_and_tensors_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = parse(&config()).parameters();
    for dtype in [DType::F32, DType::BF16] {
        let slots = Slot::of_export(dtype);
        assert_eq!(slots.contains(&Slot::Master), dtype != DType::F32);
        write(dir.path(), 7, &parameters, slots);
        assert_eq!(ResumeState::read(dir.path()).unwrap(), state(7));
        let file = OptimizerFile::open(dir.path(), &parameters, slots).unwrap();
        for (name, shape) in &parameters {
            for slot in slots {
                let mut out = vec![0.0; shape.iter().product()];
                file.read(*slot, name, &mut out).unwrap();
                let expected = bits(*slot, name, out.len());
                assert!(
                    out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{slot:?} {name}"
                );
            }
        }
    }
}

/// Fingerprints beyond 2^53 stay whole in readers that know only doubles.
#[test]
fn fingerprints_are_written_as_text() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1, &[], &[]);
    let text = fs::read_to_string(dir.path().join("asft/state.json")).unwrap();
    assert!(text.contains("\"config_fingerprint\": \"fedcba9876543210\""), "{text}");
    assert!(text.contains("\"data\": \"ffffffffffffffff\""), "{text}");
    assert!(text.contains(&format!("\"program\": \"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn another_model_s_optimizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = parse(&config()).parameters();
    write(dir.path(), 7, &parameters, &[Slot::M, Slot::V]);
    let open = |parameters: &[(String, Vec<usize>)], slots: &[Slot]| {
        OptimizerFile::open(dir.path(), parameters, slots).unwrap_err().to_string()
    };
    let error = open(&parameters, &[Slot::M, Slot::V, Slot::Master]);
    assert!(error.contains("missing tensors \"master.model.embed_tokens.weight\""), "{error}");
    let error = open(&parameters[1..], &[Slot::M, Slot::V]);
    assert!(
        error.contains("tensors \"m.model.embed_tokens.weight\", \"v.model.embed_tokens.weight\" not"),
        "{error}"
    );
    let mut longer = parameters.clone();
    longer[0].1[0] += 1;
    let error = open(&longer, &[Slot::M, Slot::V]);
    assert!(
        error.contains("tensor \"m.model.embed_tokens.weight\": is F32 [12, 6], but the model to be trained needs F32 [13, 6]"),
        "{error}"
    );
}

#[test]
fn damaged_and_foreign_states_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 7, &[], &[]);
    let path = dir.path().join("asft/state.json");
    let good = fs::read_to_string(&path).unwrap();
    for (text, expected) in [
        (
            good.replace("\"format\": 2", "\"format\": 99").replace(env!("CARGO_PKG_VERSION"), "7.0"),
            "with asft 7.0",
        ),
        (good.replace("\"format\": 2,", ""), "has format none"),
        (good.replace("\"step\": 7", "\"step\": \"x\""), "damaged: invalid type"),
        (good.replace("fedcba", "zzz"), "is not hexadecimal"),
        (good[..good.len() / 2].to_owned(), "damaged: EOF"),
    ] {
        assert_ne!(text, good);
        fs::write(&path, text).unwrap();
        let error = ResumeState::read(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(expected), "{error}");
    }
}

#[test]
fn the_newest_whole_checkpoint_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    assert_eq!(find_newest(&run.join("absent")).unwrap(), None);
    assert_eq!(find_newest(run).unwrap(), None);
    for step in [2, 10, 9] {
        checkpoint(run, step);
    }
    // Names that are not ours, whatever they hold.
    for name in ["checkpoint-011", "checkpoint-", "checkpoint-12b", "checkpoint"] {
        fs::create_dir(run.join(name)).unwrap();
    }
    fs::write(run.join("checkpoint-99"), "a file").unwrap();
    assert_eq!(find_newest(run).unwrap(), Some(checkpoint_path(run, 10)));
    // Each way of not being whole, on the newest in turn.
    for (step, break_it) in [
        (11, &(|path: &Path| fs::remove_dir_all(path.join("asft")).unwrap()) as &dyn Fn(&Path)),
        (12, &|path| fs::remove_file(path.join("asft/optimizer.safetensors")).unwrap()),
        (13, &|path| fs::remove_file(path.join("model.safetensors")).unwrap()),
        (14, &|path| fs::remove_file(path.join("config.json")).unwrap()),
        (15, &|path| fs::rename(path, path.with_file_name("checkpoint-16")).unwrap()),
        (17, &|path| {
            let file = fs::File::options().write(true).open(path.join("model.safetensors")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
    ] {
        break_it(&checkpoint(run, step));
        assert_eq!(find_newest(run).unwrap(), Some(checkpoint_path(run, 10)), "broken {step}");
    }
    fs::rename(checkpoint_path(run, 10), run.join(".checkpoint-10.old-4194305")).unwrap();
    assert_eq!(find_newest(run).unwrap(), Some(checkpoint_path(run, 10)), "put back");
}

/// What was saved only for being the best goes when it is not any more, whatever the limit.
#[test]
fn pruning_removes_what_was_only_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    for step in [1, 2, 3, 4] {
        let path = checkpoint(run, step);
        let state = path.join("asft/state.json");
        let text = fs::read_to_string(&state).unwrap();
        if step != 3 {
            fs::write(state, text.replace("\"only_best\": false", "\"only_best\": true")).unwrap();
        }
    }
    assert_eq!(names(&prune(run, usize::MAX, Some(2)).unwrap()), ["checkpoint-1"]);
    assert_eq!(steps(run), [2, 3, 4], "the newest stays");
    checkpoint(run, 5);
    assert_eq!(names(&prune(run, 2, Some(4)).unwrap()), ["checkpoint-2", "checkpoint-3"]);
    assert_eq!(steps(run), [4, 5]);
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    for step in [1, 2, 3, 4, 10] {
        checkpoint(run, step);
    }
    assert_eq!(names(&prune(run, 5, None).unwrap()), [] as [&str; 0]);
    assert_eq!(names(&prune(run, 3, Some(2)).unwrap()), ["checkpoint-1", "checkpoint-3"]);
    assert_eq!(steps(run), [2, 4, 10]);
    // What is not whole neither counts nor goes: the newest whole one must not be deleted for its sake.
    fs::create_dir(checkpoint_path(run, 20)).unwrap();
    assert_eq!(names(&prune(run, 1, Some(2)).unwrap()), ["checkpoint-4"]);
    assert_eq!(steps(run), [2, 10, 20]);
    assert_eq!(names(&prune(run, 0, None).unwrap()), ["checkpoint-2"]);
    assert_eq!(find_newest(run).unwrap(), Some(checkpoint_path(run, 10)));
}
