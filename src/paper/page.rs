//! The page that holds the figures together: what came out, how it was made, on which machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Figure, PaperError, Result};
use crate::bench::facts::Facts;
use crate::checkpoint::atomic;

/// The order of the figures.
pub const ORDER: [&str; 4] = ["surfaces", "margins", "cost", "answers"];
/// The page's file.
pub const FILE: &str = "results.md";

/// A figure as the page remembers it from one invocation to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    name: String,
    title: String,
    sentence: String,
    notes: Vec<String>,
    files: Vec<String>,
    command: String,
    date: String,
    machine: String,
    program: String,
}

impl Record {
    /// Of a figure that has been written to these files just now.
    pub fn new(figure: &Figure, files: Vec<String>, facts: &Facts) -> Self {
        let commit = facts.commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = match processor() {
            Some(processor) if facts.kind == "cpu" => {
                format!("{processor}, {threads} threads; {}", facts.device)
            }
            _ => facts.device.clone(),
        };
        Self {
            name: figure.name.to_owned(),
            title: figure.title.to_owned(),
            sentence: figure.sentence.clone(),
            notes: figure.notes.clone(),
            files,
            command: facts.command.clone(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            machine,
            program: format!("asft {}{commit}, {} build", facts.version, facts.build),
        }
    }

    fn path(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.figure.json"))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        Ok(atomic::save_bytes(&Self::path(folder, &self.name), text.as_bytes())?)
    }
}

/// The processor's name, where the system tells it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Writes the page of all figures that are there: `records` holds what is known of them, `output` their files.
///
/// # Errors
/// A file that cannot be read or written.
pub fn write(records: &Path, output: &Path) -> Result<PathBuf> {
    let mut text = String::from(
        "# Results of `asft paper`\n\nWritten by the program; every sentence is computed from the data.\n",
    );
    for name in ORDER {
        let path = Record::path(records, name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| PaperError::Io {
            action: "read",
            path,
            source: error.into(),
        })?;
        section(&mut text, &record);
    }
    let path = output.join(FILE);
    atomic::save_bytes(&path, text.as_bytes())?;
    Ok(path)
}

fn section(text: &mut String, record: &Record) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## {}\n\n{}\n\n", record.title, record.sentence);
    for file in record.files.iter().filter(|file| file.ends_with(".svg")) {
        let _ = write!(text, "![{}]({file})\n\n", record.title);
    }
    for note in &record.notes {
        let _ = writeln!(text, "- {note}");
    }
    let files: Vec<String> = record.files.iter().map(|file| format!("[{file}]({file})")).collect();
    let Record { date, machine, program, command, .. } = record;
    let _ = write!(
        text,
        "- Files: {}. {date}, {program}, on {machine}:\n\n```console\n$ {command}\n```\n",
        files.join(", ")
    );
}
