//! IFT: the authors' loss, and what holds for it whatever the log-probs.

use asft::data::{Role, StepTotals};
use asft::objective::{GroupLogps, Inputs, Objective, Parameters, Scored, build};
use serde_json::Value;

use super::{assert_close, made, pair};

fn ift(parameters: &str) -> Box<dyn Objective> {
    made("ift", serde_json::from_str(parameters).unwrap())
}

/// Loss of one answer alone, and the slopes of its tokens.
fn alone(objective: &dyn Objective, logps: &[f32]) -> (f64, Vec<f64>) {
    let totals = StepTotals { groups: 1, ..StepTotals::default() };
    let group = GroupLogps::default().with(Role::Chosen, Scored::new(logps));
    let loss = objective.evaluate(&[group], &totals).remove(0);
    (loss.value, (0..logps.len()).map(|token| loss.answers[Role::Chosen].at(token)).collect())
}

/// `golden/make_ift.py` wrote the released algorithm down with autograd in f64.
#[test]
fn losses_and_slopes_are_those_of_the_authors() {
    let golden: Value = serde_json::from_str(include_str!("../golden/ift.json")).unwrap();
    let cases = golden["losses"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    let mut negative = 0;
    for case in cases {
        let parameters: Parameters = serde_json::from_value(case["parameters"].clone()).unwrap();
        let objective = build("ift", &parameters).unwrap();
        let floats = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let answers: Vec<Vec<f32>> = case["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| floats(answer).into_iter().map(|logp| logp as f32).collect())
            .collect();
        let groups: Vec<GroupLogps> = answers
            .iter()
            .map(|answer| GroupLogps::default().with(Role::Chosen, Scored::new(answer)))
            .collect();
        let totals = StepTotals { groups: groups.len(), ..StepTotals::default() };
        let losses = objective.evaluate(&groups, &totals);
        let what = case["parameters"].to_string();
        let loss: f64 = losses.iter().map(|loss| loss.value).sum();
        assert_close(loss, case["loss"].as_f64().unwrap(), 1e-13, 0.0, &what);
        for ((loss, slopes), answer) in losses.iter().zip(case["slopes"].as_array().unwrap()).zip(&answers) {
            let slopes = floats(slopes);
            assert_eq!(slopes.len(), answer.len());
            for (token, &want) in slopes.iter().enumerate() {
                let got = loss.answers[Role::Chosen].at(token);
                // Differences of losses may cancel.
                assert_close(got, want, 1e-11, 1e-14, &format!("{what}: token {token} of {}", answer.len()));
                negative += usize::from(want > 0.0);
            }
        }
    }
    assert!(negative > 10, "only {negative} tokens are pushed down");
}

/// Log-probs of an answer that begins easily or ends so, near 0 or far from it.
fn answers() -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for length in [1usize, 2, 3, 9, 60] {
        for (start, end) in
            [(1e-9, 1e-7), (1e-6, 5.0), (5.0, 1e-6), (0.3, 0.3), (1e4, 1e-3), (1e-9, 1e4), (800.0, 1e4)]
        {
            let at = |t: usize| {
                let share = t as f64 / length.max(2) as f64;
                -(f64::powf(start, 1.0 - share) * f64::powf(end, share)) as f32 * (1.0 + (t % 3) as f32 / 8.0)
            };
            all.push((0..length).map(at).collect());
        }
    }
    all
}

#[test]
fn slopes_are_derivatives_over_the_whole_range() {
    for gamma in [0.0, 0.5, 0.95, 1.0] {
        for propagation in ["released", "paper-linear", "none"] {
            let objective = ift(&format!(r#"{{"gamma": {gamma}, "ift_propagation": "{propagation}"}}"#));
            for logps in answers() {
                let (loss, slopes) = alone(objective.as_ref(), &logps);
                for (token, &slope) in slopes.iter().enumerate() {
                    let at = |x: f32| {
                        let mut moved = logps.clone();
                        moved[token] = x;
                        (alone(objective.as_ref(), &moved).0, f64::from(x))
                    };
                    let central = |h: f32| {
                        let (right, left) = (at(logps[token] + h), at(logps[token] - h));
                        (right.0 - left.0) / (right.1 - left.1)
                    };
                    let step = logps[token].abs() / 64.0;
                    let numeric = (4.0 * central(step / 2.0) - central(step)) / 3.0;
                    let noise = 64.0 * f64::EPSILON * loss / f64::from(step);
                    let what = format!("{propagation}, gamma {gamma}: token {token} of {logps:?}");
                    assert_close(slope, numeric, 1e-6, 1e-9 + noise, &what);
                }
            }
        }
    }
}

#[test]
fn detached_weights_are_constants() {
    for gamma in [0.0, 0.5, 0.95, 1.0] {
        let whole = ift(&format!(r#"{{"gamma": {gamma}}}"#));
        let detached = ift(&format!(r#"{{"gamma": {gamma}, "ift_detach_weights": true}}"#));
        for logps in answers() {
            let (value, slopes) = alone(detached.as_ref(), &logps);
            assert_eq!(value.to_bits(), alone(whole.as_ref(), &logps).0.to_bits());
            // The weights have mean 1, so a sum of -slopes of 1; and the loss is what they weigh.
            let total: f64 = slopes.iter().sum();
            assert_close(total, -1.0, 1e-13, 0.0, &format!("gamma {gamma}, {logps:?}"));
            let weighed: f64 = slopes.iter().zip(&logps).map(|(slope, &logp)| slope * f64::from(logp)).sum();
            assert_close(weighed, value, 1e-13, 0.0, &format!("gamma {gamma}, {logps:?}"));
        }
    }
}

/// Both are homogeneous of degree one in the losses, whence Euler's identity; nothing diverges where they vanish.
#[test]
fn bounds_and_limits() {
    for gamma in [0.0, 0.95, 1.0] {
        let objective = ift(&format!(r#"{{"gamma": {gamma}}}"#));
        for logps in answers() {
            let (value, slopes) = alone(objective.as_ref(), &logps);
            let euler: f64 = slopes.iter().zip(&logps).map(|(slope, &logp)| slope * f64::from(logp)).sum();
            assert_close(euler, value, 1e-11, 0.0, &format!("gamma {gamma}, {logps:?}"));
            let most = slopes.iter().fold(0.0f64, |most, slope| most.max(slope.abs()));
            assert!(most <= logps.len() as f64 + 1.0, "gamma {gamma}: {most} of {} tokens", logps.len());
        }
        assert_eq!(alone(objective.as_ref(), &[0.0, -0.0, 0.0]), (0.0, vec![-1.0 / 3.0; 3]));
    }
    // Without a discount of what follows each token weighs its own loss.
    let (value, _) = alone(ift(r#"{"gamma": 0}"#).as_ref(), &[-1.0, -2.0, -0.5]);
    assert_close(value, 5.25 / 3.5, 1e-15, 0.0, "sum of squares over sum");
    // (1 - gamma^(k + 1)) / (1 - gamma), from the paper.
    let (_, slopes) =
        alone(ift(r#"{"gamma": 0.95, "ift_propagation": "paper_linear"}"#).as_ref(), &[-1.0; 200]);
    for (k, slope) in slopes.iter().enumerate() {
        let weight = (1.0 - 0.95f64.powi(k as i32 + 1)) / (1.0 - 0.95);
        assert_close(*slope, -weight, 1e-13, 0.0, &format!("token {k}"));
    }
}

#[test]
fn without_propagation_it_is_sft_with_sequence_reduction_to_the_bit() {
    let none = ift(r#"{"lambda": 0, "ift_propagation": "none", "ift_embedding": "live"}"#);
    assert_eq!(none.inputs(), Inputs::TOKENS);
    let sft = made("sft", serde_json::from_str(r#"{"nll_reduction": "sequence"}"#).unwrap());
    let totals = StepTotals { groups: 7, ..StepTotals::default() };
    for logps in answers() {
        let group = [pair(&logps, &[-1.0])];
        assert_eq!(none.evaluate(&group, &totals), sft.evaluate(&group, &totals));
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |name: &str, parameters: &str| {
        build(name, &serde_json::from_str(parameters).unwrap()).unwrap_err().to_string()
    };
    for (name, parameters, what) in [
        ("ift:0.5,sft:0.5", "{}", "ift changes what the model is given, so it is no part of a sum"),
        ("dpo,ift", "{}", "ift changes what the model is given, so it is no part of a sum"),
        ("ift", r#"{"lambda": 1.5}"#, "ift: --lambda = 1.5, but it must be at least 0 and at most 1"),
        (
            "ift",
            r#"{"ift_propagation": "none", "ift_detach_weights": true}"#,
            "--ift-detach-weights has no effect with --ift-propagation none",
        ),
        ("sft", r#"{"ift_embedding": "live"}"#, "--ift-embedding belongs to ift"),
    ] {
        let message = refused(name, parameters);
        assert!(message.contains(what), "{message}");
    }
    // Under its own names too; and a live table without mixed inputs is no part of the graph's business.
    let own = ift(r#"{"ift_lambda": 0.3, "ift_gamma": 0.5}"#);
    assert_eq!(own.inputs(), Inputs { predicted: 0.3, train_embedding: false });
}
