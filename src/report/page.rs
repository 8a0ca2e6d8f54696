//! The page: one HTML file that needs nothing else, made from the template beside this file.
//!
//! The template escapes whatever is put into it; only the drawings go in as they are, and they are escaped where they are made.

use std::fmt::Write;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::ReportError;
use super::curves::{Drawn, charts};
use super::findings::{Finding, duration, findings};
use super::record::{Line, RunRecord, Status};
use crate::chart::{COLOURS, Curve, Kind, STYLE, significant, thinned};
use crate::train::Sample;
use crate::train::facts::{DataFacts, RunFacts};

/// Prompts whose answers are shown.
const SHOWN_PROMPTS: usize = 20;
/// Steps of the table under a chart.
const SHOWN_STEPS: usize = 8;
/// Metrics of an evaluation that stand at the top of their table, in words.
const WORDS: [(&str, &str); 8] = [
    ("eval_loss", "Loss"),
    ("eval_rewards/accuracies", "Reward accuracy"),
    ("eval_rewards/margins", "Reward margin"),
    ("eval_rewards/chosen", "Reward of the chosen answer"),
    ("eval_rewards/rejected", "Reward of the rejected answer"),
    ("eval_logps/chosen", "Log-prob of the chosen answer"),
    ("eval_logps/rejected", "Log-prob of the rejected answer"),
    ("eval_nll_loss", "Negative log-likelihood"),
];

/// What the template is given.
#[derive(Serialize)]
struct Page {
    title: String,
    version: &'static str,
    chart_style: &'static str,
    style: &'static str,
    script: &'static str,
    runs: Vec<RunView>,
    charts: Vec<ChartView>,
    metrics: Vec<Metric>,
    prompts: Vec<Prompt>,
    differences: Vec<Difference>,
}

/// A run at the top of the page.
#[derive(Serialize)]
struct RunView {
    name: String,
    class: &'static str,
    objective: String,
    status: &'static str,
    steps: String,
    loss: String,
    accuracy: String,
    speed: String,
    memory: String,
    time: String,
    device: String,
    findings: Vec<Finding>,
    missing: Vec<String>,
    settings: Vec<(String, String)>,
    planned: Vec<(String, String)>,
    data: Vec<DataView>,
}

#[derive(Serialize)]
struct DataView {
    title: &'static str,
    figures: Vec<(&'static str, String)>,
    lengths: Vec<[String; 5]>,
}

#[derive(Serialize)]
struct ChartView {
    title: &'static str,
    note: &'static str,
    label: String,
    svg: String,
    legend: Vec<Legend>,
    /// Columns and rows of the table of values.
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    /// What the script needs to tell values under the pointer.
    hover: Hover,
}

#[derive(Serialize)]
struct Legend {
    name: String,
    class: &'static str,
    dots: bool,
    last: String,
}

#[derive(Serialize)]
struct Hover {
    /// Left and right edge of the plot, and the step at the right one.
    left: f64,
    right: f64,
    last_step: f64,
    /// What values are told in.
    series: Vec<HoverSeries>,
}

#[derive(Serialize)]
struct HoverSeries {
    name: String,
    class: &'static str,
    steps: Vec<f64>,
    values: Vec<String>,
}

/// A metric over all runs.
#[derive(Serialize)]
struct Metric {
    name: String,
    /// Before, after, interval, for each run.
    runs: Vec<[String; 3]>,
}

/// A prompt and what was answered.
#[derive(Serialize)]
struct Prompt {
    prompt: String,
    expected: String,
    answers: Vec<Answer>,
}

#[derive(Serialize)]
struct Answer {
    label: String,
    text: String,
    exact: bool,
}

/// A setting that differs between runs.
#[derive(Serialize)]
struct Difference {
    key: String,
    values: Vec<String>,
}

/// The page about one run, or about several beside each other.
///
/// # Errors
/// None that a record could cause.
pub fn to_html(runs: &[RunRecord]) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html"))?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let charts: Vec<ChartView> = charts(runs).iter().enumerate().map(|(i, drawn)| chart(i, drawn)).collect();
    let views: Vec<RunView> = runs.iter().enumerate().map(|(number, run)| view(number, run)).collect();
    let page = Page {
        title: names.join(", "),
        version: env!("CARGO_PKG_VERSION"),
        chart_style: STYLE,
        style: include_str!("report.css"),
        script: include_str!("report.js"),
        runs: views,
        charts,
        metrics: metrics(runs),
        prompts: prompts(runs),
        differences: differences(runs),
    };
    Ok(environment.get_template("report.html")?.render(Serde(&page))?)
}

fn view(number: usize, run: &RunRecord) -> RunView {
    let last = |key: &str| run.points(key).last().map(|point| point.1);
    let shown = |value: Option<f64>| value.map_or_else(|| "\u{2013}".to_owned(), significant);
    let steps = run.last_step();
    let facts = run.facts.as_ref();
    let seconds: f64 = run.points("step_seconds").iter().map(|point| point.1).sum();
    RunView {
        name: run.name.clone(),
        class: COLOURS[number % COLOURS.len()],
        objective: run.objective().to_owned(),
        status: match run.status {
            Status::Finished => "finished",
            Status::Unfinished(_) => "not finished",
        },
        steps: run
            .planned_steps()
            .map_or_else(|| steps.to_string(), |planned| format!("{steps} of {planned}")),
        loss: shown(last("eval_loss").or_else(|| last("loss"))),
        accuracy: with_interval(run, "eval_rewards/accuracies"),
        speed: shown(median(run, "tokens_per_second")),
        memory: memory(last("peak_memory_bytes"), facts),
        time: duration(seconds),
        device: facts.map(|facts| facts.device.clone()).unwrap_or_default(),
        findings: findings(run),
        missing: run.missing.clone(),
        settings: run.settings.clone(),
        planned: facts.map(planned).unwrap_or_default(),
        data: facts.map(data).unwrap_or_default(),
    }
}

/// The last value of an evaluation's metric, with its interval.
fn with_interval(run: &RunRecord, key: &str) -> String {
    let Some((step, value)) = run.points(key).last().copied() else { return "\u{2013}".to_owned() };
    match run.intervals(key).last().filter(|interval| interval.0 == step) {
        Some((_, low, high)) => {
            format!("{} [{}, {}]", significant(value), significant(*low), significant(*high))
        }
        None => significant(value),
    }
}

fn median(run: &RunRecord, key: &str) -> Option<f64> {
    let mut values: Vec<f64> = run.points(key).iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

fn memory(held: Option<f64>, facts: Option<&RunFacts>) -> String {
    let held = held.map_or_else(|| "\u{2013}".to_owned(), |held| bytes(held as u64));
    facts.map_or_else(|| held.clone(), |facts| format!("{held} / {}", bytes(facts.planned_bytes())))
}

fn planned(facts: &RunFacts) -> Vec<(String, String)> {
    let parts = facts.planned.iter().map(|part| (part.what.clone(), bytes(part.bytes)));
    parts.chain([("all".to_owned(), bytes(facts.planned_bytes()))]).collect()
}

fn data(facts: &RunFacts) -> Vec<DataView> {
    let of = |title, data: &DataFacts| DataView {
        title,
        figures: vec![
            ("rows read", data.rows.to_string()),
            ("rows used", data.used.to_string()),
            ("rows that cannot be used", data.dropped.to_string()),
            ("answers cut by the maximum length", data.truncated_answers.to_string()),
            ("rows with two equal answers", data.identical_answers.to_string()),
            ("tokens learnt from, per epoch", data.scored_tokens.to_string()),
            ("tokens computed, per epoch", data.packed_tokens.to_string()),
            ("the same without shared prompts", data.separate_tokens.to_string()),
        ],
        lengths: data
            .lengths
            .iter()
            .map(|part| {
                let [min, median, p90, max] =
                    [part.min, part.median, part.p90, part.max].map(|n| n.to_string());
                [part.part.clone(), min, median, p90, max]
            })
            .collect(),
    };
    let eval = facts.eval_data.as_ref().map(|eval| of("Held-out data", eval));
    std::iter::once(of("Training data", &facts.data)).chain(eval).collect()
}

fn chart(number: usize, drawn: &Drawn) -> ChartView {
    let chart = &drawn.chart;
    let (width, height) = chart.size;
    let last =
        |curve: &Curve| curve.smoothed().last().map(|(_, value)| significant(*value)).unwrap_or_default();
    let spoken: Vec<String> =
        chart.curves.iter().map(|curve| format!("{} {}", curve.legend, last(curve))).collect();
    let label = format!("{} by step; at the end: {}", drawn.title, spoken.join(", "));
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"chart{number}\">\
         <title id=\"chart{number}\">{}</title>",
        crate::chart::escape(&label)
    );
    chart.draw(&mut svg, number);
    svg.push_str("</svg>");
    let plot = chart.plot();
    let legend = chart.curves.iter().map(|curve| Legend {
        name: curve.legend.clone(),
        class: curve.class,
        dots: curve.kind == Kind::Evaluations,
        last: last(curve),
    });
    let (columns, rows) = table(&chart.curves);
    ChartView {
        title: drawn.title,
        note: drawn.note,
        label,
        svg,
        legend: legend.collect(),
        columns,
        rows,
        hover: Hover {
            left: plot.edges[0] / width,
            right: plot.edges[1] / width,
            last_step: plot.x.high,
            series: chart.curves.iter().map(hover).collect(),
        },
    }
}

fn hover(curve: &Curve) -> HoverSeries {
    let points = thinned(&curve.smoothed());
    let value = |(step, value): &(f64, f64)| {
        let interval = curve.intervals.iter().find(|interval| interval.0 == *step);
        let interval =
            interval.map(|(_, low, high)| format!(" [{}, {}]", significant(*low), significant(*high)));
        format!("{}{}", significant(*value), interval.unwrap_or_default())
    };
    HoverSeries {
        name: curve.legend.clone(),
        class: curve.class,
        steps: points.iter().map(|point| point.0).collect(),
        values: points.iter().map(value).collect(),
    }
}

/// Some values of every curve, evenly spread and the last among them, as the lines show them.
fn table(curves: &[Curve]) -> (Vec<String>, Vec<Vec<String>>) {
    let columns = std::iter::once("step".to_owned()).chain(curves.iter().map(|curve| curve.legend.clone()));
    let smoothed: Vec<Vec<(f64, f64)>> = curves.iter().map(Curve::smoothed).collect();
    // Where there are evaluations, their steps are those to look at.
    let fewest = smoothed.iter().filter(|points| points.len() > 1).min_by_key(|points| points.len());
    let Some(steps) = fewest.or(smoothed.first()) else { return (columns.collect(), Vec::new()) };
    let last = steps.len().saturating_sub(1);
    let shown = last.clamp(1, SHOWN_STEPS - 1);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for place in 0..=shown {
        let Some((step, _)) = steps.get(place * last / shown) else { continue };
        let value = |points: &Vec<(f64, f64)>| {
            let near = points.iter().rfind(|point| point.0 <= *step);
            near.map_or_else(|| "\u{2013}".to_owned(), |point| significant(point.1))
        };
        let row: Vec<String> =
            std::iter::once(format!("{step:.0}")).chain(smoothed.iter().map(value)).collect();
        if rows.last() != Some(&row) {
            rows.push(row);
        }
    }
    (columns.collect(), rows)
}

/// Every metric of the evaluations: what has words first, the others as they are called.
fn metrics(runs: &[RunRecord]) -> Vec<Metric> {
    let mut keys: Vec<&str> = WORDS.iter().map(|(key, _)| *key).collect();
    for key in runs.iter().flat_map(RunRecord::evaluations).flat_map(Line::keys) {
        if key.starts_with("eval_") && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let figures = |run: &RunRecord, key: &str| {
        let points = run.points(key);
        let shown = |point: Option<&(f64, f64)>| {
            point.map_or_else(|| "\u{2013}".to_owned(), |point| significant(point.1))
        };
        let interval = run
            .intervals(key)
            .last()
            .map(|(_, low, high)| format!("{} to {}", significant(*low), significant(*high)));
        let before = points.first().filter(|_| points.len() > 1);
        [shown(before), shown(points.last()), interval.unwrap_or_default()]
    };
    let measured = keys.into_iter().filter(|key| runs.iter().any(|run| !run.points(key).is_empty()));
    let metric = |key: &str| Metric {
        name: WORDS
            .iter()
            .find(|(name, _)| *name == key)
            .map_or(&key["eval_".len()..], |(_, words)| words)
            .to_owned(),
        runs: runs.iter().map(|run| figures(run, key)).collect(),
    };
    measured.map(metric).collect()
}

/// The answers before and after training, prompt by prompt; prompts are those of the first run that has any.
fn prompts(runs: &[RunRecord]) -> Vec<Prompt> {
    let Some(first) = runs.iter().find(|run| !run.samples.is_empty()) else { return Vec::new() };
    let first_step = first.samples[0].step;
    let prompts = first.samples.iter().filter(|sample| sample.step == first_step).take(SHOWN_PROMPTS);
    let prompts = prompts.map(|asked| Prompt {
        prompt: asked.prompt.clone(),
        expected: asked.expected.clone(),
        answers: runs.iter().flat_map(|run| answers(run, asked, runs.len() > 1)).collect(),
    });
    prompts.collect()
}

/// What a run answered to a prompt at its first evaluation and at its last.
fn answers(run: &RunRecord, asked: &Sample, is_named: bool) -> Vec<Answer> {
    let mut all = run.samples.iter().filter(|s| s.prompt == asked.prompt && s.expected == asked.expected);
    let ends = [all.next(), all.next_back()];
    let answer = |sample: &Sample| {
        let when = if sample.step == 0 { "before".to_owned() } else { format!("after step {}", sample.step) };
        let label = if is_named { format!("{}, {when}", run.name) } else { when };
        Answer { label, text: sample.answer.clone(), exact: sample.exact }
    };
    ends.into_iter().flatten().map(answer).collect()
}

/// Settings that are not the same in all runs; where a run writes to is always another.
fn differences(runs: &[RunRecord]) -> Vec<Difference> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.settings) {
        if !keys.contains(&key.as_str()) && key != "output" {
            keys.push(key);
        }
    }
    let value = |run: &RunRecord, key: &str| run.setting(key).unwrap_or("\u{2013}").to_owned();
    let differing = keys.into_iter().map(|key| Difference {
        key: key.to_owned(),
        values: runs.iter().map(|run| value(run, key)).collect(),
    });
    differing.filter(|row| row.values.windows(2).any(|pair| pair[0] != pair[1])).collect()
}
