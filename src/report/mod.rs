//! What became of runs, from what lies in their folders: as one HTML page, as TensorBoard's event files, on a terminal.
//!
//! - [`record`]: a run folder, read so that whatever is broken or missing is said and the rest used;
//! - [`curves`]: which figures are drawn over the steps, of one run or of several;
//! - [`findings`]: what a person should look at, in sentences;
//! - [`page`]: the page;
//! - [`tensorboard`]: event files;
//! - [`watch`]: a frame of the live view.
//!
//! Boundary: reads run folders and changes nothing in them.

pub mod curves;
pub mod findings;
pub mod page;
pub mod record;
pub mod tensorboard;
pub mod watch;

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing in the folder that a run would have written.
    #[error(
        "{} holds no run of asft: there is neither a run.toml nor a metrics.jsonl in it; \
         give the folder that was the --output of asft train", path.display()
    )]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The page's template and what it is given do not fit together.
    #[error("the page cannot be made: {0}")]
    Template(#[from] minijinja::Error),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Io { action, path, source }
}
