//! Settings that are one of a few names. The names are written once, for clap; TOML reads and writes the same ones.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::nearest;
use crate::data::Truncation;
use crate::model::{OptimizerState, Recompute};

/// Shape of the learning rate after the warm-up (the names of `lr_scheduler_type` in transformers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Falls linearly to 0 at the last step.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays. A warm-up is honoured, as transformers does under the name `constant_with_warmup`.
    #[value(alias = "constant_with_warmup")]
    Constant,
}

impl From<Scheduler> for crate::optim::ScheduleKind {
    fn from(scheduler: Scheduler) -> Self {
        match scheduler {
            Scheduler::Linear => Self::Linear,
            Scheduler::Cosine => Self::Cosine,
            Scheduler::Constant => Self::Constant,
        }
    }
}

/// Type of the weights in a saved folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaveDtype {
    /// IEEE single precision.
    #[value(alias = "float32")]
    F32,
    /// IEEE half precision.
    #[value(alias = "float16")]
    F16,
    /// bfloat16.
    #[value(alias = "bfloat16")]
    Bf16,
}

impl From<SaveDtype> for crate::DType {
    fn from(dtype: SaveDtype) -> Self {
        match dtype {
            SaveDtype::F32 => Self::F32,
            SaveDtype::F16 => Self::F16,
            SaveDtype::Bf16 => Self::BF16,
        }
    }
}

/// What weights and activations are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// IEEE single precision.
    #[value(alias = "float32")]
    F32,
    /// bfloat16; arithmetic, statistics and weight gradients stay f32.
    #[value(alias = "bfloat16")]
    Bf16,
}

impl From<Dtype> for crate::backend::Element {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

impl From<crate::backend::Element> for Dtype {
    fn from(element: crate::backend::Element) -> Self {
        if element == crate::backend::Element::Bf16 { Self::Bf16 } else { Self::F32 }
    }
}

/// What AdamW keeps of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerStateName {
    /// f32 moments and f32 master weights: 16 bytes per parameter in all.
    F32,
    /// bf16 moments, bf16 weights rounded stochastically: 10 bytes.
    Bf16,
    /// 8-bit moments, bf16 weights rounded stochastically: 8 bytes.
    #[value(name = "8bit")]
    EightBit,
}

impl From<OptimizerStateName> for OptimizerState {
    fn from(name: OptimizerStateName) -> Self {
        match name {
            OptimizerStateName::F32 => Self::F32,
            OptimizerStateName::Bf16 => Self::Bf16,
            OptimizerStateName::EightBit => Self::EightBit,
        }
    }
}

impl From<OptimizerState> for OptimizerStateName {
    fn from(state: OptimizerState) -> Self {
        match state {
            OptimizerState::F32 => Self::F32,
            OptimizerState::Bf16 => Self::Bf16,
            OptimizerState::EightBit => Self::EightBit,
        }
    }
}

/// What the backward pass computes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecomputeName {
    /// As little as memory allows.
    Auto,
    /// Nothing.
    None,
    /// The outputs of norms and of the gated activation.
    Norms,
    /// Whole blocks.
    Blocks,
}

impl RecomputeName {
    /// The level, unless it is to be chosen.
    pub fn level(self) -> Option<Recompute> {
        match self {
            RecomputeName::Auto => None,
            RecomputeName::None => Some(Recompute::Nothing),
            RecomputeName::Norms => Some(Recompute::Norms),
            RecomputeName::Blocks => Some(Recompute::Blocks),
        }
    }
}

impl From<Recompute> for RecomputeName {
    fn from(level: Recompute) -> Self {
        match level {
            Recompute::Nothing => Self::None,
            Recompute::Norms => Self::Norms,
            Recompute::Blocks => Self::Blocks,
        }
    }
}

/// Where reference log-probs come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReferenceMode {
    /// Computed once before training, and kept for later runs.
    #[default]
    Cached,
    /// Computed for every micro-batch by the model, which stays on the device.
    Resident,
}

/// Which parameters are not learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Freeze {
    /// All are.
    #[default]
    None,
    /// About half of every layer's, drawn again and again (arXiv 2404.18466).
    #[value(alias = "half")]
    Hft,
}

/// When half fine-tuning draws another half. TOML: `"epoch"` or a number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redraw {
    /// Every epoch.
    Epoch,
    /// Every so many optimizer steps; at least 1.
    Steps(i64),
}

impl Redraw {
    /// What a typed value means.
    pub(crate) fn parse(typed: &str) -> Result<Self, String> {
        if typed.eq_ignore_ascii_case("epoch") {
            return Ok(Self::Epoch);
        }
        let steps = typed.parse().ok().filter(|&steps: &i64| steps >= 1);
        steps
            .map(Self::Steps)
            .ok_or_else(|| format!("{typed:?} is neither epoch nor a number of steps from 1 on"))
    }
}

impl Serialize for Redraw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Epoch => serializer.serialize_str("epoch"),
            Self::Steps(steps) => serializer.serialize_i64(*steps),
        }
    }
}

impl<'de> Deserialize<'de> for Redraw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Redraw;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("\"epoch\" or a number of steps from 1 on")
            }
            fn visit_i64<E: de::Error>(self, steps: i64) -> Result<Redraw, E> {
                Redraw::parse(&steps.to_string()).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, steps: u64) -> Result<Redraw, E> {
                Redraw::parse(&steps.to_string()).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Redraw, E> {
                Redraw::parse(value).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What becomes of an answer longer than `--max-length` leaves room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum TruncationMode {
    /// Its end is cut off.
    #[value(alias = "keep-start")]
    KeepStart,
    /// The row is dropped.
    Drop,
}

impl From<TruncationMode> for Truncation {
    fn from(mode: TruncationMode) -> Self {
        match mode {
            TruncationMode::KeepStart => Self::KeepStart,
            TruncationMode::Drop => Self::Drop,
        }
    }
}

impl From<Truncation> for TruncationMode {
    fn from(truncation: Truncation) -> Self {
        match truncation {
            Truncation::KeepStart => Self::KeepStart,
            Truncation::Drop => Self::Drop,
        }
    }
}

/// A device as it is typed; [`super::Device`] is what a configuration may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The best device that this build and machine have.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Reads and writes a [`ValueEnum`] by its name; an unknown name is answered with all names and the nearest.
macro_rules! serde_by_name {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let value = self.to_possible_value().expect("no variant is skipped");
                serializer.serialize_str(value.get_name())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse_name(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )*};
}
serde_by_name!(
    Scheduler,
    SaveDtype,
    DeviceName,
    Dtype,
    Freeze,
    OptimizerStateName,
    RecomputeName,
    ReferenceMode,
    TruncationMode
);

fn parse_name<T: ValueEnum>(typed: &str) -> Result<T, String> {
    T::from_str(typed, false).map_err(|_| {
        let shown =
            T::value_variants().iter().filter_map(T::to_possible_value).filter(|value| !value.is_hide_set());
        let names: Vec<String> = shown.map(|value| value.get_name().to_owned()).collect();
        let guess = match nearest(typed, names.iter().map(String::as_str)) {
            Some(name) => format!(": did you mean {name:?}?"),
            None => String::new(),
        };
        format!("{typed:?} is not one of {}{guess}", names.join(", "))
    })
}

/// Where a run starts when its folder already holds one. TOML: `true`, `false` or a checkpoint folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Do not continue (the way to unset what a file says).
    Off,
    /// From the newest complete checkpoint of the run folder.
    Latest,
    /// From this checkpoint folder.
    Checkpoint(PathBuf),
}

impl Resume {
    /// What a typed value means. `True` and `False` are the spellings of transformers' scripts; a path need not exist.
    pub(crate) fn parse(typed: &str) -> Result<Self, String> {
        Ok(match typed.to_ascii_lowercase().as_str() {
            "" => return Err("is empty: give a checkpoint folder, or nothing for the newest one".to_owned()),
            "true" | "auto" | "latest" | "1" | "yes" | "on" => Self::Latest,
            "false" | "0" | "no" | "off" => Self::Off,
            _ => Self::Checkpoint(PathBuf::from(typed)),
        })
    }
}

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Latest => serializer.serialize_bool(true),
            Self::Checkpoint(folder) => folder.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Resume;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("true, false or a checkpoint folder")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Resume, E> {
                Ok(if value { Resume::Latest } else { Resume::Off })
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Resume, E> {
                Resume::parse(value).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
