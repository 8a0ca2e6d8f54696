use std::collections::HashSet;

use asft::data::{Encoder, Needs, TemplateConfig};
use asft::prepare::diff::{Run, changed, common_runs};
use asft::prepare::{StopWords, token_diff};
use asft::progress::Silent;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixture::{config, folder, tokenizer, words};
use crate::{Files, golden, numbers};

/// Runs with those joined that touch in both sequences, as difflib gives them.
fn joined(runs: &[Run]) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.first + last.len == run.first && last.second + last.len == run.second => {
                last.len += run.len;
            }
            _ => joined.push(*run),
        }
    }
    joined
}

#[test]
fn runs_are_those_of_difflib() {
    let cases = golden("diffs.json");
    assert!(cases.len() > 80);
    for case in cases {
        let (first, second) = (numbers::<u32>(&case["first"]), numbers::<u32>(&case["second"]));
        let expected: Vec<Run> = numbers::<[usize; 3]>(&case["blocks"])
            .into_iter()
            .map(|[first, second, len]| Run { first, second, len })
            .collect();
        assert_eq!(joined(&common_runs(&first, &second)), expected, "{first:?} {second:?}");
    }
}

proptest! {
    #[test]
    fn what_is_not_changed_is_the_same_in_both(
        first in proptest::collection::vec(0u8..5, 0..40),
        second in proptest::collection::vec(0u8..5, 0..260),
    ) {
        let (ours, theirs) = changed(&first, &second);
        let kept = |ids: &[u8], changed: &[bool]| -> Vec<u8> {
            ids.iter().zip(changed).filter(|(_, changed)| !**changed).map(|(id, _)| *id).collect()
        };
        prop_assert_eq!(kept(&first, &ours), kept(&second, &theirs));
    }
}

fn encoder() -> Encoder {
    let config =
        asft::data::EncodeConfig { needs: Needs::pairs(), template: TemplateConfig::default(), ..config() };
    Encoder::from_folder(&folder(), config).unwrap()
}

#[test]
fn weights_are_those_of_the_released_rule() {
    let cases = golden("weights.json");
    let rows: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({"prompt": case["prompt"], "chosen": case["chosen"], "rejected": case["rejected"], "id": 1})
        })
        .collect();
    for which in [StopWords::None, StopWords::Released, StopWords::Spaced] {
        let files = Files::new(&rows);
        let report = token_diff(&files.task(), &encoder(), which, &mut Silent).unwrap();
        for (case, made) in cases.iter().zip(files.rows("out.jsonl")) {
            let expected = &case["weights"][which.to_string()];
            assert_eq!(made["chosen_weights"], expected[0], "{which}: {made}");
            assert_eq!(made["rejected_weights"], expected[1], "{which}: {made}");
            assert_eq!(made["id"], 1);
        }
        let all: Vec<Vec<u8>> =
            cases.iter().flat_map(|case| numbers::<Vec<u8>>(&case["weights"][which.to_string()])).collect();
        let (tokens, ones): (usize, usize) =
            (all.iter().map(Vec::len).sum(), all.iter().flatten().filter(|weight| **weight == 1).count());
        let said = format!("of {tokens} answer tokens are changed and no stop words");
        assert_eq!(report.notes[0], (ones, said));
        let alike = if which == StopWords::Spaced { 2 } else { 1 };
        assert_eq!(report.notes[1].0, alike);
    }
}

#[test]
fn stop_words_are_words_of_one_token() {
    let tokenizer = tokenizer();
    let ids = |which: StopWords| which.ids(&tokenizer).unwrap();
    assert_eq!(ids(StopWords::None), HashSet::new());
    let id = |text: &str| tokenizer.encode(text).unwrap()[0];
    let (released, spaced) = (ids(StopWords::Released), ids(StopWords::Spaced));
    assert!(released.contains(&id("the")) && !released.contains(&id(" the")) && spaced.contains(&id(" the")));
    assert!(released.is_subset(&spaced));
    // A capital "A" is none, because single letters get no capital.
    assert!(released.contains(&id("a")) && !released.contains(&id("A")));
}

#[test]
fn conversations_get_a_weight_for_every_token() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let row = json!({
        "chosen": [turn("user", "Hello"), turn("assistant", "world"), turn("user", "x"), turn("assistant", "dog")],
        "rejected": [turn("user", "Hello"), turn("assistant", "fox"), turn("user", "x"), turn("assistant", "dog")],
    });
    let files = Files::new(std::slice::from_ref(&row));
    let template = crate::fixture::template("llama3", &tokenizer());
    let encoder = Encoder::new(Some(tokenizer()), Some(template), encoder().config().clone());
    token_diff(&files.task(), &encoder, StopWords::None, &mut Silent).unwrap();
    let made = files.rows("out.jsonl");
    assert_eq!((&made[0]["chosen"], &made[0]["rejected"]), (&row["chosen"], &row["rejected"]));
    let chosen: Vec<u8> = numbers(&made[0]["chosen_weights"]);
    let world = tokenizer().encode("world").unwrap().len();
    assert_eq!(chosen.iter().filter(|weight| **weight == 1).count(), world, "{chosen:?}");
    assert!(chosen[..world].iter().all(|weight| *weight == 1), "the answer begins with the changed word");
    // What training reads: one number for each token of the answer, those of the user's turn passed over.
    let mut needs = Needs::pairs();
    needs.annotations.push(asft::data::Annotation::Weights);
    let config = asft::data::EncodeConfig { needs, ..encoder.config().clone() };
    let trained = encoder.with_config(config);
    let row = asft::data::Row { index: 0, line: 1, columns: made[0].as_object().unwrap().clone() };
    let shape = trained.shape(&row, asft::data::Numbering::Lines).unwrap();
    let asft::data::Encoded::Group(group, _) = trained.encode_row(&shape, 0, &row).unwrap() else {
        panic!("unusable")
    };
    let weights = group.annotations.unwrap().answers[asft::data::Role::Chosen].weights.clone().unwrap();
    assert!(weights.len() < chosen.len());
    assert_eq!(weights.iter().filter(|weight| **weight == 1.0).count(), world);
}

#[test]
fn weights_that_are_there_are_not_replaced() {
    let files =
        Files::new(&[json!({"prompt": "p", "chosen": "c", "rejected": "r", "rejected_weights": [1, 1]})]);
    let error = token_diff(&files.task(), &encoder(), StopWords::None, &mut Silent).unwrap_err();
    let said =
        "in.jsonl:1: column \"rejected_weights\" is there already; take it out, or give it another name";
    assert!(words(&error).ends_with(said), "{error}");
    // A row that training would drop is left out here as well, and one answer is no pair.
    let files = Files::new(&[
        json!({"prompt": "p", "chosen": "", "rejected": "r"}),
        json!({"prompt": "p", "chosen": "c", "rejected": "r"}),
    ]);
    let report = token_diff(&files.task(), &encoder(), StopWords::None, &mut Silent).unwrap();
    assert_eq!(report.dropped("empty chosen"), 1);
    let single = Files::new(&[json!({"prompt": "p", "chosen": "c"})]);
    let error = token_diff(&single.task(), &encoder(), StopWords::None, &mut Silent).unwrap_err();
    assert!(words(&error).contains("column \"rejected\" is missing"), "{error}");
}
