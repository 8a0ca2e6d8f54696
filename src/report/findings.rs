//! What a person should look at first: did it run through, did it work, and does anything look wrong.
//!
//! Each rule is a function of the record, with its threshold beside it. They point at figures; what to do about them is said
//! where there is one usual cause.

use serde::Serialize;

use super::record::{Line, RunRecord, Status};
use crate::chart::{significant, smooth};
use crate::train::log::is_skipped;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Good,
    /// To know.
    Note,
    /// To look at.
    Warning,
}

/// A sentence about a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// The sentence.
    pub text: String,
}

fn finding(weight: Weight, text: impl Into<String>) -> Option<Finding> {
    Some(Finding { weight, text: text.into() })
}

/// All that is to be said of a run, the state it is in first.
pub fn findings(run: &RunRecord) -> Vec<Finding> {
    let rules = [ending, accuracy, overfitting, displacement, skipped, not_finite, spike, slowing, answers];
    rules.iter().filter_map(|rule| rule(run)).collect()
}

/// A time in words, in its two largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn ending(run: &RunRecord) -> Option<Finding> {
    let (last, planned) = (run.last_step(), run.planned_steps());
    let of = planned.map(|planned| format!(" of {planned}")).unwrap_or_default();
    match run.status {
        Status::Finished if planned.is_some_and(|planned| last < planned) => finding(
            Weight::Note,
            format!("It stopped early, after {last}{of} steps: evaluation did not improve any more."),
        ),
        Status::Finished => finding(Weight::Good, format!("It finished: {last} steps.")),
        Status::Unfinished(since) => {
            let since = since.map_or_else(String::new, |since| {
                format!(" The record last grew {} ago.", duration(since.as_secs_f64()))
            });
            finding(
                Weight::Warning,
                format!("It has not finished: {last}{of} steps are done, and no result is saved yet.{since}"),
            )
        }
    }
}

/// The first evaluation's value, the last one's, and the interval of the last.
type FirstAndLast = (f64, f64, Option<(f64, f64)>);

fn first_and_last(run: &RunRecord, key: &str) -> Option<FirstAndLast> {
    let points = run.points(key);
    let (first, last) = (points.first()?, points.last()?);
    let interval = run.intervals(key).into_iter().rfind(|interval| interval.0 == last.0);
    (points.len() > 1).then_some((first.1, last.1, interval.map(|(_, low, high)| (low, high))))
}

fn accuracy(run: &RunRecord) -> Option<Finding> {
    let (first, last, interval) = first_and_last(run, "eval_rewards/accuracies")?;
    let shown = interval.map_or_else(String::new, |(low, high)| {
        format!(" (95%: {} to {})", significant(low), significant(high))
    });
    let text = format!(
        "Reward accuracy on held-out pairs went from {} to {}{shown}",
        significant(first),
        significant(last)
    );
    // Without an interval, a difference of a fiftieth is taken for one.
    let (low, high) = interval.unwrap_or((last - 0.02, last + 0.02));
    if low > first {
        finding(Weight::Good, format!("{text}."))
    } else if high < first {
        finding(Weight::Warning, format!("{text}: it got worse."))
    } else {
        finding(Weight::Warning, format!("{text}: that is no clear difference."))
    }
}

/// The last evaluation is worse than the best by more than this share of what was gained.
const LOST_SHARE: f64 = 0.1;

fn overfitting(run: &RunRecord) -> Option<Finding> {
    let points = run.points("eval_loss");
    let (first, last) = (points.first()?, points.last()?);
    let best = points.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let gained = first.1 - best.1;
    if last.1 - best.1 <= LOST_SHARE * gained.max(f64::MIN_POSITIVE) || best.0 == last.0 {
        return None;
    }
    finding(
        Weight::Warning,
        format!(
            "Evaluation loss was least after step {:.0} ({}) and ended at {}: the run went on for too long, or the learning \
             rate is too high. --load-best-model-at-end keeps the best model.",
            best.0,
            significant(best.1),
            significant(last.1)
        ),
    )
}

fn displacement(run: &RunRecord) -> Option<Finding> {
    let (first, last, interval) = first_and_last(run, "eval_logps/chosen")?;
    let high = interval.map_or(last, |(_, high)| high);
    if high >= first {
        return None;
    }
    finding(
        Weight::Warning,
        format!(
            "The chosen answers became less likely on held-out pairs: their log-prob fell from {} to {}. The margin grows \
             because the rejected ones fell further; a larger weight of the likelihood term works against it.",
            significant(first),
            significant(last)
        ),
    )
}

fn skipped(run: &RunRecord) -> Option<Finding> {
    let steps: Vec<u64> = run
        .lines
        .iter()
        .filter(|line| is_skipped(line))
        .filter_map(|line| line.get("step")?.as_u64())
        .collect();
    let (first, count) = (steps.first()?, steps.len());
    let steps = if count == 1 { "step was" } else { "steps were" };
    finding(
        Weight::Warning,
        format!(
            "{count} {steps} skipped because loss or gradient was not finite, the first of them step {first}."
        ),
    )
}

fn not_finite(run: &RunRecord) -> Option<Finding> {
    let is_null = |line: &&Line| {
        !is_skipped(line)
            && ["loss", "eval_loss"].iter().any(|key| line.get(*key).is_some_and(|v| v.is_null()))
    };
    let step = run.lines.iter().find(is_null)?.get("step")?.as_u64()?;
    finding(Weight::Warning, format!("A loss was not finite, first at step {step}."))
}

/// A gradient norm is a spike if it is this many times the median.
const SPIKE: f64 = 20.0;

fn spike(run: &RunRecord) -> Option<Finding> {
    let points = run.points("grad_norm");
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    let median = *values.get(values.len() / 2)?;
    let spikes = points.iter().filter(|point| point.1 > SPIKE * median).count();
    let largest =
        points.iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|point| point.1 > SPIKE * median)?;
    let steps = if spikes == 1 { "At 1 step".to_owned() } else { format!("At {spikes} steps") };
    finding(
        Weight::Note,
        format!(
            "{steps} the gradient norm was over {SPIKE} times its median of {}; the largest is {} at step {:.0}.",
            significant(median),
            significant(largest.1),
            largest.0
        ),
    )
}

/// The end is slower than this share of the beginning.
const SLOWER: f64 = 0.7;

fn slowing(run: &RunRecord) -> Option<Finding> {
    let points = smooth(&run.points("tokens_per_second"));
    // The first steps warm up; fewer than these say nothing.
    if points.len() < 40 {
        return None;
    }
    let median = |part: &[(f64, f64)]| {
        let mut values: Vec<f64> = part.iter().map(|point| point.1).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let quarter = points.len() / 4;
    let (first, last) = (median(&points[quarter..2 * quarter]), median(&points[3 * quarter..]));
    if last >= SLOWER * first {
        return None;
    }
    finding(
        Weight::Note,
        format!(
            "It became slower: {} tokens/s in the second quarter, {} in the last. Something else used the machine, or it \
             throttled.",
            significant(first),
            significant(last)
        ),
    )
}

fn answers(run: &RunRecord) -> Option<Finding> {
    let count = |step: usize| {
        let of_step = run.samples.iter().filter(move |sample| sample.step == step);
        (of_step.clone().filter(|sample| sample.exact).count(), of_step.count())
    };
    let steps: Vec<usize> = run.samples.iter().map(|sample| sample.step).collect();
    let (first, last) = (*steps.first()?, *steps.last()?);
    let ((before, _), (after, all)) = (count(first), count(last));
    if first == last || before + after == 0 {
        return None;
    }
    finding(
        if after > before { Weight::Good } else { Weight::Note },
        format!(
            "Of {all} sampled answers {after} are exactly the chosen one; {before} were at the first evaluation."
        ),
    )
}
