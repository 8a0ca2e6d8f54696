//! `curves.svg`: the run at a glance, as small multiples of what `metrics.jsonl` holds, drawn by [`crate::chart`].

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::log::{LogError, lines};
use crate::chart::{self, Chart, Kind, LARGEST, Points, STYLE, escape};

const WIDTH: f64 = 1000.0;
const HEADER: f64 = 62.0;
const PANEL_WIDTH: f64 = 500.0;
const PANEL_HEIGHT: f64 = 250.0;

/// A curve of one panel.
struct Curve {
    /// The key in `metrics.jsonl`.
    key: &'static str,
    /// Its name where a panel has several; an empty one is not shown.
    legend: &'static str,
    /// The style's class: which colour.
    class: &'static str,
}

struct Panel {
    title: &'static str,
    curves: &'static [Curve],
    /// The axis' ends, where the quantity has natural ones.
    range: Option<(f64, f64)>,
    /// A line to compare with, such as chance.
    level: Option<f64>,
}

const fn curve(key: &'static str, legend: &'static str, class: &'static str) -> Curve {
    Curve { key, legend, class }
}

/// How the curve of a key of `metrics.jsonl` is measured.
pub fn kind_of(key: &str) -> Kind {
    match key {
        "learning_rate" | "peak_memory_bytes" => Kind::Exact,
        key if key.starts_with("eval_") => Kind::Evaluations,
        _ => Kind::Steps,
    }
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "Loss",
        curves: &[curve("loss", "train", "a"), curve("eval_loss", "eval", "b")],
        range: None,
        level: None,
    },
    Panel {
        title: "Reward accuracy",
        curves: &[curve("rewards/accuracies", "train", "a"), curve("eval_rewards/accuracies", "eval", "b")],
        range: Some((0.0, 1.0)),
        level: Some(0.5),
    },
    Panel {
        title: "Reward margin",
        curves: &[curve("rewards/margins", "train", "a"), curve("eval_rewards/margins", "eval", "b")],
        range: None,
        level: Some(0.0),
    },
    Panel {
        title: "Log-probability",
        curves: &[
            curve("logps/chosen", "chosen", "a"),
            curve("eval_logps/chosen", "", "a"),
            curve("logps/rejected", "rejected", "b"),
            curve("eval_logps/rejected", "", "b"),
        ],
        range: None,
        level: None,
    },
    Panel {
        title: "Gradient norm before clipping",
        curves: &[curve("grad_norm", "", "a")],
        range: None,
        level: None,
    },
    Panel { title: "Learning rate", curves: &[curve("learning_rate", "", "a")], range: None, level: None },
];

/// The measurements of a run, by panel and curve; finite values only.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    points: Vec<Points>,
}

impl Curves {
    /// Collects the curves of a `metrics.jsonl`.
    pub fn read(path: &Path) -> Result<Self, LogError> {
        let mut curves = Curves::default();
        for line in lines(path)? {
            curves.push(&line?);
        }
        Ok(curves)
    }

    /// Adds a line of `metrics.jsonl`.
    pub fn push(&mut self, line: &Map<String, Value>) {
        self.points.resize_with(PANELS.iter().map(|panel| panel.curves.len()).sum(), Vec::new);
        let Some(step) = line.get("step").and_then(Value::as_f64) else { return };
        let keys = PANELS.iter().flat_map(|panel| panel.curves);
        for (points, curve) in self.points.iter_mut().zip(keys) {
            if let Some(value) =
                line.get(curve.key).and_then(Value::as_f64).filter(|value| value.abs() <= LARGEST)
            {
                points.push((step, value));
            }
        }
    }

    /// Draws the panels that have a point; a run without any gets a sentence instead.
    pub fn to_svg(&self, title: &str, subtitle: &str) -> String {
        let mut rest = &self.points[..];
        let mut panels = Vec::new();
        for panel in &PANELS {
            let (points, others) = rest.split_at_checked(panel.curves.len()).unwrap_or_default();
            rest = others;
            if points.iter().any(|points| !points.is_empty()) {
                panels.push((panel, points));
            }
        }
        let last_step = self.points.iter().flatten().map(|point| point.0).fold(0.0, f64::max);
        let height = HEADER + PANEL_HEIGHT * panels.len().div_ceil(2).max(1) as f64;
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
             <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\n<text x=\"20\" y=\"53\">{subtitle}</text>\n",
            title = escape(title),
            subtitle = escape(subtitle),
        );
        if panels.is_empty() {
            let (x, y) = (WIDTH / 2.0, HEADER + PANEL_HEIGHT / 2.0);
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">no steps yet</text>");
        }
        for (number, (panel, points)) in panels.into_iter().enumerate() {
            let left = PANEL_WIDTH * (number % 2) as f64;
            let top = HEADER + PANEL_HEIGHT * (number / 2) as f64;
            let _ = writeln!(svg, "<g transform=\"translate({left} {top})\">");
            panel.chart(points, last_step).draw(&mut svg, number);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn chart(&self, points: &[Points], last_step: f64) -> Chart {
        let curves = self.curves.iter().zip(points).map(|(curve, points)| chart::Curve {
            legend: curve.legend.to_owned(),
            class: curve.class,
            kind: kind_of(curve.key),
            points: points.clone(),
            intervals: Vec::new(),
        });
        Chart {
            title: self.title.to_owned(),
            size: (PANEL_WIDTH, PANEL_HEIGHT),
            range: self.range,
            level: self.level,
            last_step,
            curves: curves.collect(),
            has_legend: true,
        }
    }
}
