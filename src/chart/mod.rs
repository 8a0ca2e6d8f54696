//! Curves over training steps as SVG: the one drawing code of `curves.svg` and of `asft report`.
//!
//! A chart shows steps faintly, as they were measured, and a centred moving average over them; evaluations are dots on a
//! line, with a bar for their interval where there is one. Long runs are thinned so that the drawing stays small, with the
//! band between the extremes of each bin in place of the steps. Colours follow the viewer's light or dark theme
//! ([`STYLE`]); no two neighbours differ by red and green alone.
//!
//! Boundary: points in, text out; no drawing library, no fonts, no scripts. Which curves there are is the caller's.

mod axis;

use std::fmt::Write;

pub use axis::{Axis, significant};

/// Points of a curve beyond which it is thinned: about one per pixel of a plot.
const BINS: usize = 400;
/// Values beyond this are not drawn; nothing near them could be seen beside them.
pub const LARGEST: f64 = 1e100;
/// Space around the plot of a chart: left, right, top, bottom.
const MARGIN: [f64; 4] = [62.0, 22.0, 42.0, 34.0];
/// Space above the plot of a chart without a title.
const UNTITLED_TOP: f64 = 14.0;

/// (step, value), by step.
pub type Points = Vec<(f64, f64)>;

/// Names of colours: the classes that [`STYLE`] knows, `f` before one for areas.
pub const COLOURS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Light theme first; a viewer with a dark one overrides it. Every line colour has a contrast of at least 3 : 1 with its
/// page, every text one of 4.5 : 1.
pub const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#57606a}\
.title{font-size:20px;font-weight:600;fill:#1f2328}.panel{font-size:14px;font-weight:600;fill:#1f2328}\
.tick{font-size:12px;fill:#6a727b}.page{fill:#ffffff}\
.grid{stroke:#d8dee4;stroke-width:1;fill:none}.level{stroke:#8c959f;stroke-width:1;stroke-dasharray:4 4}\
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}\
.raw{fill:none;stroke-width:1;stroke-opacity:.3;stroke-linejoin:round}.band{fill-opacity:.18}\
.thin{fill:none;stroke-width:1.2;stroke-opacity:.7}.interval{fill:none;stroke-width:1.2;stroke-opacity:.8}\
.a{stroke:#0969c8}.fa{fill:#0969c8}.b{stroke:#c8500a}.fb{fill:#c8500a}.c{stroke:#7a4fc4}.fc{fill:#7a4fc4}\
.d{stroke:#0b7f78}.fd{fill:#0b7f78}.e{stroke:#b0307f}.fe{fill:#b0307f}.f{stroke:#59636e}.ff{fill:#59636e}\
@media(prefers-color-scheme:dark){text{fill:#9da7b1}.title,.panel{fill:#e6edf3}.tick{fill:#8d96a0}\
.page{fill:#0d1117}.grid{stroke:#2a313a}.level{stroke:#6e7681}\
.a{stroke:#58a6ff}.fa{fill:#58a6ff}.b{stroke:#f0883e}.fb{fill:#f0883e}.c{stroke:#b392f0}.fc{fill:#b392f0}\
.d{stroke:#39c5bb}.fd{fill:#39c5bb}.e{stroke:#f778ba}.fe{fill:#f778ba}.f{stroke:#9da7b1}.ff{fill:#9da7b1}}";

/// How a curve is measured, and so how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On the rows of one step each time: noisy.
    Steps,
    /// Exactly, at every step.
    Exact,
    /// Now and then, on the same rows each time.
    Evaluations,
}

/// A curve of a chart.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name where a chart has several; an empty one is not shown.
    pub legend: String,
    /// One of [`COLOURS`].
    pub class: &'static str,
    /// How it is drawn.
    pub kind: Kind,
    /// Finite values of at most [`LARGEST`].
    pub points: Points,
    /// (step, low, high) of the points that have an interval.
    pub intervals: Vec<(f64, f64, f64)>,
}

impl Curve {
    /// The curve as its line is drawn: averaged where it is noisy.
    pub fn smoothed(&self) -> Points {
        if self.kind == Kind::Steps { smooth(&self.points) } else { self.points.clone() }
    }
}

/// Some curves over one pair of axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is measured; empty where that stands elsewhere.
    pub title: String,
    /// Width and height.
    pub size: (f64, f64),
    /// The axis' ends, where the quantity has natural ones.
    pub range: Option<(f64, f64)>,
    /// A line to compare with, such as chance.
    pub level: Option<f64>,
    /// The step at the right end.
    pub last_step: f64,
    /// Back to front.
    pub curves: Vec<Curve>,
    /// Whether names and last values stand in the title's line; there is room for about two.
    pub has_legend: bool,
}

/// A plot's place in its chart and the values at its edges.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Of steps.
    pub x: Axis,
    /// Of values.
    pub y: Axis,
    /// Left, right, top and bottom edge.
    pub edges: [f64; 4],
}

impl Plot {
    fn x(&self, value: f64) -> f64 {
        let [left, right, ..] = self.edges;
        left + self.x.share(value) * (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        let [_, _, top, bottom] = self.edges;
        bottom - self.y.share(value) * (bottom - top)
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

impl Chart {
    /// Where the values will lie.
    pub fn plot(&self) -> Plot {
        let smoothed: Vec<Points> = self.curves.iter().map(Curve::smoothed).collect();
        self.plot_of(&smoothed)
    }

    fn plot_of(&self, smoothed: &[Points]) -> Plot {
        let (low, high) = self.range.unwrap_or_else(|| self.visible_range(smoothed));
        let (width, height) = self.size;
        let top = if self.title.is_empty() { UNTITLED_TOP } else { MARGIN[2] };
        Plot {
            x: Axis::of_steps(self.last_step.max(1.0)),
            y: Axis::new(low, high),
            edges: [MARGIN[0], width - MARGIN[1], top, height - MARGIN[3]],
        }
    }

    /// Writes the chart's elements, for a `<g>` or an `<svg>` of its size. `number` tells it from others of the page.
    pub fn draw(&self, svg: &mut String, number: usize) {
        let smoothed: Vec<Points> = self.curves.iter().map(Curve::smoothed).collect();
        let plot = self.plot_of(&smoothed);
        self.draw_axes(svg, &plot);
        let [left, right, top, bottom] = plot.edges;
        // Whole curves stay inside their plot though spikes may not.
        let _ = writeln!(
            svg,
            "<clipPath id=\"plot{number}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>\n\
             <g clip-path=\"url(#plot{number})\">",
            left - 4.0,
            top - 4.0,
            right - left + 8.0,
            bottom - top + 8.0,
        );
        for (curve, smoothed) in self.curves.iter().zip(&smoothed) {
            if curve.kind == Kind::Evaluations {
                draw_evaluations(svg, &plot, curve);
            } else {
                draw_steps(svg, &plot, curve, smoothed);
            }
        }
        svg.push_str("</g>\n");
        if self.has_legend {
            self.draw_legend(svg, right, &smoothed);
        }
    }

    fn draw_axes(&self, svg: &mut String, plot: &Plot) {
        let [left, right, _, bottom] = plot.edges;
        if !self.title.is_empty() {
            let title = escape(&self.title);
            let _ = writeln!(svg, "<text class=\"panel\" x=\"{left}\" y=\"24\">{title}</text>");
        }
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
        if let Some(level) = self.level.filter(|level| (plot.y.low..=plot.y.high).contains(level)) {
            let _ = writeln!(svg, "<path class=\"level\" d=\"M{left} {:.1}H{right}\"/>", plot.y(level));
        }
    }

    /// From the right end of the title's line: each curve's mark, name and last value.
    fn draw_legend(&self, svg: &mut String, mut right: f64, smoothed: &[Points]) {
        for (curve, points) in self.curves.iter().zip(smoothed).rev() {
            let Some((_, last)) = points.last() else { continue };
            if curve.legend.is_empty() {
                continue;
            }
            let text = format!("{} {}", curve.legend, significant(*last));
            // No font is known here: 7.6 px is the average advance of the widest usual sans-serif at 13 px. The
            // text starts behind its mark, so that a narrower font leaves its gap at the other end.
            let left = right - 7.6 * text.chars().count() as f64;
            let (class, is_evaluation) = (curve.class, curve.kind == Kind::Evaluations);
            let _ = writeln!(svg, "<text x=\"{left:.1}\" y=\"24\">{}</text>", escape(&text));
            let _ = if is_evaluation {
                writeln!(svg, "<circle class=\"f{class}\" cx=\"{:.1}\" cy=\"19.5\" r=\"3.2\"/>", left - 8.0)
            } else {
                writeln!(svg, "<path class=\"line {class}\" d=\"M{:.1} 19.5h14\"/>", left - 18.0)
            };
            right = left - if is_evaluation { 24.0 } else { 36.0 };
        }
    }

    /// The values an axis must cover: all of the averages and intervals, and of the single steps all but the most extreme
    /// hundredth at either end.
    fn visible_range(&self, smoothed: &[Points]) -> (f64, f64) {
        let mut range = (f64::INFINITY, f64::NEG_INFINITY);
        let mut cover = |value: f64| range = (range.0.min(value), range.1.max(value));
        for curve in self.curves.iter().filter(|curve| !curve.points.is_empty()) {
            let mut values: Vec<f64> = curve.points.iter().map(|point| point.1).collect();
            values.sort_by(f64::total_cmp);
            let cut = values.len() / 100;
            cover(values[cut]);
            cover(values[values.len() - 1 - cut]);
            for (_, low, high) in &curve.intervals {
                cover(*low);
                cover(*high);
            }
        }
        smoothed.iter().flatten().for_each(|point| cover(point.1));
        if range.0 > range.1 { (0.0, 1.0) } else { range }
    }
}

/// The steps faintly, and their average; a single step is a dot.
fn draw_steps(svg: &mut String, plot: &Plot, curve: &Curve, smoothed: &[(f64, f64)]) {
    let Curve { class, points, .. } = curve;
    if let [(step, value)] = points[..] {
        let (x, y) = (plot.x(step), plot.y(value));
        let _ = writeln!(svg, "<circle class=\"f{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
        return;
    }
    if smoothed == &points[..] {
        // Nothing to set apart from the line.
    } else if points.len() > 2 * BINS {
        let (lower, upper) = extremes(points);
        let outline = plot.path(lower.iter().chain(upper.iter().rev()));
        let _ = writeln!(svg, "<path class=\"band f{class}\" d=\"{outline}Z\"/>");
    } else {
        let _ = writeln!(svg, "<path class=\"raw {class}\" d=\"{}\"/>", plot.path(points));
    }
    if !points.is_empty() {
        let path = plot.path(&thinned(smoothed));
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
    }
}

fn draw_evaluations(svg: &mut String, plot: &Plot, curve: &Curve) {
    let Curve { class, points, .. } = curve;
    if points.len() > 1 {
        let _ = writeln!(svg, "<path class=\"thin {class}\" d=\"{}\"/>", plot.path(points));
    }
    for (step, low, high) in &curve.intervals {
        let (x, low, high) = (plot.x(*step), plot.y(*low), plot.y(*high));
        let _ = writeln!(svg, "<path class=\"interval {class}\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>");
    }
    let radius = if points.len() > 60 { 1.6 } else { 3.2 };
    for (step, value) in points {
        let (x, y) = (plot.x(*step), plot.y(*value));
        let _ = writeln!(svg, "<circle class=\"f{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>");
    }
}

/// About as many points as can be told apart, the last among them.
pub fn thinned(points: &[(f64, f64)]) -> Points {
    let stride = points.len().div_ceil(BINS).max(1);
    let last = points.last().filter(|_| !(points.len() - 1).is_multiple_of(stride));
    points.iter().step_by(stride).chain(last).copied().collect()
}

/// Centred moving average over a fortieth of the points, or as many of them as there are near the ends.
pub fn smooth(points: &[(f64, f64)]) -> Points {
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

/// Text as it stands in an element of SVG or HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
