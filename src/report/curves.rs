//! Which figures are drawn over the steps. Of one run, training and evaluation differ by colour, and so do the chosen and the
//! rejected answer; of several, each run has one colour throughout and every chart shows one figure.

use std::fmt::Write;

use super::record::RunRecord;
use crate::chart::{COLOURS, Chart, Curve, STYLE, escape, significant};
use crate::train::curves::kind_of;

/// Width and height of a chart: what a phone shows unscaled.
const SIZE: (f64, f64) = (420.0, 240.0);
const GIBIBYTE: f64 = (1u64 << 30) as f64;

/// A figure and the keys it has in `metrics.jsonl`.
struct Figure {
    /// A name for files.
    id: &'static str,
    title: &'static str,
    /// Key and name of each curve.
    keys: &'static [(&'static str, &'static str)],
    range: Option<(f64, f64)>,
    level: Option<f64>,
    /// What values are divided by.
    unit: f64,
    /// What to make of it.
    note: &'static str,
}

const PLAIN: Figure = Figure { id: "", title: "", keys: &[], range: None, level: None, unit: 1.0, note: "" };

const FIGURES: [Figure; 11] = [
    Figure {
        id: "loss",
        title: "Loss",
        keys: &[("loss", "training"), ("eval_loss", "evaluation")],
        note: "Evaluation rising while training falls means that the run went on for too long.",
        ..PLAIN
    },
    Figure {
        id: "accuracy",
        title: "Reward accuracy",
        keys: &[("rewards/accuracies", "training"), ("eval_rewards/accuracies", "evaluation")],
        range: Some((0.0, 1.0)),
        level: Some(0.5),
        note: "Share of pairs whose chosen answer has the greater reward; 0.5 is chance.",
        ..PLAIN
    },
    Figure {
        id: "margin",
        title: "Reward margin",
        keys: &[("rewards/margins", "training"), ("eval_rewards/margins", "evaluation")],
        level: Some(0.0),
        note: "Reward of the chosen answer less that of the rejected one.",
        ..PLAIN
    },
    Figure {
        id: "logps-chosen",
        title: "Log-prob of the chosen answer",
        keys: &[("logps/chosen", "training"), ("eval_logps/chosen", "evaluation")],
        note: "It should not fall: a margin can grow while both answers become less likely.",
        ..PLAIN
    },
    Figure {
        id: "logps-rejected",
        title: "Log-prob of the rejected answer",
        keys: &[("logps/rejected", "training"), ("eval_logps/rejected", "evaluation")],
        ..PLAIN
    },
    Figure {
        id: "nll",
        title: "Negative log-likelihood",
        keys: &[("nll_loss", "training"), ("eval_nll_loss", "evaluation")],
        note: "Of a token of the chosen answer.",
        ..PLAIN
    },
    Figure {
        id: "gradient-norm",
        title: "Gradient norm",
        keys: &[("grad_norm", "before clipping")],
        ..PLAIN
    },
    Figure {
        id: "learning-rate",
        title: "Learning rate",
        keys: &[("learning_rate", "learning rate")],
        ..PLAIN
    },
    Figure { id: "speed", title: "Tokens per second", keys: &[("tokens_per_second", "tokens/s")], ..PLAIN },
    Figure {
        id: "memory",
        title: "Memory in GiB",
        keys: &[("peak_memory_bytes", "most held so far")],
        unit: GIBIBYTE,
        note: "The dashed line is the plan, which covers tensors and not the program and its data.",
        ..PLAIN
    },
    Figure { id: "step-time", title: "Seconds per step", keys: &[("step_seconds", "seconds")], ..PLAIN },
];

/// A chart with what stands beside it.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// A name for files.
    pub id: &'static str,
    /// What is measured.
    pub title: &'static str,
    /// What to make of it.
    pub note: &'static str,
    /// The curves.
    pub chart: Chart,
}

impl Drawn {
    /// The chart as a file of its own, with names and last values under the plot.
    pub fn to_svg(&self) -> String {
        const LINE: f64 = 20.0;
        let (width, height) = self.chart.size;
        let (top, named) = (30.0, LINE * self.chart.curves.len() as f64 + 10.0);
        let whole = top + height + named;
        let mut svg = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {whole}\" width=\"{width}\" \
             height=\"{whole}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{whole}\" rx=\"8\"/>\n\
             <text class=\"panel\" x=\"16\" y=\"24\">{title}</text>\n<g transform=\"translate(0 {top})\">\n",
            title = self.title,
        );
        self.chart.draw(&mut svg, 0);
        svg.push_str("</g>\n");
        for (number, curve) in self.chart.curves.iter().enumerate() {
            let y = top + height + LINE * number as f64 + 12.0;
            let last = curve.smoothed().last().map(|point| significant(point.1)).unwrap_or_default();
            let _ = writeln!(
                svg,
                "<path class=\"line {}\" d=\"M62 {:.1}h14\"/><text x=\"84\" y=\"{y:.1}\">{} {last}</text>",
                curve.class,
                y - 4.5,
                escape(&curve.legend)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The charts that have something to show.
pub fn charts(runs: &[RunRecord]) -> Vec<Drawn> {
    let last_step = runs.iter().map(RunRecord::last_step).max().unwrap_or(0) as f64;
    let mut drawn = Vec::new();
    for figure in &FIGURES {
        let mut curves: Vec<Curve> = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            for (place, (key, legend)) in figure.keys.iter().enumerate() {
                let scaled = |(step, value): (f64, f64)| (step, value / figure.unit);
                let points: Vec<(f64, f64)> = run.points(key).into_iter().map(scaled).collect();
                if points.is_empty() {
                    continue;
                }
                let one = runs.len() == 1;
                let colour = if one { place } else { number };
                let legend = match figure.keys {
                    _ if one => (*legend).to_owned(),
                    [_] => run.name.clone(),
                    _ => format!("{}, {legend}", run.name),
                };
                curves.push(Curve {
                    legend,
                    class: COLOURS[colour % COLOURS.len()],
                    kind: kind_of(key),
                    points,
                    intervals: run.intervals(key),
                });
            }
        }
        if curves.is_empty() {
            continue;
        }
        let chart = Chart {
            title: String::new(),
            size: SIZE,
            range: figure.range,
            level: figure.level,
            last_step,
            curves,
            has_legend: false,
        };
        drawn.push(Drawn { id: figure.id, title: figure.title, note: figure.note, chart });
    }
    if let Some(memory) = drawn.iter_mut().find(|drawn| drawn.id == "memory") {
        against_plan(memory, runs);
    }
    drawn
}

/// From nothing to the most that was held or planned, with the plan of a single run as the line to compare with.
fn against_plan(memory: &mut Drawn, runs: &[RunRecord]) {
    let planned = runs.iter().filter_map(|run| run.facts.as_ref()).map(|facts| facts.planned_bytes());
    let planned = planned.max().unwrap_or(0) as f64 / GIBIBYTE;
    let held = memory.chart.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let most = held.fold(planned, f64::max);
    let (planned, most) = if most < 1.0 { in_mebibytes(memory, planned, most) } else { (planned, most) };
    memory.chart.range = Some((0.0, if most > 0.0 { 1.05 * most } else { 1.0 }));
    if runs.len() == 1 && planned > 0.0 {
        memory.chart.level = Some(planned);
    } else {
        memory.note = "The plans stand at the top, beside what was held.";
    }
}

/// Small models are told in a smaller unit.
fn in_mebibytes(memory: &mut Drawn, planned: f64, most: f64) -> (f64, f64) {
    memory.title = "Memory in MiB";
    memory.chart.curves.iter_mut().flat_map(|curve| &mut curve.points).for_each(|point| point.1 *= 1024.0);
    (planned * 1024.0, most * 1024.0)
}
