//! Every loss that TRL has against TRL's own code: `golden/make_trl.py` calls it and writes `golden/trl.json`.

use asft::data::{AnswerAnnotations, Reference, Role};
use asft::objective::{Metrics, Parameters, build};
use serde_json::Value;

use super::assert_close;
use super::rows::{Row, totals, views};

fn numbers(value: &Value) -> Option<Vec<f32>> {
    Some(value.as_array()?.iter().map(|number| number.as_f64().unwrap() as f32).collect())
}

fn role(name: &str) -> Role {
    let short = if name == "mismatched" { "mismatched completion" } else { name };
    Role::ALL.into_iter().find(|role| role.name() == short).unwrap_or_else(|| panic!("no role {name}"))
}

fn row(group: &Value) -> Row {
    let mut row = Row { prompt: numbers(&group["prompt"]), ..Row::default() };
    for (name, logps) in group["answers"].as_object().unwrap() {
        let role = role(name);
        row = row.with(role, &numbers(logps).unwrap());
        if let Some(squares) = numbers(&group["log_sum_squares"][name]) {
            row.squares[role] = squares;
        }
        let references = numbers(&group["reference"][name]).map(|logps| Reference::Tokens(logps.into()));
        row.given.answers[role] =
            AnswerAnnotations { references: references.into_iter().collect(), ..Default::default() };
    }
    row.given.label = group["label"].as_bool();
    row
}

#[test]
fn losses_slopes_and_metrics_are_those_of_trl() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/trl.json")).unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    let mut seen = std::collections::BTreeSet::new();
    for (index, case) in cases.iter().enumerate() {
        let name = case["objective"].as_str().unwrap();
        seen.insert(name);
        let parameters: Parameters = serde_json::from_value(case["parameters"].clone()).unwrap();
        let objective = build(name, &parameters).unwrap_or_else(|error| panic!("case {index}: {error}"));
        let groups = case["groups"].as_array().unwrap();
        let rows: Vec<Row> = groups.iter().map(row).collect();
        let totals = totals(&rows);
        let what = format!("case {index}: {objective:?}");
        // TRL computes some of it in f32.
        let (relative, absolute) = if case["single"] == true { (2e-4, 2e-6) } else { (1e-11, 1e-13) };

        let losses = objective.evaluate(&views(&rows), &totals);
        let loss: f64 = losses.iter().map(|loss| loss.value).sum();
        assert_close(loss, case["loss"].as_f64().unwrap(), relative, absolute, &what);
        for (loss, group) in losses.iter().zip(groups) {
            for (name, slopes) in group["slopes"].as_object().unwrap() {
                let got = if name == "prompt" { &loss.prompt } else { &loss.answers[role(name)] };
                for (token, want) in slopes.as_array().unwrap().iter().enumerate() {
                    let what = format!("{what}: {name}, token {token}");
                    assert_close(got.at(token), want.as_f64().unwrap(), relative, absolute, &what);
                }
            }
        }

        let mut metrics = Metrics::new();
        views(&rows).iter().for_each(|group| objective.metrics(group, &totals, &mut metrics));
        objective.step_metrics(&views(&rows), &totals, &mut metrics);
        for (metric, want) in case["metrics"].as_object().unwrap() {
            let want = want.as_f64().unwrap();
            // TRL logs an NLL of 0 where it has no weight, and DPO's rewards for SFT.
            let other = (metric == "nll_loss" && want == 0.0) || name == "sft";
            match metrics.mean(metric) {
                _ if other => {}
                // Means of f32.
                Some(got) if metric == "rewards/accuracies" => assert_close(got, want, 1e-6, 0.0, &what),
                Some(got) => assert_close(got, want, relative, absolute, &format!("{what}: {metric}")),
                None => panic!("{what}: no {metric}"),
            }
        }
    }
    // 23 loss types and two sums.
    assert_eq!(seen.len(), 25, "{seen:?}");
}
