//! Figure 1: loss surfaces of DPO, ORPO and ASFT over the two probabilities, seen from above, with arrows along `-grad`, and the
//! lines where both answers move equally fast.

use std::fmt::Write;

use super::Figure;
use super::chart::{Plot, Svg};
use super::plane::Plane;

/// Cells of the shading, a side.
const CELLS: usize = 20;
/// Arrows, and rows of the table, a side.
const ARROWS: usize = 10;
/// Points that shares of the square are counted over, a side.
const FINE: usize = 200;
/// Shades of the surface.
const SHADES: usize = 8;

const SIDE: f64 = 290.0;
const PITCH: [f64; 2] = [372.0, 400.0];
const WIDTH: f64 = 1130.0;
const HEIGHT: f64 = 880.0;

struct Surface {
    name: &'static str,
    formula: &'static str,
    plane: Plane,
}

const SURFACES: [Surface; 5] = [
    Surface {
        name: "DPO",
        formula: "softplus(\u{2212}\u{3b2} log(x\u{2081}/x\u{2082})), \u{3b2} = 0.1",
        plane: Plane::Dpo { beta: 0.1 },
    },
    Surface {
        name: "ORPO, odds ratio alone",
        formula: "softplus(logit x\u{2082} \u{2212} logit x\u{2081})",
        plane: Plane::Orpo { c: 0.0, lambda: 1.0 },
    },
    Surface {
        name: "ASFT, align term alone",
        formula: "\u{2212}log x\u{2081} \u{2212} log(1 \u{2212} x\u{2082})",
        plane: Plane::Asft { c: 0.0, lambda: 1.0 },
    },
    Surface {
        name: "ORPO with SFT",
        formula: "\u{2212}log x\u{2081} + softplus(logit x\u{2082} \u{2212} logit x\u{2081})",
        plane: Plane::Orpo { c: 1.0, lambda: 1.0 },
    },
    Surface {
        name: "ASFT with SFT",
        formula: "\u{2212}2 log x\u{2081} \u{2212} log(1 \u{2212} x\u{2082})",
        plane: Plane::Asft { c: 1.0, lambda: 1.0 },
    },
];

/// Draws the figure; it needs neither data nor a model.
pub fn figure() -> Figure {
    let mut svg = Svg::new(
        "Loss surfaces and gradient fields",
        "chosen answer across, rejected answer up: for DPO the ratios to the reference, for ORPO and ASFT the length-normalised \
         probabilities",
        [WIDTH, HEIGHT],
        &style(),
    );
    for (number, surface) in SURFACES.iter().enumerate() {
        let (column, row) = (number % 3, number / 3);
        // The second row continues what stands above it.
        let column = if row == 1 { column + 1 } else { column };
        let (left, top) = (62.0 + PITCH[0] * column as f64, 116.0 + PITCH[1] * row as f64);
        draw(&mut svg, number, surface, Plot::square(left, top, SIDE));
    }
    legend(&mut svg, 30.0, 116.0 + PITCH[1]);
    Figure {
        name: "surfaces",
        title: "Loss surfaces and gradient fields (figure 1)",
        sentence: sentence(),
        notes: vec![
            "Closed formulas, the same that training uses (a test holds them together); no model, no data, no randomness.".into(),
        ],
        svg: Some(svg.finish()),
        csv: Some(table()),
        ..Figure::default()
    }
}

fn style() -> String {
    let mut style = String::from(
        ".arrow{stroke:#1f2328;stroke-width:1.1;fill:none}.cut{stroke-width:2.2}\
         .even{stroke:#c8500a;stroke-width:2;fill:none}.shade{fill:#0969c8}\
         @media(prefers-color-scheme:dark){.arrow{stroke:#e6edf3}.even{stroke:#f0883e}.shade{fill:#58a6ff}}",
    );
    for shade in 0..SHADES {
        // Writing to a String cannot fail.
        let _ = write!(style, ".s{shade}{{fill-opacity:{:.2}}}", 0.06 + 0.09 * shade as f64);
    }
    style
}

/// The middle of a cell, from 0 to 1.
fn middle(index: usize, of: usize) -> f64 {
    (index as f64 + 0.5) / of as f64
}

fn draw(svg: &mut Svg, number: usize, surface: &Surface, plot: Plot) {
    let plane = surface.plane;
    svg.text("panel", [plot.left, plot.top - 30.0], "start", surface.name);
    svg.text("tick", [plot.left, plot.top - 12.0], "start", surface.formula);
    shade(svg, plane, &plot);
    svg.push(format_args!(
        "<clipPath id=\"p{number}\"><rect x=\"{}\" y=\"{}\" width=\"{SIDE}\" height=\"{SIDE}\"/></clipPath>\n",
        plot.left, plot.top
    ));
    svg.push(format_args!("<g clip-path=\"url(#p{number})\">\n"));
    svg.push(format_args!("<path class=\"even\" d=\"{}\"/>\n", even(plane, &plot)));
    let longest = arrows(svg, plane, &plot);
    svg.push(format_args!("</g>\n"));
    plot.frame(svg, "x\u{2081}", "x\u{2082}");
    let words = format!("an arrow as long as its cell: |grad| = {}", super::chart::significant(longest));
    svg.text("tick", [plot.left + SIDE, plot.top + SIDE + 52.0], "end", &words);
}

/// The surface, the darker the higher; runs of one shade in a row are one rectangle.
fn shade(svg: &mut Svg, plane: Plane, plot: &Plot) {
    let at = |i: usize, j: usize| plane.at(middle(i, CELLS), middle(j, CELLS)).loss;
    let mut all: Vec<f64> = (0..CELLS * CELLS).map(|cell| at(cell % CELLS, cell / CELLS)).collect();
    all.sort_unstable_by(f64::total_cmp);
    // Without the few cells that tower over the rest.
    let (low, high) = (all[0], all[all.len() * 24 / 25]);
    let shade = |loss: f64| (((loss - low) / (high - low) * SHADES as f64) as usize).min(SHADES - 1);
    let size = SIDE / CELLS as f64;
    for j in 0..CELLS {
        let mut first = 0;
        while first < CELLS {
            let level = shade(at(first, j));
            let run = (first..CELLS).take_while(|&i| shade(at(i, j)) == level).count();
            let (x, y) = (plot.left + first as f64 * size, plot.top + SIDE - (j + 1) as f64 * size);
            svg.push(format_args!(
                "<rect class=\"shade s{level}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{size:.1}\"/>\n",
                run as f64 * size
            ));
            first += run;
        }
    }
}

/// Arrows along `-grad`, as long as it is large; gives the length of gradient that fills a cell. Longer ones are cut and drawn bold.
fn arrows(svg: &mut Svg, plane: Plane, plot: &Plot) -> f64 {
    let points: Vec<(f64, f64)> = (0..ARROWS * ARROWS)
        .map(|point| (middle(point % ARROWS, ARROWS), middle(point / ARROWS, ARROWS)))
        .collect();
    let mut slopes: Vec<f64> = points.iter().map(|&(x1, x2)| plane.at(x1, x2).slope()).collect();
    slopes.sort_unstable_by(f64::total_cmp);
    let longest = slopes[slopes.len() * 3 / 4];
    let cell = SIDE / ARROWS as f64;
    for (x1, x2) in points {
        let height = plane.at(x1, x2);
        let slope = height.slope();
        let (along, up) = (-height.d1 / slope, -height.d2 / slope);
        let length = cell * (slope / longest).min(1.0);
        let (x, y) = (plot.x(x1), plot.y(x2));
        let (tip_x, tip_y) = (x + along * length / 2.0, y - up * length / 2.0);
        let head = (length * 0.35).min(6.0);
        // Back from the tip, and to either side.
        let side =
            |turn: f64| (tip_x - head * (along + turn * up * 0.5), tip_y + head * (up - turn * along * 0.5));
        let (one, other) = (side(1.0), side(-1.0));
        let class = if slope > longest { "arrow cut" } else { "arrow" };
        svg.push(format_args!(
            "<path class=\"{class}\" d=\"M{:.1} {:.1}L{tip_x:.1} {tip_y:.1}M{:.1} {:.1}L{tip_x:.1} {tip_y:.1}L{:.1} {:.1}\"/>\n",
            x - along * length / 2.0,
            y + up * length / 2.0,
            one.0,
            one.1,
            other.0,
            other.1
        ));
    }
    longest
}

/// The path where `|d1 / d2|` is 1: marching squares over the logarithm of the ratio.
fn even(plane: Plane, plot: &Plot) -> String {
    // Odd, so that the diagonals of the square do not run through corners alone.
    const GRID: usize = 61;
    let place = |index: usize| 0.004 + 0.992 * index as f64 / GRID as f64;
    let value = |(i, j): (usize, usize)| plane.at(place(i), place(j)).ratio().ln();
    let mut path = String::new();
    for (i, j) in (0..GRID * GRID).map(|cell| (cell % GRID, cell / GRID)) {
        let corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)];
        let crossing = |one: (usize, usize), other: (usize, usize)| {
            let (a, b) = (value(one), value(other));
            let share = a / (a - b);
            let between = |one: usize, other: usize| place(one) + share * (place(other) - place(one));
            ((a < 0.0) != (b < 0.0)).then(|| (between(one.0, other.0), between(one.1, other.1)))
        };
        let points: Vec<(f64, f64)> =
            (0..4).filter_map(|edge| crossing(corners[edge], corners[(edge + 1) % 4])).collect();
        for pair in points.chunks_exact(2) {
            // Writing to a String cannot fail.
            let _ = write!(
                path,
                "M{:.1} {:.1}L{:.1} {:.1}",
                plot.x(pair[0].0),
                plot.y(pair[0].1),
                plot.x(pair[1].0),
                plot.y(pair[1].1)
            );
        }
    }
    path
}

fn legend(svg: &mut Svg, left: f64, top: f64) {
    svg.text("panel", [left, top - 30.0], "start", "How to read this");
    let lines = [
        "Seen from above, the darker the higher the loss.",
        "Arrows point where training goes, along \u{2212}grad,",
        "and are as long as the gradient is large; those",
        "longer than a cell are cut and bold. Each panel has",
        "a scale of its own.",
    ];
    for (number, line) in lines.iter().enumerate() {
        svg.text("", [left, top + 20.0 * number as f64], "start", line);
    }
    let y = top + 20.0 * lines.len() as f64 + 12.0;
    svg.push(format_args!("<path class=\"even\" d=\"M{left} {y}h40\"/>\n"));
    svg.text("", [left + 50.0, y + 4.0], "start", "|d\u{2081}/d\u{2082}| = 1: both answers move");
    svg.text("", [left, y + 24.0], "start", "equally fast. Where arrows are flatter than 45\u{b0},");
    svg.text("", [left, y + 44.0], "start", "the chosen one is lifted faster than the rejected");
    svg.text("", [left, y + 64.0], "start", "one is pushed down.");
}

/// The share of the square, and of its half `x1 > x2`, in which the chosen answer moves faster.
fn shares(plane: Plane) -> [f64; 2] {
    let (mut faster, mut ahead, mut faster_ahead) = (0usize, 0usize, 0usize);
    for (i, j) in (0..FINE * FINE).map(|point| (point % FINE, point / FINE)) {
        let is_faster = plane.at(middle(i, FINE), middle(j, FINE)).ratio() > 1.0;
        faster += usize::from(is_faster);
        if i > j {
            ahead += 1;
            faster_ahead += usize::from(is_faster);
        }
    }
    [faster as f64 / (FINE * FINE) as f64, faster_ahead as f64 / ahead as f64]
}

fn sentence() -> String {
    let mut words: Vec<String> = Vec::new();
    for surface in &SURFACES {
        let [_, ahead] = shares(surface.plane);
        words.push(format!("{} {:.0}%", surface.name, 100.0 * ahead));
    }
    format!(
        "Where the chosen answer is the likelier one already (x1 > x2), the loss still lifts it faster than it pushes the rejected one \
         down on this share of the square: {}.",
        words.join("; ")
    )
}

fn table() -> String {
    let mut text = String::from("surface,x1,x2,loss,d1,d2,ratio\n");
    for surface in &SURFACES {
        for (i, j) in (0..ARROWS * ARROWS).map(|point| (point % ARROWS, point / ARROWS)) {
            let (x1, x2) = (middle(i, ARROWS), middle(j, ARROWS));
            let height = surface.plane.at(x1, x2);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\"{}\",{x1:.2},{x2:.2},{:.6},{:.6},{:.6},{:.6}",
                surface.name,
                height.loss,
                height.d1,
                height.d2,
                height.ratio()
            );
        }
    }
    text
}
