//! A frame of the live view: what a terminal of any size shows of a run.
//!
//! Boundary: lines of a record in, a frame out. Reading, keys and the terminal itself are the command's.

use std::path::Path;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

use super::ReportError;
use super::findings::duration;
use super::record::{Line, News, Tail, is_evaluation, name_of, points, saved_step};
use crate::chart::{self, Points, significant, smooth, thinned};
use crate::train::METRICS_FILE;
use crate::train::facts::{FACTS_FILE, RunFacts};

/// Rows below which only the lines of text are shown.
const LEAST_FOR_CURVES: u16 = 12;
/// Width and height that a curve needs to be worth its place.
const LEAST_CURVE: (u16, u16) = (36, 8);
/// Steps whose time tells how long the rest will take.
const RECENT: usize = 50;

/// A curve of the view: its title, the key of training and that of evaluation.
const CURVES: [(&str, &str, &str); 4] = [
    ("loss", "loss", "eval_loss"),
    ("reward margin", "rewards/margins", "eval_rewards/margins"),
    ("reward accuracy", "rewards/accuracies", "eval_rewards/accuracies"),
    ("log-prob of the chosen answer", "logps/chosen", "eval_logps/chosen"),
];

/// A run that is looked at.
#[derive(Debug)]
pub struct Watched {
    folder: std::path::PathBuf,
    name: String,
    tail: Tail,
    lines: Vec<Line>,
    broken: usize,
    facts: Option<RunFacts>,
    finished: bool,
}

impl Watched {
    /// A run in a folder that need not have a record yet.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn new(folder: &Path) -> Result<Self, ReportError> {
        let mut watched = Self {
            folder: folder.to_owned(),
            name: name_of(folder),
            tail: Tail::new(&folder.join(METRICS_FILE)),
            lines: Vec::new(),
            broken: 0,
            facts: None,
            finished: false,
        };
        watched.update()?;
        Ok(watched)
    }

    /// Reads what has been added.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn update(&mut self) -> Result<(), ReportError> {
        let News { lines, broken, restarted } = self.tail.read()?;
        if restarted {
            (self.lines, self.broken, self.facts) = (Vec::new(), 0, None);
        }
        self.lines.extend(lines);
        self.broken += broken.len();
        // A run that starts over or goes on for longer writes them again, before its first step.
        if self.facts.is_none() || restarted {
            let text = std::fs::read(self.folder.join(FACTS_FILE)).ok();
            self.facts = text.and_then(|text| serde_json::from_slice(&text).ok());
        }
        self.finished = self.step() > 0 && saved_step(&self.folder).is_some_and(|saved| saved >= self.step());
        Ok(())
    }

    fn step(&self) -> usize {
        self.lines.last().and_then(|line| line.get("step")?.as_u64()).unwrap_or(0) as usize
    }

    fn planned(&self) -> Option<usize> {
        self.facts.as_ref().map(|facts| facts.steps).filter(|steps| *steps > 0)
    }

    /// Draws all that there is room for.
    pub fn draw(&self, frame: &mut Frame) {
        let area = frame.area();
        let text = self.text();
        let height = text.len() as u16;
        let curves =
            if area.height >= LEAST_FOR_CURVES { Constraint::Fill(1) } else { Constraint::Length(0) };
        let [head, gauge, body, middle] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(height),
            curves,
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(self.head()), head);
        self.draw_gauge(frame, gauge);
        frame.render_widget(Paragraph::new(text), body);
        self.draw_curves(frame, middle);
    }

    fn head(&self) -> Text<'_> {
        let status = if self.finished { "finished".green() } else { "not finished".yellow() };
        let objective = self.facts.as_ref().map(|facts| facts.objective.as_str()).unwrap_or_default();
        Text::from(vec![self.name.as_str().bold(), "  ".into(), objective.into(), "  ".into(), status])
    }

    fn draw_gauge(&self, frame: &mut Frame, area: Rect) {
        let step = self.step();
        let (label, share) = match self.planned() {
            Some(planned) => (format!("step {step} of {planned}"), step as f64 / planned as f64),
            None => (format!("step {step}"), 0.0),
        };
        let gauge = Gauge::default().gauge_style(Style::new().fg(Color::Blue)).ratio(share.clamp(0.0, 1.0));
        frame.render_widget(gauge.label(label), area);
    }

    fn text(&self) -> Vec<Text<'_>> {
        let last = |key: &str| points(&self.lines, key).last().map(|point| point.1);
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.remaining());
        parts.extend(last("tokens_per_second").map(|speed| format!("{speed:.0} tokens/s")));
        let bytes = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
        let planned =
            self.facts.as_ref().map(|facts| format!(" of {} planned", bytes(facts.planned_bytes())));
        let planned = planned.unwrap_or_default();
        parts.extend(
            last("peak_memory_bytes").map(|held| format!("memory {} held{planned}", bytes(held as u64))),
        );
        let mut text = vec![Text::from(parts.join("   "))];
        let steps: [(&str, &str); 3] =
            [("loss", "loss"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate")];
        let now =
            steps.iter().filter_map(|(key, words)| Some(format!("{words} {}", significant(last(key)?))));
        text.push(Text::from(now.collect::<Vec<_>>().join("   ")));
        if let Some(evaluation) = self.lines.iter().rfind(|line| is_evaluation(line)) {
            text.push(Text::from(vec![Span::from("evaluation").bold(), self.evaluation(evaluation).into()]));
        } else if self.step() > 0 {
            text.push(Text::from("no evaluation yet"));
        } else {
            text.push(Text::from("no steps yet"));
        }
        if self.broken > 0 {
            text.push(Text::from(format!("{} lines of the record are broken", self.broken).red()));
        }
        text
    }

    fn evaluation(&self, line: &Line) -> String {
        let step = line.get("step").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let mut text = format!(" after step {step}");
        for ((_, _, key), words) in CURVES.into_iter().zip(["loss", "margin", "accuracy", "chosen log-prob"])
        {
            if let Some(value) = line.get(key).and_then(serde_json::Value::as_f64) {
                text += &format!("   {words} {}", significant(value));
            }
        }
        text
    }

    /// How long the rest takes at the pace of the latest steps, or how long all of it took.
    fn remaining(&self) -> Option<String> {
        let seconds = points(&self.lines, "step_seconds");
        let spent: f64 = seconds.iter().map(|point| point.1).sum();
        if seconds.is_empty() {
            return None;
        }
        if self.finished {
            return Some(format!("{} in steps", duration(spent)));
        }
        let recent = &seconds[seconds.len().saturating_sub(RECENT)..];
        let each = recent.iter().map(|point| point.1).sum::<f64>() / recent.len() as f64;
        let left = self.planned()?.saturating_sub(self.step()) as f64 * each;
        Some(format!("{} left", duration(left)))
    }

    fn draw_curves(&self, frame: &mut Frame, area: Rect) {
        let drawn: Vec<(&str, Points, Points)> = CURVES
            .iter()
            .map(|(title, key, eval)| (*title, points(&self.lines, key), points(&self.lines, eval)))
            .filter(|(_, steps, evaluations)| !steps.is_empty() || !evaluations.is_empty())
            .collect();
        let columns = (area.width / LEAST_CURVE.0).clamp(1, 2) as usize;
        let most_rows = (area.height / LEAST_CURVE.1).max(1) as usize;
        let rows = drawn.len().div_ceil(columns).min(most_rows);
        if rows == 0 || area.height < 4 || area.width < 12 {
            return;
        }
        let bands = Layout::vertical(vec![Constraint::Fill(1); rows]).split(area);
        for (band, curves) in bands.iter().zip(drawn.chunks(columns)) {
            let cells = Layout::horizontal(vec![Constraint::Fill(1); columns]).split(*band);
            for (cell, (title, steps, evaluations)) in cells.iter().zip(curves) {
                self.draw_curve(frame, *cell, title, (steps, evaluations));
            }
        }
    }

    fn draw_curve(
        &self,
        frame: &mut Frame,
        area: Rect,
        title: &str,
        (steps, evaluations): (&Points, &Points),
    ) {
        let line = thinned(&smooth(steps));
        let values = || line.iter().chain(evaluations).map(|point| point.1);
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let axis = chart::Axis::new(low, high);
        let last = self.planned().unwrap_or(0).max(self.step()).max(1) as f64;
        let dataset = |points, marker, kind, color| {
            Dataset::default().data(points).marker(marker).graph_type(kind).style(Style::new().fg(color))
        };
        let datasets = vec![
            dataset(&line, Marker::Braille, GraphType::Line, Color::Blue),
            dataset(evaluations, Marker::Dot, GraphType::Scatter, Color::Yellow),
        ];
        let chart = Chart::new(datasets)
            .block(Block::bordered().title(format!(" {title} ")).border_style(Style::new().dim()))
            .x_axis(Axis::default().bounds([0.0, last]).labels(["0".to_owned(), format!("{last:.0}")]))
            .y_axis(
                Axis::default()
                    .bounds([axis.low, axis.high])
                    .labels([significant(axis.low), significant(axis.high)]),
            )
            .legend_position(None);
        frame.render_widget(chart, area);
    }
}
