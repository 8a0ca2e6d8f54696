//! Benchmarks: a whole training step, and each operation of a backend, on random weights at the sizes of real models.
//!
//! A step is measured as `asft train` takes it: the workload is written as a file of token ids, and
//! [`Prepared`](crate::train::Prepared) plans it, the [`Loader`](crate::data::Loader) packs it and
//! [`Trainer::step`](crate::train::Trainer::step) takes it. Only the weights are made differently ([`weights`]), because
//! drawing eight billion normals would take longer than everything else. The operations are measured on the views that the
//! memory plan of a model of one layer gives them, filled by a real step.
//!
//! Boundary: nothing here is used by training. Times come from here; what is done with them (tables, files) is the
//! caller's.

pub mod facts;
pub mod kernels;
mod setup;
pub mod shape;
pub mod step;
pub mod timing;
pub mod weights;
pub mod workload;

pub use setup::{Request, Setup};
pub use shape::Shape;
pub use workload::{Kind, Lengths, Workload};

use crate::backend::BackendError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::train::TrainError;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The ragged lengths exist for one mean only.
    #[error(
        "--workload ragged has lengths for a mean of {mean} tokens only, not for --prompt {prompt} --response {response}: \
         the draws are a table"
    )]
    RaggedMeans {
        /// The mean of the table.
        mean: usize,
        /// What was asked for.
        prompt: usize,
        /// What was asked for.
        response: usize,
    },
    /// More pairs than the table has.
    #[error("--workload ragged has {known} pairs, {asked} were asked for")]
    RaggedPairs {
        /// Rows of the table.
        known: usize,
        /// Pairs asked for.
        asked: usize,
    },
    /// A loss or gradient that is no number: the time of such a step means nothing.
    #[error("step {step} of the benchmark was not finite (loss {loss}, gradient norm {norm})")]
    NotFinite {
        /// From 1, warm-up included.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        norm: f64,
    },
    /// A case that does not exist.
    #[error("no operation is called {name}; there are {known}")]
    UnknownCase {
        /// As typed.
        name: String,
        /// All names.
        known: String,
    },
    /// The file of pairs cannot be written.
    #[error("cannot write the workload to a temporary folder: {0}")]
    Folder(#[from] std::io::Error),
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Planning.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
