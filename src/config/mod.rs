//! What was typed, merged and checked.
//!
//! Two stages. The *arguments* ([`TrainArguments`], [`ScoreArguments`]) hold only what somebody typed: every field is an
//! `Option`, and the same struct is read from the command line, from `ASFT_*` variables and from a TOML file.
//! [`merge`] lays these over each other (flag over environment over file). `resolve` fills in the defaults, checks
//! each value and each combination, and gives the *configuration* ([`TrainConfig`], [`ScoreConfig`]) that the rest of the
//! program uses, in which nothing is left to check.
//!
//! Boundary: this module opens no file but the configuration file, and knows of models and devices only names. What an
//! objective makes of its parameters is checked where the objectives are.

mod arguments;
mod best;
mod choice;
mod error;
mod eval;
mod file;
mod generate;
mod judge;
mod layers;
mod paper;
mod resolve;
mod score;
mod source;
mod train;

pub use arguments::{
    DataArguments, DeviceArguments, EvaluationArguments, ModelArguments, ObjectiveArguments,
    OptimizerArguments, RunArguments, ScheduleArguments, TemplateArguments, TrainArguments,
};
pub use best::{BestConfig, EarlyStopping};
pub use choice::{
    DeviceName, Dtype, Freeze, OptimizerStateName, RecomputeName, Redraw, ReferenceMode, Resume, SaveDtype,
    Scheduler, TruncationMode,
};
pub use error::ConfigError;
pub use eval::{EvalPairsArguments, EvalPairsConfig, MtBenchArguments, MtBenchConfig};
pub use generate::{GenerateArguments, GenerateConfig, PromptSource};
pub use judge::{JudgeArguments, JudgeConfig};
pub use layers::{Arguments, Merged, Origin, merge};
pub use paper::{PaperArguments, PaperConfig};
pub use score::{ScoreArguments, ScoreConfig};
pub use train::{
    BatchSize, DataConfig, Device, DeviceConfig, Difference, Duration, EvalSource, EvaluationConfig,
    ExistingFolder, FormatConfig, InspectConfig, ModelSource, ObjectiveConfig, OptimizerConfig, RunConfig,
    ScheduleConfig, TrainConfig, Warmup,
};

/// `"batch_size"` -> `"--batch-size"`: how messages name a setting, wherever it was typed.
pub(crate) fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}
