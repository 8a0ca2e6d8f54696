//! `asft report`: what became of runs, as one HTML page, SVG files and TensorBoard events.

use std::path::{Path, PathBuf};

use anyhow::Context;
use asft::report::record::RunRecord;
use asft::report::{curves, page, tensorboard};
use clap::Args;

use super::exit::OrUsage;
use super::{ExitStatus, output};

/// Which runs, and what to write.
#[derive(Args, Clone, Debug)]
pub struct ReportArguments {
    /// Folders of training runs (the --output of asft train), finished or not
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the folder of the run, here where there are several]
    #[arg(long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Write the curves as SVG files into this folder too
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write TensorBoard's event files into this folder too, one folder per run in it
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
}

/// Writes the page and what else is asked for, and says where.
pub fn run(arguments: &ReportArguments) -> anyhow::Result<ExitStatus> {
    let runs = RunRecord::read_all(&arguments.runs).or_usage()?;
    for run in &runs {
        for missing in &run.missing {
            tracing::warn!("{}: {missing}", run.folder.display());
        }
    }
    let path = arguments.output.clone().unwrap_or_else(|| match &arguments.runs[..] {
        [run] => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    });
    let mut text = format!("Page    {}\n", path.display());
    write(&path, &page::to_html(&runs)?)?;
    if let Some(folder) = &arguments.svg {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for drawn in curves::charts(&runs) {
            write(&folder.join(format!("{}.svg", drawn.id)), &drawn.to_svg())?;
        }
        text += &format!("Curves  {}\n", folder.display());
    }
    if let Some(folder) = &arguments.tensorboard {
        for run in &runs {
            text += &format!("Events  {}\n", tensorboard::write(folder, run)?.display());
        }
    }
    output::print(&text)?;
    Ok(ExitStatus::Success)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
