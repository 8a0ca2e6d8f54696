//! `asft eval judge`: a language model behind an endpoint rates MT-Bench's answers.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use asft::config::{JudgeArguments, JudgeConfig};
use asft::eval::judge::endpoint::Key;
use asft::eval::judge::summary::{Cell, Table, table};
use asft::eval::judge::{
    AnswerFile, Contest, Endpoint, EndpointError, EndpointSettings, Finished, Judgment, Judgments, Match,
    Mode, Prompts, Watcher,
};
use asft::eval::{Progress, mt_bench};
use serde_json::{Map, Value, json};

use super::exit::OrUsage;
use super::progress::Bars;
use super::{ExitStatus, Layers, output};

/// Failures that are named at the end.
const SHOWN_FAILURES: usize = 3;

/// Judges as the merged settings say.
pub fn run(arguments: &Layers<JudgeArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve().or_usage()?;
    let contest = contest(&config).or_usage()?;
    let matches = contest.matches().or_usage()?;
    let endpoint = Endpoint::new(settings(&config).or_usage()?);
    let (mut file, earlier) = Judgments::open(&config.output).or_usage()?;
    // What a later line says beats an earlier one.
    let earlier = |contest: &Match| {
        earlier.iter().rfind(|judgment| contest.is_judged_by(judgment, &config.judge_model)).cloned()
    };
    let mut judgments: Vec<Option<Judgment>> = matches.iter().map(earlier).collect();
    let left: Vec<usize> = (0..matches.len()).filter(|&index| judgments[index].is_none()).collect();
    if left.len() < matches.len() {
        let done = matches.len() - left.len();
        tracing::info!(
            "{}: {done} of {} judgments are there already",
            config.output.display(),
            matches.len()
        );
    }
    let asked: Vec<&Match> = left.iter().map(|&index| &matches[index]).collect();
    let mut bars = Bars::default();
    bars.begin(&config.judge_model, asked.len());
    let mut done = 0;
    let finished = asft::eval::judge::run(&endpoint, &asked, config.parallel, &Log, |index, judgment| {
        file.append(&judgment)?;
        remark(asked[index], &judgment);
        judgments[left[index]] = Some(judgment);
        done += 1;
        bars.advance(done, "");
        Ok::<_, asft::eval::judge::JudgeError>(())
    });
    bars.end();
    let finished = finished?;
    print(&config, &contest, &matches, &judgments)?;
    complain(&config, &asked, &finished, asked.len() - done)?;
    Ok(ExitStatus::Success)
}

fn contest(config: &JudgeConfig) -> anyhow::Result<Contest> {
    let open = |path: &std::path::PathBuf| AnswerFile::open(path);
    Ok(Contest {
        questions: mt_bench::questions(&config.questions)?,
        models: config.answers.iter().map(open).collect::<Result<_, _>>()?,
        baseline: config.baseline.as_ref().map(open).transpose()?,
        references: config.references.as_ref().map(open).transpose()?,
        prompts: Prompts::open(&config.prompts)?,
    })
}

fn settings(config: &JudgeConfig) -> anyhow::Result<EndpointSettings> {
    let key = config.key_variable.as_deref().map(|name| {
        let key = std::env::var(name).with_context(|| {
            format!("--key-variable {name}: the environment has no such variable with text")
        })?;
        anyhow::Ok(Key(key.trim().to_owned()))
    });
    Ok(EndpointSettings {
        url: config.endpoint.clone(),
        model: config.judge_model.clone(),
        key: key.transpose()?,
        max_tokens: config.max_tokens,
        fields: config.request_fields.clone(),
        attempts: config.attempts,
        first_wait: config.retry_wait,
        timeout: config.timeout,
    })
}

/// Says in the log what is going wrong.
struct Log;

impl Watcher for Log {
    fn failed(&self, contest: &Match, error: &EndpointError, wait: Duration) {
        tracing::warn!("{}: {error}; again in {:.1} s", name(contest), wait.as_secs_f64());
    }
}

fn name(contest: &Match) -> String {
    format!("question {}, turn {}, {}", contest.question.question_id, contest.turn, contest.model)
}

/// A judgment that says nothing, or something odd.
fn remark(contest: &Match, judgment: &Judgment) {
    match judgment {
        _ if !judgment.is_scored() => {
            tracing::warn!(
                "{}: the judgment has no score; the same command asks for it again",
                name(contest)
            );
        }
        Judgment::Single(single) if !(1.0..=10.0).contains(&single.score) => {
            tracing::warn!("{}: the score is {}, not from 1 to 10", name(contest), single.score);
        }
        Judgment::Single(_) | Judgment::Pair(_) => {}
    }
}

fn print(
    config: &JudgeConfig,
    contest: &Contest,
    matches: &[Match],
    judgments: &[Option<Judgment>],
) -> anyhow::Result<()> {
    let category = |contest: &Match| contest.question.category.clone();
    let judged: Vec<(String, &Judgment)> = matches
        .iter()
        .zip(judgments)
        .filter_map(|(contest, judgment)| Some((category(contest), judgment.as_ref()?)))
        .collect();
    if judged.is_empty() {
        return Ok(());
    }
    let table = table(judged.iter().map(|(category, judgment)| (category.as_str(), *judgment)));
    let text = match config.json {
        true => json_lines(config, contest.mode(), &table),
        false => text(config, contest.mode(), &table),
    };
    output::print(&text)?;
    Ok(())
}

fn text(config: &JudgeConfig, mode: Mode, table: &Table) -> String {
    let what = match (mode, &config.baseline) {
        (Mode::Pairwise, Some(baseline)) => {
            format!("Share of wins against {}, ties as a half", baseline.display())
        }
        _ => "Mean score, 1 to 10".to_owned(),
    };
    let mut text = format!("{what}, judged by {}\n\n{:14}", config.judge_model, "");
    let width = |model: &str| model.chars().count().max(8);
    let mut add = |line: String| text.push_str(&line);
    for column in &table.columns {
        add(format!("  {:>1$}", column.model, width(&column.model)));
    }
    let value = |cell: &Cell| match (cell.value, mode) {
        (Some(value), Mode::Single) => format!("{value:.2}"),
        (Some(value), Mode::Pairwise) => format!("{value:.3}"),
        (None, _) => "-".to_owned(),
    };
    for (row, name) in table.rows.iter().enumerate() {
        add(format!("\n{name:14}"));
        for column in &table.columns {
            add(format!("  {:>1$}", value(&column.cells[row]), width(&column.model)));
        }
    }
    text.push('\n');
    for column in &table.columns {
        let Some(all) = column.cells.last() else { continue };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}: {} judgments", column.model, all.judged);
        if mode == Mode::Pairwise {
            let [won, tied, lost] = all.games;
            let _ = write!(text, ", {won} won, {tied} tied, {lost} lost");
        }
        if all.unscored > 0 {
            let _ = write!(text, ", {} more without a score", all.unscored);
        }
    }
    text.push('\n');
    text
}

fn json_lines(config: &JudgeConfig, mode: Mode, table: &Table) -> String {
    let cell = |cell: &Cell| {
        let mut value = json!({ "value": cell.value, "judged": cell.judged, "unscored": cell.unscored });
        if mode == Mode::Pairwise {
            let [won, tied, lost] = cell.games;
            value["won"] = won.into();
            value["tied"] = tied.into();
            value["lost"] = lost.into();
        }
        value
    };
    let line = |column: &asft::eval::judge::summary::Column| {
        let rows: Map<String, Value> =
            table.rows.iter().cloned().zip(column.cells.iter().map(cell)).collect();
        format!("{}\n", json!({ "model": column.model, "judge": config.judge_model, "scores": rows }))
    };
    table.columns.iter().map(line).collect()
}

/// An error where something is missing, which the same command asks for again.
fn complain(
    config: &JudgeConfig,
    asked: &[&Match],
    finished: &Finished,
    missing: usize,
) -> anyhow::Result<()> {
    let Some(first) = finished.failures.first() else { return Ok(()) };
    for failure in finished.failures.iter().take(SHOWN_FAILURES) {
        tracing::error!("{}: given up: {}", name(asked[failure.index]), failure.error);
    }
    let stopped = if finished.stopped { ", and the judge is not asked any more" } else { "" };
    bail!(
        "{missing} of {} judgments are missing{stopped}: {}. What is there is in {}; the same command goes on",
        asked.len(),
        first.error,
        config.output.display()
    )
}
