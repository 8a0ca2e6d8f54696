//! Runs of `asft paper`: processes of this program, kept with what made them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use asft::config::PaperConfig;
use asft::eval::Progress;
use asft::paper::runs::Run;
use serde::{Deserialize, Serialize};

use super::progress::Bars;

/// Between two looks at a run.
const PAUSE: Duration = Duration::from_millis(50);
/// Lines of a failed run's log that are shown.
const SHOWN_LINES: usize = 6;

/// The record of a run that is done.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    words: Vec<String>,
    seconds: f64,
}

/// Runs that are done, and a bar for those that are not.
pub struct Kept {
    folder: PathBuf,
    bars: Bars,
    runs: usize,
    total: usize,
}

impl Kept {
    /// Before the first of about `total` runs of a figure.
    pub fn begin(config: &PaperConfig, figure: &str, total: usize) -> Self {
        let mut bars = Bars::default();
        bars.begin(figure, total);
        Self { folder: config.runs.clone(), bars, runs: 0, total }
    }

    /// After the last.
    pub fn end(&mut self) {
        self.bars.end();
    }

    /// Does a run, unless the same command line has been done before, and gives the seconds that it took.
    ///
    /// # Errors
    /// A run that fails, with the end of its log.
    pub fn run(&mut self, run: &Run) -> anyhow::Result<f64> {
        let record = self.folder.join(format!("{}.run.json", run.name));
        let seconds = match done(&record, run) {
            Some(seconds) => {
                tracing::info!("{} is there already", run.name);
                seconds
            }
            None => self.execute(run, &record)?,
        };
        self.runs += 1;
        self.bars.advance(self.runs.min(self.total), "");
        Ok(seconds)
    }

    fn execute(&mut self, run: &Run, record: &Path) -> anyhow::Result<f64> {
        tracing::info!("{}: asft {}", run.name, run.words.join(" "));
        let log = self.folder.join(format!("{}.log", run.name));
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let mut command = Command::new(program);
        command.args(&run.words).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A run is what its command line says and nothing else.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ASFT_") {
                command.env_remove(name);
            }
        }
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", run.name))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(PAUSE);
            if run.steps > 0 {
                let metrics = std::fs::read_to_string(run.output.join("metrics.jsonl")).unwrap_or_default();
                let steps = metrics.matches("\"step_seconds\"").count();
                self.bars
                    .advance(self.runs.min(self.total), &format!("{}: step {steps}/{}", run.name, run.steps));
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        if !status.success() {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
            bail!("{} failed ({status}); {} ends:\n  {end}", run.name, log.display());
        }
        let text = serde_json::to_string(&Done { words: run.words.clone(), seconds })?;
        asft::checkpoint::atomic::save_bytes(record, text.as_bytes())?;
        Ok(seconds)
    }
}

/// The seconds of a run that is done, if it was this one and what it left is there.
fn done(record: &Path, run: &Run) -> Option<f64> {
    let done: Done = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    (done.words == run.words && run.output.exists()).then_some(done.seconds)
}
