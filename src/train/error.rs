//! Everything that can end a training run, worded for the person who started it.

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::checkpoint::CheckpointError;
use crate::config::Difference;
use crate::data::DataError;
use crate::model::ConfigError;
use crate::objective::ObjectiveError;
use crate::train::log::LogError;

/// Why a run cannot start or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model or run folder.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run folder cannot be made ready: nothing has begun.
    #[error(transparent)]
    Output(CheckpointError),
    /// A model's configuration.
    #[error(transparent)]
    Model(#[from] ConfigError),
    /// The objective or its parameters.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The run's record.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The plan is larger than the memory.
    #[error(
        "the run needs {} of memory and {} are free, even in the smallest micro-batches ({tokens} tokens). What would \
         make it fit: a smaller --max-length (the longest sequence has {longest} tokens), fewer --head-rows, or a \
         smaller model; `asft plan` shows what takes how much",
        gibibytes(*needed), gibibytes(*available)
    )]
    Memory {
        /// Bytes of the smallest plan.
        needed: u64,
        /// Bytes free.
        available: u64,
        /// Its micro-batch.
        tokens: usize,
        /// Tokens of the longest sequence.
        longest: usize,
    },
    /// A number format that the device does not compute in.
    #[error("{setting} {problem}")]
    Format {
        /// The flag.
        setting: &'static str,
        /// What it needs.
        problem: &'static str,
    },
    /// A model whose heads no kernel was made for.
    #[error(
        "the model's heads have {found} elements (head_dim), and attention on a GPU is made for {}; --device cpu takes any",
        supported.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    )]
    HeadSize {
        /// Elements of a head.
        found: usize,
        /// What there is.
        supported: &'static [usize],
    },
    /// A sequence longer than the model's positions.
    #[error(
        "the longest sequence has {longest} tokens and the model was made for {positions} \
         (max_position_embeddings); lower --max-length to {positions}"
    )]
    TooLong {
        /// Tokens of the longest sequence.
        longest: usize,
        /// The model's bound.
        positions: usize,
    },
    /// The reference model reads other tokens.
    #[error(
        "the reference model in {} has a vocabulary of {theirs} tokens and the model one of {ours}; a reference must \
         share the model's tokenizer",
        path.display()
    )]
    ReferenceVocabulary {
        /// The reference's folder.
        path: PathBuf,
        /// The model's vocabulary.
        ours: usize,
        /// The reference's.
        theirs: usize,
    },
    /// `--reference` with an objective that has no use for one.
    #[error(
        "--reference is given, and {objective} uses no reference model; leave it out, or choose --objective dpo"
    )]
    NoUseForReference {
        /// The objective.
        objective: String,
    },
    /// More reference models than the objective combines.
    #[error(
        "--reference is given {given} times, and {objective} uses at most {most}; mrpo is the objective that combines several"
    )]
    TooManyReferences {
        /// The objective.
        objective: String,
        /// Folders given.
        given: usize,
        /// Folders used.
        most: usize,
    },
    /// A reference cache that is not what its name says.
    #[error("the reference cache {} is damaged ({problem}); delete it, and it will be computed again", path.display())]
    ReferenceCache {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A resume with other settings.
    #[error("{} cannot be resumed with other settings:\n{}", checkpoint.display(), table(differences))]
    OtherSettings {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A resume with other data.
    #[error(
        "{} was trained on other data: the tokens of the training files have changed since. Start a new run, or restore \
         the files", checkpoint.display()
    )]
    OtherData {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The run file of a run that is to be resumed cannot be understood.
    #[error("{}: {problem}", path.display())]
    RunFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The reference model knows fewer positions.
    #[error(
        "the longest sequence has {longest} tokens and the reference model in {} was made for {positions} \
         (max_position_embeddings); lower --max-length to {positions}",
        path.display()
    )]
    ReferencePositions {
        /// The reference's folder.
        path: PathBuf,
        /// Tokens of the longest sequence.
        longest: usize,
        /// The reference's bound.
        positions: usize,
    },
    /// The reference model gives no usable log-probs.
    #[error("{what}: not finite for row {row}; are the reference model's weights whole?")]
    ReferenceNotFinite {
        /// Which data.
        what: &'static str,
        /// 0-based.
        row: usize,
    },
    /// Loss or gradient became infinite or NaN.
    #[error(
        "loss or gradient was not finite at step {step} ({rows}). Nothing was updated from then on; the state before that \
         step is saved in {}. {}",
        saved.display(),
        if *step == 1 { "At the first step the weights themselves are suspect" } else { "A lower --learning-rate may help" }
    )]
    NotFinite {
        /// The step.
        step: usize,
        /// Its rows, by file and line.
        rows: String,
        /// The checkpoint.
        saved: PathBuf,
    },
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}

/// Two columns: this run, the checkpoint's.
fn table(differences: &[Difference]) -> String {
    let width = |cell: fn(&Difference) -> &str, title: &str| {
        differences.iter().map(|d| cell(d).chars().count()).max().unwrap_or(0).max(title.len())
    };
    let (key, ours) = (width(|d| &d.key, "setting"), width(|d| &d.ours, "now"));
    let mut text = format!("  {:key$}  {:ours$}  {}", "setting", "now", "checkpoint");
    for d in differences {
        text.push_str(&format!("\n  {:key$}  {:ours$}  {}", d.key, d.ours, d.theirs));
    }
    text
}
