//! Learning-rate schedules against transformers' own numbers (`tests/golden/make_schedule.py`).

use asft::optim::schedule::{Schedule, ScheduleKind, warmup_steps};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/schedule.json")).expect("the golden file is JSON")
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a whole number") as usize
}

#[test]
fn every_rate_is_transformers() {
    let golden = golden();
    let cases = golden["schedules"].as_array().expect("a list");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let schedule = Schedule {
            kind: case["kind"].as_str().unwrap().parse().unwrap(),
            learning_rate: case["learning_rate"].as_f64().unwrap(),
            warmup_steps: number(&case["warmup_steps"]),
            total_steps: number(&case["total_steps"]),
        };
        let expected: Vec<f64> =
            case["rates"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
        assert_eq!(expected.len(), schedule.total_steps);
        for (index, expected) in expected.into_iter().enumerate() {
            let rate = schedule.learning_rate(index + 1);
            // The same operations in the same order: equal but for the last bits of the cosine.
            let bound = 1e-15 * schedule.learning_rate;
            assert!(
                (rate - expected).abs() <= bound,
                "{schedule:?} step {}: {rate} != {expected}",
                index + 1
            );
        }
    }
}

#[test]
fn warm_up_share_is_rounded_up() {
    for case in golden()["warmup_steps"].as_array().unwrap() {
        let steps = warmup_steps(number(&case["total_steps"]), case["ratio"].as_f64().unwrap());
        assert_eq!(steps, number(&case["warmup_steps"]), "{case}");
    }
}

#[test]
fn rates_stay_in_range_beyond_the_run() {
    for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Constant] {
        let schedule = Schedule { kind, learning_rate: 1.0, warmup_steps: 2, total_steps: 5 };
        for step in 0..20 {
            assert!((0.0..=1.0).contains(&schedule.learning_rate(step)), "{kind} step {step}");
        }
    }
}

#[test]
fn names_are_hugging_faces() {
    for (name, kind) in [
        ("linear", ScheduleKind::Linear),
        ("cosine", ScheduleKind::Cosine),
        ("constant", ScheduleKind::Constant),
        ("constant_with_warmup", ScheduleKind::Constant),
    ] {
        assert_eq!(name.parse(), Ok(kind));
        assert_eq!(serde_json::from_value::<ScheduleKind>(name.into()).unwrap(), kind);
    }
    let error = "cosin".parse::<ScheduleKind>().unwrap_err();
    assert_eq!(error.to_string(), "unknown learning-rate schedule \"cosin\": use linear, cosine or constant");
}
