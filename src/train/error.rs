//! Everything that can end a training run, worded for the person who started it.

use std::path::{Path, PathBuf};

use super::{DiskNeed, Shortfall, gibibytes};
use crate::backend::BackendError;
use crate::checkpoint::CheckpointError;
use crate::config::Difference;
use crate::data::DataError;
use crate::generate::DecodeError;
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
    /// Answers of the trained model.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The run's record.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The plan is larger than the memory.
    #[error(
        "the run needs {} of memory and {} are free, even in the smallest micro-batches ({} tokens; the longest sequence \
         has {}). {}; `asft plan` shows what takes how much",
        gibibytes(.0.needed), gibibytes(.0.available), .0.tokens, .0.longest, .0.advice()
    )]
    Memory(Box<Shortfall>),
    /// A model that only scores is larger than the memory.
    #[error(
        "scoring with the model in {} needs {} of memory in batches of {tokens} tokens, and {} are free. A smaller \
         --max-tokens-per-batch or --max-length shrinks the batches, nothing the model",
        path.display(), gibibytes(*needed), gibibytes(*available)
    )]
    ScoringMemory {
        /// The model's folder.
        path: PathBuf,
        /// Bytes it takes.
        needed: u64,
        /// Bytes free.
        available: u64,
        /// T of its batches.
        tokens: usize,
    },
    /// The file system of the run folder has no room for what the run writes.
    #[error(
        "{}: the run writes up to {} ({} checkpoints of {} at the end, and the model of {}), and {} are free there. {advice}",
        path.display(), gibibytes(need.total()), need.kept(), gibibytes(need.folders.checkpoint),
        gibibytes(need.folders.model), gibibytes(*available)
    )]
    Disk {
        /// The run folder.
        path: PathBuf,
        /// What it writes.
        need: DiskNeed,
        /// Bytes free.
        available: u64,
        /// What to do, as a sentence.
        advice: String,
    },
    /// A number format that the device does not compute in.
    #[error("{setting} {problem}")]
    Format {
        /// The flag.
        setting: &'static str,
        /// What it needs.
        problem: &'static str,
    },
    /// Half fine-tuning where moments of a frozen and of a learnt weight would share a scale.
    #[error(
        "--freeze hft with --optimizer-state 8bit: {name} does not begin at a multiple of {block} elements, so 8-bit moments of \
         it and of its neighbour share a scale; choose --optimizer-state bf16 or f32"
    )]
    FrozenWithinBlock {
        /// The parameter.
        name: String,
        /// Elements that share a scale.
        block: usize,
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
    /// `--reference-mode resident` with an objective that has no use for a reference model.
    #[error(
        "--reference-mode resident is given, and {objective} uses no reference model; leave it out, or choose --objective dpo"
    )]
    NoUseForReferenceMode {
        /// The objective.
        objective: String,
    },
    /// Data that bring reference log-probs where the model is to score them.
    #[error(
        "{place} brings reference log-probs (ref_chosen_logps, ref_rejected_logps, ref_logps), and --reference-mode resident is \
         to compute them with the model; leave those columns out, or choose --reference-mode cached, which takes them"
    )]
    ReferenceColumns {
        /// File and line.
        place: String,
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
    /// Embeddings that cannot be compared.
    #[error(
        "{other} has a prompt_embedding of {found} numbers, and {first} one of {expected}; all must be of one length"
    )]
    EmbeddingLengths {
        /// Where the first row stands.
        first: String,
        /// Its length.
        expected: usize,
        /// Where the other one stands.
        other: String,
        /// Its length.
        found: usize,
    },
    /// Reference log-probs of the data that are sums where tokens are needed.
    #[error(
        "{what}: {place} brings a summed reference log-prob, but this objective weighs tokens; give a list of one log-prob per \
         token, or leave the column out"
    )]
    ReferenceSums {
        /// Which data.
        what: &'static str,
        /// File and line.
        place: String,
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
    #[error("{} cannot be resumed with other settings{}", checkpoint.display(), table(differences))]
    OtherSettings {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A resume with other data or another model.
    #[error(
        "{} cannot be resumed with other inputs: what is there now is not what it was made of. Restore it, or start a new \
         run{}", checkpoint.display(), table(differences)
    )]
    OtherInputs {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The inputs with the first digits of their fingerprints.
        differences: Vec<Difference>,
    },
    /// A resume with an end before the checkpoint.
    #[error(
        "{} is the state after step {done}, and the run is to have {asked} steps; ask for {done} or more, or name an \
         earlier checkpoint (--resume DIR)", checkpoint.display()
    )]
    BeyondTheEnd {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Its step.
        done: usize,
        /// The end that was asked for.
        asked: usize,
    },
    /// A finished run that is to be made longer and has no checkpoint.
    #[error(
        "{} holds the result of a run of {done} steps and no checkpoint, so it cannot go on to step {asked}: a result alone \
         has no optimizer state. Choose another --output (with --model {} to train the result further), or start again with \
         --overwrite-output-dir", run.display(), run.display()
    )]
    NothingToResume {
        /// The run folder.
        run: PathBuf,
        /// The steps of the result.
        done: u64,
        /// The end that was asked for.
        asked: usize,
    },
    /// `--metric-for-best-model` is not among the figures of an evaluation.
    #[error("--metric-for-best-model {metric} is not measured; an evaluation has {}", known.join(", "))]
    UnknownMetric {
        /// The metric.
        metric: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The best checkpoint so far is not in the run folder.
    #[error(
        "{}, the best checkpoint so far, is not there, and --load-best-model-at-end is to end with it; put it back, or \
         start a new run", path.display()
    )]
    BestMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The `--log-command` cannot be started.
    #[error("cannot start the log command `{command}`")]
    LogCommand {
        /// The command.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of the run could not be written: no space, no permission.
    #[error("cannot save {what}. {remedy}; {}", goes_on(last.as_deref()))]
    Save {
        /// What was to be saved.
        what: String,
        /// What would help.
        remedy: String,
        /// The newest whole checkpoint.
        last: Option<PathBuf>,
        /// What was refused.
        source: Box<TrainError>,
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
    /// `--skip-nonfinite`, and one step after the other was not finite.
    #[error(
        "loss or gradient was not finite in steps {first} to {last}, {} in a row: something is wrong beyond single rows, so the \
         run ends. The weights are those before step {first}, saved in {}. A lower --learning-rate may help",
        last + 1 - first, saved.display()
    )]
    NeverFinite {
        /// The first of the steps.
        first: usize,
        /// The last.
        last: usize,
        /// The checkpoint.
        saved: PathBuf,
    },
}

/// Where a run goes on that could not be saved.
fn goes_on(last: Option<&Path>) -> String {
    match last {
        Some(last) => {
            format!("{} is whole, and the same command with --resume goes on from it", last.display())
        }
        None => "there is no checkpoint of this run yet".to_owned(),
    }
}

/// What differs, below a colon: this run's values and the checkpoint's.
fn table(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return " (the run.toml that would say which is not beside it)".to_owned();
    }
    let width = |cell: fn(&Difference) -> &str, title: &str| {
        differences.iter().map(|d| cell(d).chars().count()).max().unwrap_or(0).max(title.len())
    };
    let (key, ours) = (width(|d| &d.key, "setting"), width(|d| &d.ours, "now"));
    let mut text = format!(":\n  {:key$}  {:ours$}  {}", "setting", "now", "checkpoint");
    for d in differences {
        text.push_str(&format!("\n  {:key$}  {:ours$}  {}", d.key, d.ours, d.theirs));
    }
    text
}
