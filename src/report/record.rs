//! A run folder as it lies there: finished, under way, or cut off in mid-write.
//!
//! Resuming a run needs a record that is whole, so [`crate::train::record`] refuses a broken one. A report is read to find out
//! what happened: here every line that can be used is used, and what is broken or missing is named in
//! [`RunRecord::missing`].

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::{ReportError, io_error};
use crate::chart::{LARGEST, Points};
use crate::checkpoint::run_folder::RUN_FILE;
use crate::train::facts::{FACTS_FILE, RunFacts};
use crate::train::log::INTERVALS;
use crate::train::{METRICS_FILE, SAMPLES_FILE, Sample};

/// A line of a record.
pub type Line = Map<String, Value>;

/// Broken lines that are named; beyond these they are counted.
const SHOWN: usize = 3;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The result is saved.
    Finished,
    /// It is not; the time since the record last grew, where the system tells.
    Unfinished(Option<Duration>),
}

/// A record that grows, read from where it was last left.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// Bytes read, the pending ones included.
    offset: u64,
    /// A line without its end.
    pending: Vec<u8>,
    /// Lines so far.
    line: usize,
}

/// What is new in a record.
#[derive(Debug, Default)]
pub struct News {
    /// Whole lines.
    pub lines: Vec<Line>,
    /// Lines that are none, in words.
    pub broken: Vec<String>,
    /// Whether the record is another one now, or was cut: all lines before these are void.
    pub restarted: bool,
}

impl Tail {
    /// From the beginning of a file that need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, pending: Vec::new(), line: 0 }
    }

    /// All that has been added. A last line without its end is kept for the next time.
    ///
    /// # Errors
    /// The file cannot be read; one that is not there is empty.
    pub fn read(&mut self) -> Result<News, ReportError> {
        let mut news = News::default();
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(news),
            Err(error) => return Err(io_error("open", &self.path)(error)),
        };
        let length = file.metadata().map_err(io_error("read", &self.path))?.len();
        if length < self.offset {
            *self = Self::new(&self.path);
            news.restarted = true;
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(io_error("read", &self.path))?;
        self.offset += file.read_to_end(&mut self.pending).map_err(io_error("read", &self.path))? as u64;
        let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') else { return Ok(news) };
        let rest = self.pending.split_off(end + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        for text in whole.split_inclusive(|&byte| byte == b'\n') {
            self.line += 1;
            match parse(text) {
                Ok(line) => news.lines.extend(line),
                Err(problem) => {
                    news.broken.push(format!("{}:{}: {problem}", self.name(), self.line));
                }
            }
        }
        Ok(news)
    }

    /// What stands behind the last whole line: a line, where only its end is missing, else what it is.
    fn rest(&self) -> Result<Option<Line>, String> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        parse(&self.pending)
            .map_err(|_| format!("{}:{}: the last line is cut off in the middle", self.name(), self.line + 1))
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The line of a record; none where it is blank.
fn parse(text: &[u8]) -> Result<Option<Line>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(text).map_err(|error| format!("not a JSON object ({error})"))?;
    if line.get("step").and_then(Value::as_u64).is_none() {
        return Err("it has no step".to_owned());
    }
    Ok(Some(line))
}

/// A run folder, read.
#[derive(Debug)]
pub struct RunRecord {
    /// The folder as it was given.
    pub folder: PathBuf,
    /// What it is called: its last part, or all of it where several have the same.
    pub name: String,
    /// The lines of `metrics.jsonl`.
    pub lines: Vec<Line>,
    /// Sampled answers.
    pub samples: Vec<Sample>,
    /// Settings: key and value as TOML.
    pub settings: Vec<(String, String)>,
    /// What the run knew at its beginning.
    pub facts: Option<RunFacts>,
    /// Where it stands.
    pub status: Status,
    /// What is broken or not there, in sentences.
    pub missing: Vec<String>,
}

impl RunRecord {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// It is not one, or the system refuses.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let metrics = folder.join(METRICS_FILE);
        std::fs::read_dir(folder).map_err(io_error("read", folder))?;
        if !metrics.exists() && !folder.join(RUN_FILE).exists() {
            return Err(ReportError::NoRun { path: folder.to_owned() });
        }
        let mut missing = Vec::new();
        let lines = whole(&metrics, &mut missing)?;
        let samples = whole(&folder.join(SAMPLES_FILE), &mut missing)?;
        let samples =
            samples.into_iter().filter_map(|line| serde_json::from_value(Value::Object(line)).ok()).collect();
        let mut record = Self {
            folder: folder.to_owned(),
            name: name_of(folder),
            settings: settings(folder, &mut missing),
            facts: facts(folder, &mut missing),
            status: Status::Finished,
            lines,
            samples,
            missing,
        };
        record.status = record.status();
        record.complain();
        Ok(record)
    }

    /// Reads several; those of one name are called by their whole paths.
    ///
    /// # Errors
    /// As [`RunRecord::read`].
    pub fn read_all(folders: &[PathBuf]) -> Result<Vec<Self>, ReportError> {
        let mut runs = folders.iter().map(|folder| Self::read(folder)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
        for run in &mut runs {
            if names.iter().filter(|name| **name == run.name).count() > 1 {
                run.name = run.folder.display().to_string();
            }
        }
        Ok(runs)
    }

    /// The finite values of a key, by step.
    pub fn points(&self, key: &str) -> Points {
        points(&self.lines, key)
    }

    /// (step, low, high) of an evaluation's metric, given with its `eval_`.
    pub fn intervals(&self, key: &str) -> Vec<(f64, f64, f64)> {
        let Some(name) = key.strip_prefix("eval_") else { return Vec::new() };
        let interval = |line: &Line| {
            let bounds = line.get(INTERVALS)?.get(name)?;
            let finite = |value: &Value| value.as_f64().filter(|value| value.abs() <= LARGEST);
            Some((line.get("step")?.as_f64()?, finite(bounds.get(0)?)?, finite(bounds.get(1)?)?))
        };
        self.lines.iter().filter_map(interval).collect()
    }

    /// The lines of evaluations.
    pub fn evaluations(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter().filter(|line| is_evaluation(line))
    }

    /// The last optimizer step of the record.
    pub fn last_step(&self) -> usize {
        let step = |line: &Line| line.get("step")?.as_u64();
        self.lines.iter().filter_map(step).max().unwrap_or(0) as usize
    }

    /// Optimizer steps of the whole run, where that is known.
    pub fn planned_steps(&self) -> Option<usize> {
        self.facts.as_ref().map(|facts| facts.steps).filter(|steps| *steps > 0)
    }

    /// A setting of `run.toml`, without the quotes of a text.
    pub fn setting(&self, key: &str) -> Option<&str> {
        let (_, value) = self.settings.iter().find(|(name, _)| name == key)?;
        Some(value.trim_matches('"'))
    }

    /// The objective's name.
    pub fn objective(&self) -> &str {
        let facts = self.facts.as_ref().map(|facts| facts.objective.as_str());
        facts.or_else(|| self.setting("objective")).unwrap_or("unknown objective")
    }

    fn status(&self) -> Status {
        let saved = saved_step(&self.folder);
        if saved.is_some_and(|saved| saved >= self.last_step()) {
            return Status::Finished;
        }
        let modified = std::fs::metadata(self.folder.join(METRICS_FILE)).and_then(|data| data.modified());
        Status::Unfinished(modified.ok().and_then(|modified| modified.elapsed().ok()))
    }

    /// What a report would show and cannot.
    fn complain(&mut self) {
        let mut say = |text: &str| self.missing.push(text.to_owned());
        if !self.lines.iter().any(|line| !is_evaluation(line)) {
            say("There are no steps yet.");
        } else if !self.lines.iter().any(is_evaluation) {
            say(
                "There was no evaluation: nothing here says how the model does on pairs it has not learnt from \
                 (--eval-data FILE, or --eval-split).",
            );
        }
        if self.samples.is_empty() {
            say("No answers were sampled (--sample-answers N together with evaluation data).");
        }
    }
}

/// Whether a line is that of an evaluation.
pub fn is_evaluation(line: &Line) -> bool {
    line.keys().any(|key| key.starts_with("eval_"))
}

/// The finite values of a key, by step.
pub fn points(lines: &[Line], key: &str) -> Points {
    let point = |line: &Line| {
        let value = line.get(key)?.as_f64().filter(|value| value.abs() <= LARGEST)?;
        Some((line.get("step")?.as_f64()?, value))
    };
    lines.iter().filter_map(point).collect()
}

/// The step of the result that lies in a run folder, if one does.
pub fn saved_step(folder: &Path) -> Option<usize> {
    let text = std::fs::read(folder.join("trainer_state.json")).ok()?;
    let state: Value = serde_json::from_slice(&text).ok()?;
    usize::try_from(state.get("global_step")?.as_u64()?).ok()
}

/// A folder's last part.
pub fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| folder.display().to_string())
}

/// All lines of a record; what is wrong with it is added to `missing`.
fn whole(path: &Path, missing: &mut Vec<String>) -> Result<Vec<Line>, ReportError> {
    let mut tail = Tail::new(path);
    let News { mut lines, broken, .. } = tail.read()?;
    let more = broken.len().saturating_sub(SHOWN);
    missing.extend(broken.into_iter().take(SHOWN).map(|broken| format!("{broken}; the line is left out.")));
    if more > 0 {
        missing.push(format!("{}: {more} more lines are broken and left out.", tail.name()));
    }
    match tail.rest() {
        Ok(line) => lines.extend(line),
        Err(problem) => missing.push(format!("{problem}; it is left out.")),
    }
    Ok(lines)
}

fn settings(folder: &Path, missing: &mut Vec<String>) -> Vec<(String, String)> {
    let path = folder.join(RUN_FILE);
    let table = std::fs::read_to_string(&path).map_err(|error| format!("cannot be read ({error})")).and_then(
        |text| text.parse::<toml::Table>().map_err(|error| format!("is broken ({})", error.message())),
    );
    match table {
        Ok(table) => {
            let mut settings = Vec::new();
            flatten("", &table, &mut settings);
            settings
        }
        Err(problem) => {
            missing.push(format!("{RUN_FILE} {problem}: the settings are not known."));
            Vec::new()
        }
    }
}

/// Keys of tables within tables are joined by dots.
fn flatten(above: &str, table: &toml::Table, settings: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let key = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, settings),
            value => settings.push((key, value.to_string())),
        }
    }
}

fn facts(folder: &Path, missing: &mut Vec<String>) -> Option<RunFacts> {
    let read = std::fs::read(folder.join(FACTS_FILE)).map_err(|error| format!("cannot be read ({error})"));
    match read.and_then(|text| serde_json::from_slice(&text).map_err(|error| format!("is broken ({error})")))
    {
        Ok(facts) => Some(facts),
        Err(problem) => {
            missing.push(format!(
                "{FACTS_FILE} {problem}: the run's length, its memory plan and the data's figures are not known."
            ));
            None
        }
    }
}
