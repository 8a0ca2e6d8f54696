//! What the figures are drawn with: a page in the style of a run's curves, and plots with two axes.

use std::fmt::{Arguments, Write};

use crate::chart::{Axis, STYLE, escape};

pub(super) use crate::chart::significant;

/// Colours and marks beside those of a run's curves: two more series, and what is derived instead of measured.
const MORE_STYLE: &str = "\
.c{stroke:#8250df}.fc{fill:#8250df}.d{stroke:#6e7781}.fd{fill:#6e7781}.box{fill:none;stroke:#8c959f}\
.mark{stroke:#1f2328;stroke-width:1.5;fill:none}.derived{stroke:#1f2328;stroke-width:2;stroke-dasharray:5 3;fill:none}\
@media(prefers-color-scheme:dark){.c{stroke:#bc8cff}.fc{fill:#bc8cff}.d{stroke:#9da7b1}.fd{fill:#9da7b1}\
.box{stroke:#6e7681}.mark,.derived{stroke:#e6edf3}}";

/// A drawing under way.
pub(super) struct Svg(String);

impl Svg {
    /// A page of this width and height with its title.
    pub fn new(title: &str, subtitle: &str, [width, height]: [f64; 2], style: &str) -> Self {
        let mut svg = Svg(String::new());
        let (title, subtitle) = (escape(title), escape(subtitle));
        svg.push(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\">\n<title>{title}</title>\n<style>{STYLE}{MORE_STYLE}{style}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n\
             <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\n<text x=\"20\" y=\"53\">{subtitle}</text>\n"
        ));
        svg
    }

    /// Adds elements as they are.
    pub fn push(&mut self, elements: Arguments) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(elements);
    }

    /// Adds a line of text.
    pub fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: &str, words: &str) {
        let words = escape(words);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n"
        ));
    }

    /// The file.
    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// A plot's place on the page and the values at its edges.
pub(super) struct Plot {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub x: Axis,
    pub y: Axis,
}

impl Plot {
    /// The unit square.
    pub fn square(left: f64, top: f64, side: f64) -> Self {
        let unit = || Axis::new(0.0, 1.0);
        Self { left, top, width: side, height: side, x: unit(), y: unit() }
    }

    pub fn x(&self, value: f64) -> f64 {
        self.left + self.x.share(value) * self.width
    }

    pub fn y(&self, value: f64) -> f64 {
        self.top + self.height - self.y.share(value) * self.height
    }

    /// The `d` of a path through points.
    pub fn path(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.x(x), self.y(y));
        }
        path
    }

    /// A box with ticks and names on two sides.
    pub fn frame(&self, svg: &mut Svg, x_name: &str, y_name: &str) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        svg.push(format_args!(
            "<rect class=\"box\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n",
            self.left, self.top, self.width, self.height
        ));
        for (value, label) in self.x.ticks() {
            svg.text("tick", [self.x(value), bottom + 18.0], "middle", &label);
        }
        for (value, label) in self.y.ticks() {
            svg.text("tick", [self.left - 8.0, self.y(value) + 4.0], "end", &label);
        }
        svg.text("", [(self.left + right) / 2.0, bottom + 36.0], "middle", x_name);
        svg.text("", [self.left - 8.0, self.top - 8.0], "end", y_name);
    }

    /// Lines across at the ticks, with their values.
    pub fn grid(&self, svg: &mut Svg) {
        for (value, label) in self.y.ticks() {
            let y = self.y(value);
            svg.push(format_args!("<path class=\"grid\" d=\"M{} {y:.1}h{}\"/>\n", self.left, self.width));
            svg.text("tick", [self.left - 8.0, y + 4.0], "end", &label);
        }
    }
}
