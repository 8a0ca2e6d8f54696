//! Figure 2a: how far the likelihoods of chosen and rejected answers come apart during training, for several objectives on the same
//! data from the same model, over several seeds.

use std::fmt::Write;
use std::path::Path;

use super::chart::{Plot, Svg, significant};
use super::{Figure, PaperError, Result, spread};
use crate::chart::Axis;
use crate::train::log::lines;

/// An objective of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Competitor {
    /// As `--objective` has it.
    pub name: &'static str,
    /// As people write it.
    pub title: &'static str,
    /// The style's class.
    class: &'static str,
}

/// Those of the paper's figure, and the two others that it speaks of.
pub const COMPETITORS: [Competitor; 4] = [
    Competitor { name: "asft", title: "ASFT", class: "a" },
    Competitor { name: "orpo", title: "ORPO", class: "b" },
    Competitor { name: "dpo", title: "DPO", class: "c" },
    Competitor { name: "sft", title: "SFT", class: "d" },
];

impl Competitor {
    /// The flags of its objective: the NLL per sequence over the answer in all of them, so that ORPO and ASFT differ in nothing but the
    /// preference term.
    pub fn words(&self, lambda: f64, beta: f64) -> Vec<String> {
        let nll = "--nll-reduction sequence --nll-on response";
        let words = match self.name {
            "dpo" => format!("--objective dpo --beta {beta}"),
            "sft" => format!("--objective sft {nll}"),
            name => format!("--objective {name} --lambda {lambda} {nll}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

/// One evaluation on held-out pairs; means over pairs of length-normalised log-probs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Optimizer steps done.
    pub step: usize,
    /// Of the chosen answers.
    pub chosen: f64,
    /// Of the rejected ones.
    pub rejected: f64,
}

impl Point {
    /// `a_w - a_l`.
    pub fn margin(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// The evaluations of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// What was trained for.
    pub competitor: Competitor,
    /// The run's seed.
    pub seed: u64,
    /// By step.
    pub points: Vec<Point>,
}

impl Course {
    /// Reads a run's `metrics.jsonl`.
    ///
    /// # Errors
    /// A record that cannot be read, or that has no evaluation in it.
    pub fn read(competitor: Competitor, seed: u64, path: &Path) -> Result<Self> {
        let mut points = Vec::new();
        for line in lines(path)? {
            let line = line?;
            let number = |key: &str| line.get(key).and_then(serde_json::Value::as_f64);
            let both = number("eval_mean_logps/chosen").zip(number("eval_mean_logps/rejected"));
            if let Some(((chosen, rejected), step)) = both.zip(number("step")) {
                points.push(Point { step: step as usize, chosen, rejected });
            }
        }
        if points.is_empty() {
            let what = "evaluation with eval_mean_logps/chosen and /rejected";
            return Err(PaperError::NotMeasured { path: path.to_owned(), what });
        }
        Ok(Self { competitor, seed, points })
    }
}

/// A plot of the figure: its title and what it shows.
type Panel = (&'static str, fn(&Point) -> f64);

const PANELS: [Panel; 2] = [
    ("Likelihood margin, chosen \u{2212} rejected", Point::margin),
    ("Mean log-probability of the chosen answers", |point| point.chosen),
];

/// Draws the courses of all seeds. Courses of one objective are averaged step by step.
pub fn figure(courses: &[Course], mut notes: Vec<String>) -> Figure {
    notes.extend(push(courses));
    let seeds = seeds(courses);
    let mut svg = Svg::new(
        "Likelihood margin during training",
        &format!(
            "held-out pairs, length-normalised; lines are means, bands from the lowest to the highest of {seeds} seeds"
        ),
        [1000.0, 430.0],
        // SFT may lie on ASFT.
        ".band{fill-opacity:.15}.line.d{stroke-dasharray:7 5}",
    );
    for (number, (title, value)) in PANELS.into_iter().enumerate() {
        panel(&mut svg, number as f64 * 500.0, title, &means(courses, value));
    }
    Figure {
        name: "margins",
        title: "Likelihood margin during training (figure 2a)",
        sentence: sentence(courses),
        notes,
        svg: Some(svg.finish()),
        csv: Some(table(courses)),
        ..Figure::default()
    }
}

/// How hard ASFT pushes rejected answers down at the start: its slope is `lambda p / (1 - p)`.
fn push(courses: &[Course]) -> Option<String> {
    let starts: Vec<f64> =
        courses.iter().filter_map(|course| Some(course.points.first()?.rejected)).collect();
    let [_, a, _] = spread(starts.iter().copied());
    let push = 1.0 / (-a).exp_m1();
    starts.first().map(|_| {
        format!(
            "The rejected answers begin at a mean log-probability of {} per token, where ASFT's slope on them is {} of lambda, beside \
             one of 1 + lambda on the chosen ones: {}.",
            significant(a),
            significant(push),
            if push < 0.05 { "so far it is SFT for the most part" } else { "its preference term has weight" }
        )
    })
}

fn seeds(courses: &[Course]) -> usize {
    let mut seeds: Vec<u64> = courses.iter().map(|course| course.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds.len()
}

/// By objective: (step, [least, mean, greatest] over the seeds).
type Means = Vec<(Competitor, Vec<(f64, [f64; 3])>)>;

fn means(courses: &[Course], value: fn(&Point) -> f64) -> Means {
    let of = |competitor: Competitor| {
        let own: Vec<&Course> = courses.iter().filter(|course| course.competitor == competitor).collect();
        let first = own.first()?;
        let at = |point: &Point| {
            let same = own.iter().flat_map(|course| &course.points).filter(|other| other.step == point.step);
            (point.step as f64, spread(same.map(value)))
        };
        Some((competitor, first.points.iter().map(at).collect()))
    };
    COMPETITORS.into_iter().filter_map(of).collect()
}

fn panel(svg: &mut Svg, left: f64, title: &str, means: &Means) {
    let values = || means.iter().flat_map(|(_, points)| points);
    let [low, _, _] = spread(values().map(|(_, [low, _, _])| *low));
    let [_, _, high] = spread(values().map(|(_, [_, _, high])| *high));
    let last = values().map(|(step, _)| *step).fold(1.0, f64::max);
    let plot = Plot {
        left: left + 68.0,
        top: 104.0,
        width: 312.0,
        height: 270.0,
        x: Axis::of_steps(last),
        y: Axis::new(low, high),
    };
    svg.text("panel", [plot.left, 86.0], "start", title);
    plot.grid(svg);
    for (value, label) in plot.x.ticks() {
        let label = if value == 0.0 { "step 0".to_owned() } else { label };
        svg.text("tick", [plot.x(value), plot.top + plot.height + 20.0], "middle", &label);
    }
    for (competitor, points) in means {
        let class = competitor.class;
        let below = points.iter().map(|(step, [low, ..])| (*step, *low));
        let above = points.iter().rev().map(|(step, [.., high])| (*step, *high));
        svg.push(format_args!("<path class=\"band f{class}\" d=\"{}Z\"/>\n", plot.path(below.chain(above))));
    }
    for (competitor, points) in means {
        let line = plot.path(points.iter().map(|(step, [_, mean, _])| (*step, *mean)));
        svg.push(format_args!("<path class=\"line {}\" d=\"{line}\"/>\n", competitor.class));
    }
    labels(svg, &plot, means);
}

/// Names at the right ends of the lines, moved apart where they would overlap.
fn labels(svg: &mut Svg, plot: &Plot, means: &Means) {
    const LINE: f64 = 17.0;
    let mut ends: Vec<(f64, Competitor, f64)> = means
        .iter()
        .filter_map(|(competitor, points)| Some((*competitor, points.last()?.1[1])))
        .map(|(competitor, mean)| (plot.y(mean), competitor, mean))
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = plot.top;
    let bottom = plot.top + plot.height;
    let count = ends.len();
    for (number, (y, competitor, mean)) in ends.into_iter().enumerate() {
        let room_below = LINE * (count - number - 1) as f64;
        let y = y.min(bottom - room_below).max(lowest);
        lowest = y + LINE;
        let x = plot.left + plot.width + 8.0;
        svg.push(format_args!("<path class=\"line {}\" d=\"M{x} {y:.1}h12\"/>\n", competitor.class));
        svg.text("", [x + 16.0, y + 4.0], "start", &format!("{} {}", competitor.title, significant(mean)));
    }
}

/// The last point of each seed of an objective, by seed.
fn ends(courses: &[Course], name: &str) -> Vec<(u64, Point)> {
    let own = courses.iter().filter(|course| course.competitor.name == name);
    own.filter_map(|course| Some((course.seed, *course.points.last()?))).collect()
}

fn sentence(courses: &[Course]) -> String {
    let mut parts = Vec::new();
    for competitor in COMPETITORS {
        let ends = ends(courses, competitor.name);
        if !ends.is_empty() {
            let [low, mean, high] = spread(ends.iter().map(|(_, point)| point.margin())).map(significant);
            parts.push(format!("{} {mean} ({low} to {high})", competitor.title));
        }
    }
    let steps = courses.iter().flat_map(|course| &course.points).map(|point| point.step).max().unwrap_or(0);
    let [_, start, _] = spread(courses.iter().filter_map(|course| course.points.first()).map(Point::margin));
    let mut text = format!(
        "From {} before the first step, the held-out likelihood margin comes after {steps} steps to (mean and range of the seeds): {}.",
        significant(start),
        parts.join(", ")
    );
    let (asft, orpo) = (ends(courses, "asft"), ends(courses, "orpo"));
    let pairs = asft.iter().filter_map(|(seed, point)| {
        let (_, other) = orpo.iter().find(|(other, _)| other == seed)?;
        Some((point, other))
    });
    let (mut seeds, mut above, mut lifted) = (0, 0, 0);
    for (asft, orpo) in pairs {
        seeds += 1;
        above += usize::from(asft.margin() > orpo.margin());
        lifted += usize::from(asft.chosen > orpo.chosen);
    }
    if seeds > 0 {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " ASFT's margin ends above ORPO's for {above} of {seeds} seeds, and its chosen answers end likelier for {lifted} of them."
        );
    }
    text
}

fn table(courses: &[Course]) -> String {
    let mut text = String::from("objective,seed,step,chosen,rejected,margin\n");
    for course in courses {
        for point in &course.points {
            let (name, seed) = (course.competitor.name, course.seed);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name},{seed},{},{:.6},{:.6},{:.6}",
                point.step,
                point.chosen,
                point.rejected,
                point.margin()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(name: &str, seed: u64, margins: &[f64]) -> Course {
        let competitor = COMPETITORS.into_iter().find(|competitor| competitor.name == name).unwrap();
        let point = |(index, margin): (usize, &f64)| Point {
            step: 10 * index,
            chosen: -2.0,
            rejected: -2.0 - margin,
        };
        Course { competitor, seed, points: margins.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn the_sentence_is_that_of_the_data() {
        let courses = [
            course("asft", 1, &[0.25, 0.5]),
            course("asft", 2, &[0.25, 1.0]),
            course("orpo", 1, &[0.25, 0.75]),
            course("orpo", 2, &[0.25, 0.875]),
        ];
        let figure = figure(&courses, Vec::new());
        assert!(figure.sentence.starts_with("From 0.250 before the first step"), "{}", figure.sentence);
        assert!(figure.sentence.contains("after 10 steps"), "{}", figure.sentence);
        assert!(
            figure.sentence.contains("ASFT 0.750 (0.500 to 1.00), ORPO 0.812 (0.750 to 0.875)"),
            "{}",
            figure.sentence
        );
        assert!(figure.sentence.contains("above ORPO's for 1 of 2 seeds"), "{}", figure.sentence);
        assert_eq!(figure.csv.unwrap().lines().nth(2), Some("asft,1,10,-2.000000,-2.500000,0.500000"));
        let svg = figure.svg.unwrap();
        assert_eq!(svg.matches("class=\"band").count(), 4, "two objectives in two panels");
        assert!(svg.contains("of 2 seeds") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
