//! Golden cases, computed by `golden/objective/make.py` in 80-digit arithmetic from the papers' forms.

use asft::data::{ByRole, StepTotals};
use asft::objective::{GroupLogps, Parameters, Scored};

use super::{assert_close, made, metrics, referred, run, scored};

#[test]
fn golden_cases_in_high_precision() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../golden/objective/cases.json")).unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    for (index, case) in cases.iter().enumerate() {
        let name = case["objective"].as_str().unwrap();
        let parameters: Parameters = serde_json::from_value(case["parameters"].clone()).unwrap();
        let count = |key: &str| case["totals"][key].as_u64().unwrap() as usize;
        let totals = StepTotals {
            groups: count("groups"),
            prompt_tokens: count("prompt_tokens"),
            answer_tokens: ByRole::new([count("chosen_tokens"), count("rejected_tokens"), 0, 0, 0, 0]),
        };
        let spans = ["prompt", "chosen", "rejected"].map(|span| floats(&case[span]));
        let logps = spans.each_ref().map(|span| span.iter().map(|&logp| logp as f32).collect::<Vec<f32>>());
        let given = [0, 1].map(|answer| {
            let sum = case["reference"].get(answer).and_then(|sum| sum.as_f64());
            sum.map(referred).unwrap_or_default()
        });
        let [chosen, rejected] = [0, 1].map(|answer| Scored::new(&logps[1 + answer]).with(&given[answer]));
        let group = GroupLogps { prompt: scored(&logps[0]), ..GroupLogps::pair(chosen, rejected) };

        let objective = made(name, parameters);
        let what = format!("case {index}, {name}");
        let (loss, coefficients) = run(objective.as_ref(), &group, &totals);
        assert_close(loss, case["loss"].as_f64().unwrap(), 1e-13, 0.0, &what);
        for (span, got) in ["prompt", "chosen", "rejected"].into_iter().zip(&coefficients) {
            let want = floats(&case["coefficients"][span]);
            assert_eq!(got.len(), want.len(), "{what}, {span}");
            for (&got, want) in got.iter().zip(want) {
                // Half an ulp of f32, and its smallest number.
                assert_close(f64::from(got), want, 6.1e-8, 1.5e-45, &format!("{what}, {span} coefficient"));
            }
        }

        let got = metrics(objective.as_ref(), &group);
        let want = case["metrics"].as_object().unwrap();
        assert_eq!(got.means().len(), want.len(), "{what}: {:?}", got.means());
        for (name, want) in want {
            let got = got.mean(name).unwrap_or_else(|| panic!("{what}: no {name}"));
            assert_close(got, want.as_f64().unwrap(), 1e-12, 1e-14, &format!("{what}, {name}"));
        }
    }
}

fn floats(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}
