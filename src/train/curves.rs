//! `curves.svg`: the run at a glance, as small multiples drawn from `metrics.jsonl`.
//!
//! Each panel shows the steps faintly, as they were measured, and a centred moving average over them;
//! evaluations are dots on a line. Long runs are thinned so that the file stays small, with the band between
//! the extremes of each bin in place of the steps. Colours follow the viewer's light or dark theme; no two
//! that share a panel differ by red and green alone.
//!
//! Boundary: text in, text out; no drawing library, no fonts, no scripts.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::log::{LogError, lines};

const WIDTH: f64 = 1000.0;
const HEADER: f64 = 62.0;
const PANEL_WIDTH: f64 = 500.0;
const PANEL_HEIGHT: f64 = 250.0;
/// Space around the plot of a panel: left, right, top, bottom.
const MARGIN: [f64; 4] = [62.0, 22.0, 42.0, 34.0];
/// Points of a curve beyond which it is thinned: about one per pixel of a plot.
const BINS: usize = 400;

/// Values beyond this are not drawn; nothing near them could be seen beside them.
const LARGEST: f64 = 1e100;

/// (step, value), by step.
type Points = Vec<(f64, f64)>;

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

/// Light theme first; a viewer with a dark one overrides it.
pub(crate) const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#57606a}\
.title{font-size:20px;font-weight:600;fill:#1f2328}.panel{font-size:14px;font-weight:600;fill:#1f2328}\
.tick{font-size:12px;fill:#6e7781}.page{fill:#ffffff}\
.grid{stroke:#d8dee4;stroke-width:1;fill:none}.level{stroke:#8c959f;stroke-width:1;stroke-dasharray:4 4}\
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}\
.raw{fill:none;stroke-width:1;stroke-opacity:.3;stroke-linejoin:round}.band{fill-opacity:.18}\
.thin{fill:none;stroke-width:1.2;stroke-opacity:.7}\
.a{stroke:#0969c8}.fa{fill:#0969c8}.b{stroke:#c8500a}.fb{fill:#c8500a}\
@media(prefers-color-scheme:dark){text{fill:#9da7b1}.title,.panel{fill:#e6edf3}.tick{fill:#8d96a0}\
.page{fill:#0d1117}.grid{stroke:#2a313a}.level{stroke:#6e7681}\
.a{stroke:#58a6ff}.fa{fill:#58a6ff}.b{stroke:#f0883e}.fb{fill:#f0883e}}";

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
            draw_panel(&mut svg, number, panel, points, last_step);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A plot's place in its panel and the values at its edges.
struct Plot {
    x: Axis,
    y: Axis,
}

impl Plot {
    const LEFT: f64 = MARGIN[0];
    const RIGHT: f64 = PANEL_WIDTH - MARGIN[1];
    const TOP: f64 = MARGIN[2];
    const BOTTOM: f64 = PANEL_HEIGHT - MARGIN[3];

    fn x(&self, value: f64) -> f64 {
        Self::LEFT + self.x.share(value) * (Self::RIGHT - Self::LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        Self::BOTTOM - self.y.share(value) * (Self::BOTTOM - Self::TOP)
    }

    /// The `d` of a path through points.
    fn path<'a>(&self, points: impl IntoIterator<Item = &'a (f64, f64)>) -> String {
        let mut path = String::new();
        for (step, value) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.x(*step), self.y(*value));
        }
        path
    }
}

fn draw_panel(svg: &mut String, number: usize, panel: &Panel, series: &[Points], last_step: f64) {
    let smoothed: Vec<Points> = panel
        .curves
        .iter()
        .zip(series)
        .map(|(curve, points)| if is_noisy(curve) { smooth(points) } else { points.clone() })
        .collect();
    let (low, high) = panel.range.unwrap_or_else(|| visible_range(series, &smoothed));
    let plot = Plot { x: Axis::of_steps(last_step.max(1.0)), y: Axis::new(low, high) };
    draw_axes(svg, panel, &plot);
    // Whole curves stay inside their plot though spikes may not.
    let _ = writeln!(
        svg,
        "<clipPath id=\"plot{number}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>\n\
         <g clip-path=\"url(#plot{number})\">",
        Plot::LEFT - 4.0,
        Plot::TOP - 4.0,
        Plot::RIGHT - Plot::LEFT + 8.0,
        Plot::BOTTOM - Plot::TOP + 8.0,
    );
    for ((curve, points), smoothed) in panel.curves.iter().zip(series).zip(&smoothed) {
        if is_evaluation(curve) {
            draw_evaluations(svg, &plot, curve.class, points);
        } else {
            draw_steps(svg, &plot, curve.class, points, smoothed);
        }
    }
    svg.push_str("</g>\n");
    draw_legend(svg, panel, &smoothed);
}

fn is_evaluation(curve: &Curve) -> bool {
    curve.key.starts_with("eval_")
}

/// Whether a curve is measured on one step's rows each time.
fn is_noisy(curve: &Curve) -> bool {
    !is_evaluation(curve) && curve.key != "learning_rate"
}

fn draw_axes(svg: &mut String, panel: &Panel, plot: &Plot) {
    let (left, right, bottom) = (Plot::LEFT, Plot::RIGHT, Plot::BOTTOM);
    let _ = writeln!(svg, "<text class=\"panel\" x=\"{left}\" y=\"24\">{}</text>", panel.title);
    for (value, label) in plot.y.ticks() {
        let y = plot.y(value);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left - 8.0,
            y + 4.0,
        );
    }
    for (value, label) in plot.x.ticks() {
        let label = if value == 0.0 { "step 0".to_owned() } else { label };
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            plot.x(value),
            bottom + 20.0,
        );
    }
    if let Some(level) = panel.level.filter(|level| (plot.y.low..=plot.y.high).contains(level)) {
        let _ = writeln!(svg, "<path class=\"level\" d=\"M{left} {:.1}H{right}\"/>", plot.y(level));
    }
}

/// The steps faintly, and their average; a single step is a dot.
fn draw_steps(svg: &mut String, plot: &Plot, class: &str, points: &[(f64, f64)], smoothed: &[(f64, f64)]) {
    if let [(step, value)] = points {
        let (x, y) = (plot.x(*step), plot.y(*value));
        let _ = writeln!(svg, "<circle class=\"f{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
        return;
    }
    if smoothed == points {
        // Nothing to set apart from the line.
    } else if points.len() > 2 * BINS {
        let (lower, upper) = extremes(points);
        let outline = plot.path(lower.iter().chain(upper.iter().rev()));
        let _ = writeln!(svg, "<path class=\"band f{class}\" d=\"{outline}Z\"/>");
    } else {
        let _ = writeln!(svg, "<path class=\"raw {class}\" d=\"{}\"/>", plot.path(points));
    }
    if !points.is_empty() {
        let stride = smoothed.len().div_ceil(BINS).max(1);
        let last = smoothed.last().filter(|_| !(smoothed.len() - 1).is_multiple_of(stride));
        let path = plot.path(smoothed.iter().step_by(stride).chain(last));
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
    }
}

fn draw_evaluations(svg: &mut String, plot: &Plot, class: &str, points: &[(f64, f64)]) {
    if points.len() > 1 {
        let _ = writeln!(svg, "<path class=\"thin {class}\" d=\"{}\"/>", plot.path(points));
    }
    let radius = if points.len() > 60 { 1.6 } else { 3.2 };
    for (step, value) in points {
        let (x, y) = (plot.x(*step), plot.y(*value));
        let _ = writeln!(svg, "<circle class=\"f{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>");
    }
}

/// From the right end of the title's line: each curve's mark, name and last value.
fn draw_legend(svg: &mut String, panel: &Panel, smoothed: &[Points]) {
    let mut right = Plot::RIGHT;
    for (curve, points) in panel.curves.iter().zip(smoothed).rev() {
        let Some((_, last)) = points.last() else { continue };
        if curve.legend.is_empty() {
            continue;
        }
        let text = format!("{} {}", curve.legend, significant(*last));
        // No font is known here: 7.6 px is the average advance of the widest usual sans-serif at 13 px. The
        // text starts behind its mark, so that a narrower font leaves its gap at the other end.
        let left = right - 7.6 * text.chars().count() as f64;
        let class = curve.class;
        let _ = writeln!(svg, "<text x=\"{left:.1}\" y=\"24\">{text}</text>");
        let _ = if is_evaluation(curve) {
            writeln!(svg, "<circle class=\"f{class}\" cx=\"{:.1}\" cy=\"19.5\" r=\"3.2\"/>", left - 8.0)
        } else {
            writeln!(svg, "<path class=\"line {class}\" d=\"M{:.1} 19.5h14\"/>", left - 18.0)
        };
        right = left - if is_evaluation(curve) { 24.0 } else { 36.0 };
    }
}

/// Centred moving average over a fortieth of the points, or as many of them as there are near the ends.
fn smooth(points: &[(f64, f64)]) -> Points {
    let half = points.len() / 80;
    if half == 0 {
        return points.to_vec();
    }
    let mut sums = vec![0.0];
    for (_, value) in points {
        sums.push(sums[sums.len() - 1] + value);
    }
    let average = |(index, point): (usize, &(f64, f64))| {
        let (start, end) = (index.saturating_sub(half), (index + half + 1).min(points.len()));
        (point.0, (sums[end] - sums[start]) / (end - start) as f64)
    };
    points.iter().enumerate().map(average).collect()
}

/// Least and greatest value of each bin of steps.
fn extremes(points: &[(f64, f64)]) -> (Points, Points) {
    let size = points.len().div_ceil(BINS);
    let bin = |points: &[(f64, f64)]| {
        let middle = points[points.len() / 2].0;
        let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
        ((middle, low), (middle, high))
    };
    points.chunks(size).map(bin).unzip()
}

/// The values an axis must cover: all of the averages, and of the single steps all but the most extreme
/// hundredth at either end.
fn visible_range(series: &[Points], smoothed: &[Points]) -> (f64, f64) {
    let mut range = (f64::INFINITY, f64::NEG_INFINITY);
    let mut cover = |value: f64| range = (range.0.min(value), range.1.max(value));
    for points in series.iter().filter(|points| !points.is_empty()) {
        let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
        values.sort_by(f64::total_cmp);
        let cut = values.len() / 100;
        cover(values[cut]);
        cover(values[values.len() - 1 - cut]);
    }
    smoothed.iter().flatten().for_each(|point| cover(point.1));
    range
}

/// A value axis whose ticks are 1, 2 or 5 times a power of ten apart.
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    step: f64,
}

impl Axis {
    const TICKS: f64 = 5.0;

    /// An axis over at least `low..=high` whose ends are ticks.
    pub(crate) fn new(low: f64, high: f64) -> Self {
        // A constant needs room to be seen as one; so does what differs by rounding only.
        let size = low.abs().max(high.abs());
        let flat = high - low <= 1e-9 * size.max(1e-290);
        let room = if size == 0.0 { 1.0 } else { 0.1 * size };
        let (low, high) = if flat { (low - room, high + room) } else { (low, high) };
        let step = nice_step((high - low) / Self::TICKS);
        // A hair's breadth inwards, so that an end that is a tick does not gain another.
        let hair = 1e-6;
        Axis { low: (low / step + hair).floor() * step, high: (high / step - hair).ceil() * step, step }
    }

    /// An axis of whole steps that ends where the run does.
    pub(crate) fn of_steps(last: f64) -> Self {
        Axis { low: 0.0, high: last, step: nice_step(last / Self::TICKS).max(1.0) }
    }

    /// Where a value lies between the ends: 0 to 1.
    pub(crate) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        let (first, last) =
            ((self.low / self.step - 1e-6).ceil() as i64, (self.high / self.step + 1e-6).floor() as i64);
        (first..=last)
            .map(|number| number as f64 * self.step)
            .map(|value| (value, self.label(value)))
            .collect()
    }

    /// All labels of an axis have the same number of digits after the point.
    fn label(&self, value: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        let text = if value == 0.0 {
            "0".to_owned()
        } else if !(1e-3..1e7).contains(&largest) {
            let digits = (value.abs().log10().floor() - self.step.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$e}")
        } else if largest >= 1e4 && self.step >= 1e3 {
            format!("{:.0}k", value / 1e3)
        } else {
            let digits = (-self.step.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$}")
        };
        text.replace('-', "\u{2212}")
    }
}

/// The least of 1, 2 or 5 times a power of ten that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|nice| nice * power)
        .find(|step| *step >= 0.999 * raw)
        .unwrap_or(raw)
}

/// A value with three significant digits.
pub(crate) fn significant(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let text = if (-4.0..7.0).contains(&magnitude) {
        let digits = (2.0 - magnitude).max(0.0) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.2e}")
    };
    text.replace('-', "\u{2212}")
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
