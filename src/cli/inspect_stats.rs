//! Figures about whole files as `asft inspect --stats` prints them.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use asft::inspect::{Histogram, Lengths};
use asft::train::Figures;
use serde_json::{Map, Value, json};

const LABEL: Style = Style::new().bold();
/// Columns of the longest bar.
const BAR: usize = 40;
/// Columns of the names on the left.
const NAME: usize = 26;

/// The figures as text with colours.
pub fn text(figures: &Figures) -> String {
    let mut text = String::new();
    let Figures { report, stats, max_length, .. } = figures;
    let used = report.rows - report.dropped.len();
    // Writing to a String cannot fail.
    let _ =
        writeln!(text, "{LABEL}{} rows{LABEL:#}, {used} used, {} dropped", report.rows, report.dropped.len());
    for (reason, rows) in report.dropped_by_reason() {
        let _ = writeln!(text, "  {:>8}  {reason}: {}", rows.len(), figures.places(&rows));
    }
    for file in &report.files {
        if let Some(shape) = &file.shape {
            let _ = writeln!(text, "  {}: {shape}", file.path.display());
        }
    }
    for line in report.table() {
        let _ = writeln!(text, "{line}");
    }
    if used > 0 {
        text.push_str(&lengths(figures));
        text.push_str(&histogram(&stats.sequences));
    }
    let _ = writeln!(text, "\n{LABEL}notes{LABEL:#}");
    let bound = max_length.map_or_else(String::new, |bound| format!(" {bound}"));
    let notes = [
        (report.truncated_answers, format!("answers cut by --max-length{bound}")),
        (report.lost_ends, "of them without their end token".to_owned()),
        (report.identical_answers, "rows whose two answers have the same tokens".to_owned()),
        (report.moved_splits, "prompts whose last tokens merge with an answer".to_owned()),
        (report.special_tokens, "special tokens written in the data's text".to_owned()),
    ];
    for (count, what) in notes {
        let _ = writeln!(text, "  {count:>8}  {what}");
    }
    let _ = writeln!(text, "\n{LABEL}an epoch{LABEL:#}");
    for (count, what) in [
        (stats.scored, "scored tokens"),
        (stats.packed, "tokens as packed, each prompt once"),
        (stats.separate, "tokens if each answer had a copy of its prompt"),
    ] {
        let _ = writeln!(text, "  {:>14}  {what}", grouped(count));
    }
    let _ = writeln!(text, "  {:>13.1}%  saved by sharing prompts", 100.0 * stats.saved());
    text
}

/// The table of lengths.
fn lengths(figures: &Figures) -> String {
    let stats = &figures.stats;
    let mut text = format!("\n{LABEL}{:NAME$}{LABEL:#}", "tokens");
    for title in ["min", "median", "p90", "p99", "max", "total"] {
        let width = if title == "total" { 14 } else { 8 };
        let _ = write!(text, "{title:>width$}");
    }
    text.push('\n');
    let answers = stats.answers.iter().map(|(role, lengths)| (role.name(), lengths));
    let rows = std::iter::once(("prompt", &stats.prompt)).chain(answers);
    for (name, lengths) in rows.chain([("prompt + longest answer", &stats.sequence)]) {
        let Lengths { min, median, p90, p99, max, total, .. } = lengths;
        let _ = write!(text, "  {name:width$}", width = NAME - 2);
        for value in [min, median, p90, p99, max] {
            let _ = write!(text, "{value:>8}");
        }
        let _ = writeln!(text, "{:>14}", grouped(*total));
    }
    text
}

/// Bars of prompt + longest answer.
fn histogram(histogram: &Histogram) -> String {
    let mut text = format!("\n{LABEL}prompt + longest answer{LABEL:#}\n");
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = AnsiColor::Green.on_default();
    for (index, count) in histogram.counts.iter().enumerate() {
        let start = (histogram.first + index) * histogram.width;
        let interval = match histogram.width {
            1 => start.to_string(),
            width => format!("{start}-{}", start + width - 1),
        };
        // What occurs at all is seen.
        let length = (count * BAR).div_ceil(most);
        let _ = writeln!(text, "  {interval:>13} {bar}{:BAR$}{bar:#} {count}", "#".repeat(length));
    }
    text
}

/// 1234567 as 1,234,567.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The figures as JSON.
pub fn json(figures: &Figures) -> Value {
    let Figures { report, stats, max_length, .. } = figures;
    let lengths = |lengths: &Lengths| {
        let Lengths { rows, min, median, p90, p99, max, total } = lengths;
        json!({ "rows": rows, "min": min, "median": median, "p90": p90, "p99": p99, "max": max, "total": total })
    };
    let dropped: Map<String, Value> = report
        .dropped_by_reason()
        .into_iter()
        .map(|(reason, rows)| (reason.to_string(), json!(rows.iter().map(|row| row.row).collect::<Vec<_>>())))
        .collect();
    let mut tokens = Map::from_iter([("prompt".to_owned(), lengths(&stats.prompt))]);
    tokens.extend(stats.answers.iter().map(|(role, of)| (role.name().to_owned(), lengths(of))));
    tokens.insert("sequence".to_owned(), lengths(&stats.sequence));
    let shapes: Map<String, Value> = report
        .files
        .iter()
        .filter_map(|file| {
            Some((file.path.display().to_string(), json!(file.shape.as_ref()?.shape.to_string())))
        })
        .collect();
    json!({
        "files": shapes,
        "rows": report.rows,
        "used": report.rows - report.dropped.len(),
        "dropped": dropped,
        "max_length": max_length,
        "truncated_answers": report.truncated_answers,
        "lost_ends": report.lost_ends,
        "identical_answers": report.identical_answers,
        "moved_splits": report.moved_splits,
        "special_tokens": report.special_tokens,
        "tokens": tokens,
        "histogram": {
            "first": stats.sequences.first * stats.sequences.width,
            "width": stats.sequences.width,
            "counts": stats.sequences.counts,
        },
        "scored_tokens": stats.scored,
        "packed_tokens": stats.packed,
        "separate_tokens": stats.separate,
        "saved": stats.saved(),
    })
}
