//! Figure 2b: total run time and peak memory of ASFT and DPO on the same work, beside what the arithmetic of the two says.
//!
//! The derived model: a training step of ASFT goes forward and backward over its pairs, three units where one is a forward pass (a backward
//! pass costs two). DPO with a resident reference model adds a forward pass per step, four units, and the weights of that model in memory.
//! With cached log-probs it adds one pass over the data set before the first step and no memory.

use std::fmt::Write;
use std::path::Path;

use super::chart::{Plot, Svg, significant};
use super::{Figure, PaperError, Result, spread};
use crate::chart::Axis;
use crate::train::log::lines;

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// In names of runs.
    pub name: &'static str,
    /// As people write it.
    pub title: &'static str,
}

/// Those of the figure.
pub const VARIANTS: [Variant; 3] = [
    Variant { name: "asft", title: "ASFT" },
    Variant { name: "dpo-cached", title: "DPO, cached" },
    Variant { name: "dpo-resident", title: "DPO, resident" },
];

impl Variant {
    /// The flags of its objective.
    pub fn words(&self, lambda: f64, beta: f64) -> Vec<String> {
        let words = match self.name {
            "dpo-cached" => format!("--objective dpo --beta {beta} --reference-mode cached"),
            "dpo-resident" => format!("--objective dpo --beta {beta} --reference-mode resident"),
            _ => format!("--objective asft --lambda {lambda}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How it trained.
    pub variant: Variant,
    /// Which of the repetitions.
    pub number: usize,
    /// From the start of its process to the end: loading, the reference pass, steps and the result.
    pub total_seconds: f64,
    /// Steps alone.
    pub step_seconds: f64,
    /// The most memory that its process (on a GPU its device) held.
    pub peak_bytes: f64,
}

impl Measured {
    /// A run's figures from its `metrics.jsonl`.
    ///
    /// # Errors
    /// A record that cannot be read, or has no steps in it.
    pub fn read(variant: Variant, number: usize, total_seconds: f64, path: &Path) -> Result<Self> {
        let (mut step_seconds, mut peak_bytes) = (0.0, 0.0f64);
        for line in lines(path)? {
            let line = line?;
            let number = |key: &str| line.get(key).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            step_seconds += number("step_seconds");
            peak_bytes = peak_bytes.max(number("peak_memory_bytes"));
        }
        if step_seconds == 0.0 || peak_bytes == 0.0 {
            return Err(PaperError::NotMeasured {
                path: path.to_owned(),
                what: "step_seconds and peak_memory_bytes",
            });
        }
        Ok(Self { variant, number, total_seconds, step_seconds, peak_bytes })
    }
}

/// What the derived model needs to know of the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs of one step.
    pub batch: usize,
    /// Pairs of the data set.
    pub rows: usize,
    /// Bytes of the weights.
    pub weight_bytes: f64,
}

impl Work {
    /// Units of a variant: forward passes over the pairs of a step.
    pub fn units(&self, variant: Variant) -> f64 {
        let steps = self.steps as f64;
        match variant.name {
            "dpo-cached" => 3.0 * steps + self.rows as f64 / self.batch as f64,
            "dpo-resident" => 4.0 * steps,
            _ => 3.0 * steps,
        }
    }

    /// Its time as a multiple of ASFT's.
    pub fn relative_time(&self, variant: Variant) -> f64 {
        self.units(variant) / self.units(VARIANTS[0])
    }

    /// Its memory beyond ASFT's, in bytes.
    pub fn more_bytes(&self, variant: Variant) -> f64 {
        if variant.name == "dpo-resident" { self.weight_bytes } else { 0.0 }
    }
}

/// One variant's figures over all repetitions, and the derived one: seconds, or MiB.
struct Bar {
    variant: Variant,
    low: f64,
    median: f64,
    high: f64,
    derived: f64,
}

const MIB: f64 = 1024.0 * 1024.0;

/// Draws what was measured; there must be a run of every variant.
pub fn figure(measured: &[Measured], work: Work, notes: Vec<String>) -> Figure {
    let times = bars(measured, |run| run.total_seconds, |first, variant| first * work.relative_time(variant));
    let memory =
        bars(measured, |run| run.peak_bytes / MIB, |first, variant| first + work.more_bytes(variant) / MIB);
    let runs = measured.iter().filter(|run| run.variant == VARIANTS[0]).count();
    let mut svg = Svg::new(
        "Cost of ASFT and DPO on the same work",
        &format!(
            "median of {runs} runs each, a process of its own every time; whiskers from the least to the greatest"
        ),
        [1000.0, 420.0],
        ".bar{fill-opacity:.75}",
    );
    panel(&mut svg, 0.0, "Total run time, seconds", &times);
    panel(&mut svg, 500.0, "Peak memory, MiB", &memory);
    svg.push(format_args!("<path class=\"derived\" d=\"M20 402h30\"/>\n"));
    svg.text(
        "",
        [58.0, 406.0],
        "start",
        "derived from ASFT's median: units of work, and the weights of a resident reference",
    );
    Figure {
        name: "cost",
        title: "Run time and peak memory (figure 2b)",
        sentence: sentence(&times, &memory, work),
        notes,
        svg: Some(svg.finish()),
        csv: Some(table(measured, work)),
        ..Figure::default()
    }
}

fn bars(
    measured: &[Measured],
    value: fn(&Measured) -> f64,
    derived: impl Fn(f64, Variant) -> f64,
) -> Vec<Bar> {
    let sorted = |variant: Variant| {
        let mut values: Vec<f64> = measured.iter().filter(|run| run.variant == variant).map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let median = |values: &[f64]| (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    let first = median(&sorted(VARIANTS[0]));
    let bar = |variant: Variant| {
        let values = sorted(variant);
        let [low, _, high] = spread(values.iter().copied());
        Bar { variant, low, median: median(&values), high, derived: derived(first, variant) }
    };
    VARIANTS.into_iter().map(bar).collect()
}

fn panel(svg: &mut Svg, left: f64, title: &str, bars: &[Bar]) {
    let [_, _, highest] = spread(bars.iter().map(|bar| bar.high.max(bar.derived)));
    let plot = Plot {
        left: left + 68.0,
        top: 104.0,
        width: 400.0,
        height: 240.0,
        x: Axis::new(0.0, 1.0),
        y: Axis::new(0.0, 1.05 * highest),
    };
    svg.text("panel", [plot.left, 86.0], "start", title);
    plot.grid(svg);
    let pitch = plot.width / bars.len() as f64;
    for (number, (bar, class)) in bars.iter().zip(["a", "c", "b"]).enumerate() {
        let middle = plot.left + pitch * (number as f64 + 0.5);
        let (top, bottom) = (plot.y(bar.median), plot.y(0.0));
        svg.push(format_args!(
            "<rect class=\"bar f{class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"64\" height=\"{:.1}\"/>\n",
            middle - 32.0,
            bottom - top
        ));
        let (low, high, derived) = (plot.y(bar.low), plot.y(bar.high), plot.y(bar.derived));
        svg.push(format_args!(
            "<path class=\"mark\" d=\"M{middle:.1} {low:.1}V{high:.1}M{x:.1} {low:.1}h12M{x:.1} {high:.1}h12\"/>\n",
            x = middle - 6.0
        ));
        svg.push(format_args!("<path class=\"derived\" d=\"M{:.1} {derived:.1}h92\"/>\n", middle - 46.0));
        svg.text("tick", [middle + 37.0, top + 14.0], "start", &significant(bar.median));
        svg.text("", [middle, bottom + 20.0], "middle", bar.variant.title);
    }
}

fn sentence(times: &[Bar], memory: &[Bar], work: Work) -> String {
    let mut text = String::from("Beside ASFT on the same pairs, ");
    for (number, (time, memory_bar)) in times.iter().zip(memory).enumerate().skip(1) {
        let (percent, derived) =
            (100.0 * (time.median / times[0].median - 1.0), 100.0 * (work.relative_time(time.variant) - 1.0));
        let (more, derived_more) =
            (memory_bar.median - memory[0].median, memory_bar.derived - memory[0].median);
        let separator = if number > 1 { "; " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{separator}{} takes {percent:+.0}% of time (derived {derived:+.0}%) and {more:+.1} MiB of memory (derived {derived_more:+.1})",
            time.variant.title
        );
    }
    text.push('.');
    text
}

fn table(measured: &[Measured], work: Work) -> String {
    let mut text = String::from(
        "variant,run,total_seconds,step_seconds,peak_bytes,derived_relative_time,derived_more_bytes\n",
    );
    for run in measured {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{},{},{:.3},{:.3},{},{:.4},{}",
            run.variant.name,
            run.number,
            run.total_seconds,
            run.step_seconds,
            run.peak_bytes,
            work.relative_time(run.variant),
            work.more_bytes(run.variant)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derived_model_is_that_of_its_units() {
        // Two epochs: cached log-probs cost half a pass more per step, a resident model a whole one.
        let work = Work { steps: 10, batch: 4, rows: 20, weight_bytes: 8.0 * MIB };
        let relative = VARIANTS.map(|variant| work.relative_time(variant));
        assert_eq!(relative, [1.0, 35.0 / 30.0, 4.0 / 3.0]);
        assert_eq!(VARIANTS.map(|variant| work.more_bytes(variant)), [0.0, 0.0, 8.0 * MIB]);
    }

    #[test]
    fn the_sentence_is_that_of_the_data() {
        let work = Work { steps: 10, batch: 4, rows: 20, weight_bytes: 8.0 * MIB };
        let run = |variant: usize, number: usize, total_seconds: f64, mebibytes: f64| Measured {
            variant: VARIANTS[variant],
            number,
            total_seconds,
            step_seconds: 1.0,
            peak_bytes: mebibytes * MIB,
        };
        let measured = [
            run(0, 1, 10.0, 100.0),
            run(0, 2, 12.0, 100.0),
            run(0, 3, 11.0, 100.0),
            run(1, 1, 12.1, 101.0),
            run(2, 1, 16.5, 109.5),
        ];
        let figure = figure(&measured, work, Vec::new());
        let expected = "Beside ASFT on the same pairs, DPO, cached takes +10% of time (derived +17%) and +1.0 MiB of memory \
                        (derived +0.0); DPO, resident takes +50% of time (derived +33%) and +9.5 MiB of memory (derived +8.0).";
        assert_eq!(figure.sentence, expected);
        assert_eq!(
            figure.csv.unwrap().lines().nth(5),
            Some("dpo-resident,1,16.500,1.000,114819072,1.3333,8388608")
        );
    }
}
