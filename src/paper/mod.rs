//! What can be reproduced of the figures of ASFT's paper (arXiv 2409.10571) on any machine and with any model.
//!
//! - [`plane`]: losses and their gradients over the two probabilities, the stuff of its theorems; [`surfaces`]: figure 1, drawn;
//! - [`material`]: a tokenizer and a configuration for a small model, where no model is given;
//! - [`runs`]: the training runs that the other figures need, as command lines of this program;
//! - [`margins`]: figure 2a, the likelihood margin during training; [`cost`]: figure 2b, run time and memory;
//! - [`answers`]: answers to MT-Bench's questions side by side;
//! - [`page`]: the page that holds the figures together.
//!
//! Boundary: from settings to command lines, and from what runs have measured to drawings, tables and a sentence of result each.
//! Nothing here trains; the command runs the runs.

pub mod answers;
mod chart;
pub mod cost;
mod error;
pub mod margins;
pub mod material;
pub mod page;
pub mod plane;
pub mod runs;
pub mod surfaces;

use std::path::Path;

use crate::checkpoint::atomic;

pub use error::PaperError;

/// What most functions here give.
pub type Result<T = Figure> = std::result::Result<T, PaperError>;

/// A figure that is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// The name of its files, without their endings.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What came out, computed from the data.
    pub sentence: String,
    /// How it was made, and what it does not show.
    pub notes: Vec<String>,
    /// The drawing.
    pub svg: Option<String>,
    /// Its numbers.
    pub csv: Option<String>,
    /// A page.
    pub html: Option<String>,
}

impl Figure {
    /// Writes the figure's files and gives their names.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<Vec<String>> {
        let files = [("svg", &self.svg), ("csv", &self.csv), ("html", &self.html)];
        let mut names = Vec::new();
        for (ending, text) in files {
            if let Some(text) = text {
                let name = format!("{}.{ending}", self.name);
                atomic::save_bytes(&folder.join(&name), text.as_bytes())?;
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Least, mean and greatest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let (mut low, mut sum, mut high, mut count) = (f64::INFINITY, 0.0, f64::NEG_INFINITY, 0);
    for value in values {
        (low, sum, high, count) = (low.min(value), sum + value, high.max(value), count + 1);
    }
    [low, sum / f64::from(count), high]
}
