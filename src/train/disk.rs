//! What a run writes, and whether it finds room: known before the first step, because the sizes of checkpoints are.
//!
//! Safetensors files and what is copied beside them count exactly; `metrics.jsonl` and the other small files do not.

use std::path::Path;

use super::{Prepared, TrainError, gibibytes};
use crate::DType;
use crate::checkpoint::resume::{Slot, optimizer_file_bytes};
use crate::checkpoint::{CheckpointError, ModelExport, space};
use crate::config::{ExistingFolder, TrainConfig};
use crate::model::LlamaConfig;

/// Bytes of the folders that a run writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderBytes {
    /// The trained model with its tokenizer files.
    pub model: u64,
    /// A checkpoint: the model, and what is needed to go on.
    pub checkpoint: u64,
}

impl FolderBytes {
    /// Of a model whose weights are saved in `dtype`, with the tokenizer files of the folder `tokenizer`.
    pub fn new(model: &LlamaConfig, dtype: DType, tokenizer: Option<&Path>) -> Result<Self, CheckpointError> {
        let model_bytes = ModelExport::new(model, dtype, tokenizer).bytes()?;
        let optimizer = optimizer_file_bytes(&model.parameters(), Slot::of_export(dtype))?;
        Ok(Self { model: model_bytes, checkpoint: model_bytes + optimizer })
    }
}

/// What a run needs on disk at the worst moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskNeed {
    /// Of each folder.
    pub folders: FolderBytes,
    /// Checkpoints that are written in all.
    pub written: usize,
    /// Checkpoints that are kept; none: all.
    pub keep: Option<usize>,
    /// Whether the best one is kept beyond that.
    pub best: bool,
}

impl DiskNeed {
    /// Of a run of so many steps.
    pub fn new(folders: FolderBytes, config: &TrainConfig, steps: usize) -> Self {
        Self {
            folders,
            written: config.run.save_every.map_or(0, |every| steps / every),
            keep: config.run.keep,
            best: config.evaluation.best.is_some(),
        }
    }

    /// Checkpoints that are there at the end.
    pub fn kept(&self) -> usize {
        self.keep.map_or(self.written, |keep| self.written.min(keep + usize::from(self.best)))
    }

    /// Bytes at the worst moment: an old checkpoint goes only once the new one is whole, and the model is written last.
    pub fn total(&self) -> u64 {
        let checkpoints = |count: usize| self.folders.checkpoint.saturating_mul(count as u64);
        let while_saving = self.written.min(self.kept() + 1);
        checkpoints(while_saving).max(checkpoints(self.kept()).saturating_add(self.folders.model))
    }

    /// What to do, as a sentence, where only `available` bytes are free.
    pub fn advice(&self, available: u64) -> String {
        let fewer = [
            ("--save-total-limit 1", Self { keep: Some(1), ..*self }),
            ("--save-steps 0", Self { written: 0, ..*self }),
        ];
        let enough =
            fewer.iter().filter(|(_, need)| need.total() < self.total() && need.total() <= available);
        let words: Vec<String> =
            enough.map(|(flag, need)| format!("{flag} ({})", gibibytes(need.total()))).collect();
        if words.is_empty() {
            return "Choose an --output with more room".to_owned();
        }
        format!("It would fit with {}, or choose another --output", words.join(", or with "))
    }
}

/// Bytes that the run may write: what is free where its folder lies, and what lies there already and will be replaced or
/// counts as written. None where the system does not say.
pub fn available(config: &TrainConfig) -> Option<u64> {
    let folder = &config.run.output;
    let there = match config.run.existing {
        ExistingFolder::Refuse => 0,
        ExistingFolder::Overwrite | ExistingFolder::ResumeLatest | ExistingFolder::Resume(_) => {
            space::used(folder)
        }
    };
    Some(space::available(folder)?.saturating_add(there))
}

/// Refuses a run for which there is no room.
///
/// # Errors
/// [`TrainError::Disk`].
pub fn check(prepared: &Prepared) -> Result<(), TrainError> {
    let need = prepared.disk;
    match available(&prepared.config) {
        Some(available) if available < need.total() => Err(TrainError::Disk {
            path: prepared.config.run.output.clone(),
            need,
            available,
            advice: need.advice(available),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(written: usize, keep: Option<usize>) -> DiskNeed {
        DiskNeed { folders: FolderBytes { model: 10, checkpoint: 100 }, written, keep, best: false }
    }

    #[test]
    fn the_worst_moment_is_a_save_or_the_end() {
        for (written, keep, kept, total) in [
            (0, None, 0, 10),
            (1, None, 1, 110),
            (5, None, 5, 510),
            (5, Some(2), 2, 300),
            (5, Some(5), 5, 510),
            (5, Some(9), 5, 510),
            (1, Some(1), 1, 110),
        ] {
            let need = need(written, keep);
            assert_eq!((need.kept(), need.total()), (kept, total), "{need:?}");
        }
        let best = DiskNeed { best: true, ..need(5, Some(2)) };
        assert_eq!((best.kept(), best.total()), (3, 400));
    }

    #[test]
    fn only_what_helps_is_proposed() {
        let both = need(5, None).advice(250);
        assert!(both.contains("--save-total-limit 1 (") && both.contains("--save-steps 0 ("), "{both}");
        let one = need(5, None).advice(50);
        assert!(!one.contains("--save-total-limit") && one.contains("--save-steps 0"), "{one}");
        assert_eq!(need(5, None).advice(9), "Choose an --output with more room");
        assert_eq!(need(0, None).advice(9), "Choose an --output with more room");
    }
}
