//! What loading did to the rows: read, used, dropped, cut; and how people are told.
//!
//! Boundary: counts and words. Who counts is [`super::files`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::encode::{Notes, Reason};
use super::group::Group;
use super::place::{Numbering, Place};
use super::shape::FileShape;

/// Rows of each reason that are named.
const SHOWN: usize = 5;
/// Share of dropped rows above which something is probably wrong with the data or the settings.
const MANY: f64 = 0.1;

/// What loading did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The files in the order given.
    pub files: Vec<FileRows>,
    /// Rows read, blank lines not counted.
    pub rows: usize,
    /// Rows of plain text, of conversations, of token ids.
    pub kinds: Kinds,
    /// Rows that cannot be used.
    pub dropped: Vec<Skipped>,
    /// Rows whose split moved back to the common prefix.
    pub moved_splits: usize,
    /// Answers cut by the maximum length.
    pub truncated_answers: usize,
    /// Answers that lost their end token by it.
    pub lost_ends: usize,
    /// Usable rows whose two answers have the same tokens.
    pub identical_answers: usize,
    /// Special tokens written in the text of usable rows.
    pub special_tokens: usize,
    /// Tokens of the longest prompt + answer, after truncation.
    pub longest: usize,
}

/// How many rows were of which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// Plain text.
    pub text: usize,
    /// Lists of messages.
    pub conversation: usize,
    /// Token ids.
    pub tokens: usize,
}

/// The rows of one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FileRows {
    /// The file.
    pub path: PathBuf,
    /// How places in it are counted.
    pub numbering: Numbering,
    /// The number of its first row.
    pub first_row: usize,
    /// The 1-based line of each of its rows.
    pub lines: Vec<u32>,
    /// How they were read; `None` where there are none.
    pub shape: Option<FileShape>,
    /// Rows that can be used.
    pub usable: usize,
    /// Share of them that was asked for.
    pub weight: f64,
    /// Rows that make an epoch, repeated ones counted each time, before any are held out.
    pub used: usize,
}

/// A row that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// 0-based row, as in [`Group::row`].
    pub row: usize,
    /// 1-based line of its file.
    pub line: usize,
    /// Why.
    pub reason: Reason,
}

impl LoadReport {
    /// Logs what was loaded from where, and what was dropped, cut or changed, so that nothing is silently.
    pub fn log(&self, what: &str, pairs: usize) {
        self.log_shapes();
        let kinds = [
            (self.kinds.conversation, "conversations"),
            (self.kinds.text, "plain text"),
            (self.kinds.tokens, "token ids"),
        ];
        let kinds: Vec<&str> = kinds.iter().filter(|(count, _)| *count > 0).map(|(_, name)| *name).collect();
        tracing::info!(
            "{what}: {pairs} pairs of {} rows ({}), longest sequence {} tokens",
            self.rows,
            kinds.join(", "),
            self.longest
        );
        for line in self.table() {
            tracing::info!("{line}");
        }
        for line in self.dropped_lines(what) {
            tracing::warn!("{line}");
        }
        self.warn(what);
    }

    /// Logs how each file is read: its columns, and which of them are not used.
    pub fn log_shapes(&self) {
        for file in &self.files {
            if let Some(shape) = &file.shape {
                tracing::info!("{}: {shape}", file.path.display());
            }
        }
    }

    /// Logs what was cut or changed.
    pub fn warn(&self, what: &str) {
        for (count, text) in [
            (self.truncated_answers, "answers cut by --max-length"),
            (self.lost_ends, "answers lost their end token by it"),
            (self.moved_splits, "prompts end in tokens that merge with an answer; the split moved back"),
            (
                self.identical_answers,
                "pairs have two answers of the same tokens; --drop-identical drops them",
            ),
            (
                self.special_tokens,
                "special tokens are written in the data's text, each encoded as what it names",
            ),
        ] {
            if count > 0 {
                tracing::warn!("{what}: {count} {text}");
            }
        }
    }

    /// One line for each file under a heading, where there is more to say than the totals do.
    pub fn table(&self) -> Vec<String> {
        if self.files.len() < 2 && self.files.iter().all(|file| file.weight == 1.0) {
            return Vec::new();
        }
        let heading = ["rows", "usable", "weight", "per epoch"].map(str::to_owned);
        let cells = self.files.iter().map(|file| {
            let counts = [file.lines.len(), file.usable].map(|count| count.to_string());
            let [rows, usable] = counts;
            [rows, usable, file.weight.to_string(), file.used.to_string()]
        });
        let cells: Vec<_> = std::iter::once(heading).chain(cells).collect();
        let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        let names = std::iter::once("file".to_owned())
            .chain(self.files.iter().map(|file| file.path.display().to_string()));
        cells
            .iter()
            .zip(names)
            .map(|(row, name)| {
                let cells = row.iter().zip(widths).map(|(cell, width)| format!("  {cell:>width$}"));
                format!("{}  {name}", cells.collect::<String>())
            })
            .collect()
    }

    /// What was dropped, for the log: the total, a line for each reason with the places of its first rows, and what to do
    /// where it is much. Empty where nothing was dropped.
    pub fn dropped_lines(&self, what: &str) -> Vec<String> {
        if self.dropped.is_empty() {
            return Vec::new();
        }
        let (dropped, share) = (self.dropped.len(), self.dropped.len() as f64 / self.rows as f64);
        let mut lines =
            vec![format!("{what}: {dropped} of {} rows dropped ({:.1}%):", self.rows, 100.0 * share)];
        let by_reason = self.dropped_by_reason();
        let width = by_reason.values().map(|rows| rows.len().to_string().len()).max().unwrap_or(0);
        for (reason, rows) in &by_reason {
            let places = rows.iter().take(SHOWN).filter_map(|skipped| self.locate(skipped.row));
            let places: Vec<String> = places.map(|place| place.to_string()).collect();
            let more = if rows.len() > SHOWN { ", ..." } else { "" };
            lines.push(format!("  {:>width$} {reason}: {}{more}", rows.len(), places.join(", ")));
        }
        if share > MANY {
            let most = by_reason.iter().max_by_key(|(_, rows)| rows.len()).map(|(reason, _)| *reason);
            lines.push(format!(
                "{what}: {:.0}% of the rows are not used! {}; --strict stops at any such row",
                100.0 * share,
                most.map_or("look at the rows named above", Reason::remedy)
            ));
        }
        lines
    }

    pub(super) fn note(&mut self, group: &Group, notes: Notes) {
        self.moved_splits += usize::from(notes.moved_split);
        self.truncated_answers += notes.truncated;
        self.lost_ends += notes.lost_end;
        self.identical_answers += usize::from(notes.identical);
        self.special_tokens += notes.special_tokens;
        let longest = group.answers.iter().map(|answer| group.prompt.len() + answer.ids.len()).max();
        self.longest = self.longest.max(longest.unwrap_or(0));
    }

    /// Adds the report of files whose rows go on counting from this one's.
    pub(super) fn append(&mut self, other: LoadReport) {
        // Every field by name: one that is added must be added here as well.
        let LoadReport {
            files,
            rows,
            kinds: Kinds { text, conversation, tokens },
            dropped,
            moved_splits,
            truncated_answers,
            lost_ends,
            identical_answers,
            special_tokens,
            longest,
        } = other;
        let first_row = self.rows;
        let file = |file: FileRows| FileRows { first_row: file.first_row + first_row, ..file };
        self.files.extend(files.into_iter().map(file));
        self.rows += rows;
        self.kinds.text += text;
        self.kinds.conversation += conversation;
        self.kinds.tokens += tokens;
        let skipped = |skipped: Skipped| Skipped { row: skipped.row + first_row, ..skipped };
        self.dropped.extend(dropped.into_iter().map(skipped));
        self.moved_splits += moved_splits;
        self.truncated_answers += truncated_answers;
        self.lost_ends += lost_ends;
        self.identical_answers += identical_answers;
        self.special_tokens += special_tokens;
        self.longest = self.longest.max(longest);
    }

    /// The place of a row.
    pub fn locate(&self, row: usize) -> Option<Place> {
        let file = self.files.iter().rev().find(|file| file.first_row <= row)?;
        let line = file.lines.get(row - file.first_row)?;
        Some(Place::new(&file.path, file.numbering, *line as usize))
    }

    /// The dropped rows by reason, in the order of the reasons.
    pub fn dropped_by_reason(&self) -> BTreeMap<Reason, Vec<Skipped>> {
        let mut by_reason: BTreeMap<Reason, Vec<Skipped>> = BTreeMap::new();
        for skipped in &self.dropped {
            by_reason.entry(skipped.reason).or_default().push(*skipped);
        }
        by_reason
    }

    /// One line for people: `2 empty chosen (lines 3, 17); 1 prompt of max-length or more (line 4)`, the first
    /// five lines of each reason, with the file where there are several; empty where nothing was dropped.
    pub fn dropped_summary(&self) -> String {
        let parts = self.dropped_by_reason().into_iter().map(|(reason, rows)| {
            let shown: Vec<String> =
                rows.iter().take(SHOWN).map(|skipped| self.short_place(skipped)).collect();
            let more = if rows.len() > SHOWN { ", ..." } else { "" };
            let word = match &self.files[..] {
                [file] => file.numbering.word(rows.len() > 1),
                _ => Numbering::Lines.word(rows.len() > 1),
            };
            format!("{} {reason} ({word} {}{more})", rows.len(), shown.join(", "))
        });
        parts.collect::<Vec<_>>().join("; ")
    }

    /// A line by its number, with the file where there are several.
    fn short_place(&self, skipped: &Skipped) -> String {
        match (self.files.len(), self.locate(skipped.row)) {
            (2.., Some(place)) => place.to_string(),
            _ => skipped.line.to_string(),
        }
    }
}
