//! What holds for every objective of the registry, present and future: coefficients are derivatives, and nothing is ever
//! infinite or NaN.

use asft::data::Role;
use asft::objective::registry::{Entry, OBJECTIVES};
use asft::objective::{GroupLoss, Metrics, Objective, Parameters};

use super::rows::{Row, row, totals, views};
use super::{POINTS, assert_close};

/// How far the reference lies from the policy, per token; never 0, where DPOP has an edge.
const SHIFTS: [f32; 4] = [-4.0, -0.03, 0.01, 2.5];

fn evaluate(objective: &dyn Objective, rows: &[Row]) -> (f64, Vec<GroupLoss>) {
    let losses = objective.evaluate(&views(rows), &totals(rows));
    (losses.iter().map(|loss| loss.value).sum(), losses)
}

/// One to three tokens whose mean is near `a`.
fn answer(a: f64, shape: usize) -> Vec<f32> {
    let shapes: [&[f64]; 3] = [&[1.0], &[0.5, 1.5], &[0.25, 1.75, 1.0]];
    shapes[shape % 3].iter().map(|x| (a * x) as f32).collect()
}

/// Choices that are not compared here: weights that are constants of the loss, where a difference would see what the slope
/// leaves out, and divergences whose scores of e^20 and more cancel to a digit or two (`trl.rs` has them).
fn is_left_out(parameter: &str, value: &str) -> bool {
    matches!((parameter, value), ("weighting", "wpo") | ("ift_detach_weights", "true") | ("f_divergence", _))
}

/// The defaults, every number larger and smaller as far as its range allows, and every choice.
fn variants(entry: &'static Entry) -> Vec<Parameters> {
    let defaults = entry.resolve(&Parameters::default()).unwrap();
    let json = serde_json::to_value(defaults).unwrap();
    let mut all = vec![defaults];
    for parameter in entry.parameters {
        let Some(value) = json[parameter.name()].as_f64() else {
            let compared = |parameters: &Parameters| {
                let value = serde_json::to_value(parameters).unwrap()[parameter.name()].to_string();
                !is_left_out(parameter.name(), value.trim_matches('"'))
            };
            all.extend(parameter.extremes(&defaults).into_iter().filter(compared));
            continue;
        };
        for factor in [0.6, 1.7] {
            let mut changed = json.clone();
            changed[parameter.name()] = (value * factor).into();
            let changed: Parameters = serde_json::from_value(changed).unwrap();
            all.extend(entry.resolve(&changed).ok());
        }
    }
    all.retain(|parameters| entry.build(parameters).is_ok());
    all
}

/// The slope by Richardson's extrapolation of central differences in one token, and how far rounding may put it off; nothing
/// where the loss is so steep that neighbouring f32 lie too far apart.
fn difference(
    objective: &dyn Objective,
    rows: &[Row],
    (group, role, token): (usize, Role, usize),
    slope: f64,
    shrink: f32,
) -> Option<(f64, f64)> {
    let logp = rows[group].answers[role].as_ref().unwrap()[token];
    let at = |x: f32| {
        let mut moved = rows.to_vec();
        moved[group].answers[role].as_mut().unwrap()[token] = x;
        evaluate(objective, &moved).0
    };
    let loss = at(logp);
    let flat = 2e-3 * (1.0 + loss.abs()) / slope.abs();
    let step = (logp.abs() / 256.0).min(4e-3).min(flat as f32) * shrink;
    if step < logp.abs() * 4e-6 {
        return None;
    }
    let central = |h: f32| {
        let (right, left) = (logp + h, logp - h);
        (at(right) - at(left)) / (f64::from(right) - f64::from(left))
    };
    let numeric = (4.0 * central(step / 2.0) - central(step)) / 3.0;
    Some((numeric, 256.0 * f64::EPSILON * (loss.abs() + 1.0) / f64::from(step)))
}

/// The slopes on both sides of a corner, if the loss has one at this token's log-prob.
fn corner(objective: &dyn Objective, rows: &[Row], place: (usize, Role, usize)) -> Option<[f64; 2]> {
    let (group, role, token) = place;
    let logp = rows[group].answers[role].as_ref()?[token];
    let at = |logp: f32| {
        let mut moved = rows.to_vec();
        moved[group].answers[role].as_mut().expect("it has this answer")[token] = logp;
        evaluate(objective, &moved).0
    };
    let quotient = |step: f32| (at(logp + step) - at(logp)) / (f64::from(logp + step) - f64::from(logp));
    let side = |step: f32| 2.0 * quotient(step / 2.0) - quotient(step);
    let step = logp.abs() / 4096.0;
    let sides = [side(-step), side(step)];
    ((sides[0] - sides[1]).abs() > 1e-3 * sides[0].abs().max(sides[1].abs())).then_some(sides)
}

/// Every token of the answers that carry a coefficient, in a step of a few groups; how many could be compared.
fn check(objective: &dyn Objective, rows: &[Row]) -> usize {
    let mut compared = 0;
    let (loss, losses) = evaluate(objective, rows);
    assert!(loss.is_finite(), "{objective:?}: {loss}");
    for (group, of_group) in losses.iter().enumerate() {
        for (role, slope) in of_group.answers.iter() {
            let tokens = rows[group].answers[role].as_ref().map_or(0, Vec::len);
            for token in 0..tokens {
                let got = slope.at(token);
                let learns = objective.learns_from().with(Role::Mixed, objective.mixing().is_some());
                if !learns.contains(role) {
                    assert_eq!(got, 0.0, "{objective:?}: {} has a coefficient", role.name());
                    continue;
                }
                let place = (group, role, token);
                let Some((numeric, noise)) = difference(objective, rows, place, got, 1.0) else { continue };
                compared += 1;
                let what =
                    || format!("{objective:?}: group {group}, {}, token {token}\n{rows:?}", role.name());
                let close = |numeric: f64| (got - numeric).abs() <= 2e-5 * got.abs() + noise;
                if close(numeric) {
                    continue;
                }
                // The step may have reached over a bend nearby (Ada-DPO's, where tau leaves its bound); a smaller one does
                // not, where f32 has numbers that close.
                let Some((nearer, noise)) = difference(objective, rows, place, got, 1.0 / 4.0) else {
                    compared -= 1;
                    continue;
                };
                let nearer = (got - nearer).abs() <= 2e-5 * got.abs() + noise;
                // Where the loss has a corner (DPOP's at the reference), the slope is that of one of its sides.
                let at_corner =
                    || corner(objective, rows, place).is_some_and(|sides| sides.into_iter().any(close));
                if !nearer && !at_corner() {
                    panic!("{}: slope {got:e}, difference {numeric:e} (noise {noise:e})", what());
                }
            }
        }
    }
    compared
}

#[test]
fn coefficients_are_the_derivatives_of_the_loss() {
    for entry in OBJECTIVES {
        for parameters in variants(entry) {
            let objective = entry.build(&parameters).unwrap();
            let mut compared = 0;
            for (i, &w) in POINTS.iter().enumerate() {
                for (j, &l) in POINTS.iter().enumerate() {
                    // Weights that are functions of a log-prob carry no gradient: where BMC's are not at their bound, a
                    // difference would see them.
                    if entry.name == "bmc" && w.max(l) > -10.0 {
                        continue;
                    }
                    let (w, l) = (answer(w, i + j), answer(l, j));
                    let shift = SHIFTS[(i + 2 * j) % SHIFTS.len()];
                    let rows = [
                        row(entry, &[&w, &l], shift, i % 2 == 0),
                        row(entry, &[&[-0.9, -14.0], &[-21.0]], 0.7, true),
                        row(entry, &[&[-11.5], &[-12.5, -30.0]], -0.9, false),
                    ];
                    compared += check(objective.as_ref(), &rows[..if entry.name == "bmc" { 1 } else { 3 }]);
                }
            }
            // One row, and only where the weights are at their bound.
            let enough = if entry.name == "bmc" { 20 } else { 30 };
            assert!(compared >= enough, "{objective:?}: {compared} compared");
        }
    }
}

#[test]
fn nothing_is_infinite_at_the_ends_of_every_parameter() {
    let logps = [0.0, 1e-6, -1e-45, -1e-12, -1e-5, -0.5, -89.0, -1e4_f32];
    for entry in OBJECTIVES {
        let defaults = entry.resolve(&Parameters::default()).unwrap();
        let mut all = vec![defaults];
        for parameter in entry.parameters {
            // Each at its ends beside each other at its ends.
            let ends: Vec<Parameters> = all.iter().flat_map(|base| parameter.extremes(base)).collect();
            all.extend(ends);
            all.truncate(400);
        }
        let mut built = 0;
        for objective in all.iter().filter_map(|parameters| entry.build(parameters).ok()) {
            built += 1;
            for (w, l) in logps.iter().flat_map(|&w| logps.map(|l| (w, l))) {
                for shift in [-3.0, 0.0, 1e4] {
                    // One token each, and the same text twice on the diagonal.
                    let rows =
                        [row(entry, &[&[w], &[l]], shift, true), row(entry, &[&[l], &[w, w]], 0.0, false)];
                    finite(objective.as_ref(), &rows);
                }
            }
        }
        assert!(built > entry.parameters.len(), "{}: {built} built", entry.name);
    }
}

fn finite(objective: &dyn Objective, rows: &[Row]) {
    let (loss, losses) = evaluate(objective, rows);
    assert!(loss.is_finite(), "{objective:?}: {loss}\n{rows:?}");
    let mut metrics = Metrics::new();
    for (loss, view) in losses.iter().zip(views(rows)) {
        for (role, slope) in loss.answers.iter() {
            let tokens = view.answers[role].map_or(0, |answer| answer.tokens());
            let all = (0..tokens).map(|token| slope.at(token) as f32);
            assert!(all.clone().all(f32::is_finite), "{objective:?}: {slope:?}\n{rows:?}");
        }
        objective.metrics(&view, &totals(rows), &mut metrics);
    }
    objective.step_metrics(&views(rows), &totals(rows), &mut metrics);
    for (name, value) in metrics.means() {
        assert!(value.is_finite(), "{objective:?}: {name} = {value}\n{rows:?}");
    }
}

#[test]
fn an_objective_says_what_it_needs() {
    for entry in OBJECTIVES {
        let objective = entry.build(&Parameters::default()).unwrap();
        assert_eq!(objective.needs_reference(), entry.reference, "{}", entry.name);
        assert_eq!(entry.reference, entry.max_references > 0, "{}", entry.name);
        let spans = objective.spans();
        assert!(spans.answers.is_within(entry.answers), "{}: scores what no row has", entry.name);
        assert!(objective.learns_from().is_within(spans.answers), "{}", entry.name);
        for text in [entry.name, entry.formula, entry.when, entry.learning_rate.source] {
            assert!(!text.is_empty(), "{}", entry.name);
        }
    }
}

#[test]
fn at_the_reference_the_loss_is_the_one_announced() {
    for entry in OBJECTIVES {
        for objective in variants(entry).iter().map(|parameters| entry.build(parameters).unwrap()) {
            let Some(expected) = objective.loss_at_reference() else { continue };
            let rows = [row(entry, &[&[-0.5, -3.0], &[-1.0]], 0.0, true), row(entry, &[&[-7.0]], 0.0, false)];
            let (loss, _) = evaluate(objective.as_ref(), &rows);
            assert_close(loss, expected, 1e-14, 0.0, &format!("{objective:?}"));
        }
    }
}
