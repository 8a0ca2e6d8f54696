//! Metrics of texts against the packages that define them: sacrebleu, rouge_score and NLTK (`golden/make_text_metrics.py`).

use std::path::Path;

use asft::eval::judge::verdict::{self, Verdict};
use asft::eval::text::bleu::{Bleu, tokens_13a};
use asft::eval::text::{porter, rouge::Rouge};
use serde_json::Value;

#[path = "../skip/mod.rs"]
mod skip;

/// Far below the four digits that scores are compared to.
const CLOSE: f64 = 1e-9;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval/golden/text_metrics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn pairs(golden: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    golden["pairs"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn corpus(pairs: &[(String, String)]) -> Bleu {
    let mut sum = Bleu::default();
    pairs.iter().for_each(|(answer, reference)| sum.add(&Bleu::of(answer, reference)));
    sum
}

fn check_rouge(pairs: &[(String, String)], stored: &Value) {
    assert_eq!(pairs.len(), stored.as_array().unwrap().len());
    for ((answer, reference), theirs) in pairs.iter().zip(stored.as_array().unwrap()) {
        let [plain, stemmed] = [false, true].map(|stem| Rouge::of(answer, reference, stem));
        let ours = [plain.one, plain.two, plain.l, stemmed.one, stemmed.two, stemmed.l];
        for (ours, theirs) in ours.iter().zip(theirs.as_array().unwrap()) {
            let theirs = theirs.as_f64().unwrap();
            assert!((ours - theirs).abs() < CLOSE, "{ours} {theirs}: {answer:?} for {reference:?}");
        }
    }
}

#[test]
fn tokens_are_those_of_mteval_13a() {
    let golden = golden();
    for ((answer, _), theirs) in pairs(&golden).iter().zip(golden["tokens_13a"].as_array().unwrap()) {
        let theirs: Vec<&str> = theirs.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        assert_eq!(tokens_13a(answer), theirs, "{answer:?}");
    }
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    let golden = golden();
    let pairs = pairs(&golden);
    let sum = corpus(&pairs);
    let lengths = golden["bleu_tokens"].as_array().unwrap();
    assert_eq!([sum.tokens, sum.reference_tokens].map(Value::from).to_vec(), *lengths);
    let (ours, theirs) = (sum.score(), golden["bleu"].as_f64().unwrap());
    assert!((ours - theirs).abs() < CLOSE, "{ours} {theirs}");
    for ((answer, reference), theirs) in pairs.iter().zip(golden["bleu_of_each"].as_array().unwrap()) {
        let (ours, theirs) = (Bleu::of(answer, reference).score(), theirs.as_f64().unwrap());
        assert!((ours - theirs).abs() < CLOSE, "{ours} {theirs}: {answer:?} for {reference:?}");
    }
}

#[test]
fn rouge_is_that_of_rouge_score() {
    let golden = golden();
    check_rouge(&pairs(&golden), &golden["rouge"]);
}

#[test]
fn stems_are_those_of_nltk() {
    let golden = golden();
    let stems = golden["stems"].as_object().unwrap();
    assert!(stems.len() > 1000);
    for (word, theirs) in stems {
        assert_eq!(porter::stem(word), theirs.as_str().unwrap(), "{word}");
    }
}

/// Two hundred answers that people rated: the rejected ones against the chosen ones.
#[test]
fn bleu_and_rouge_of_real_answers() {
    let Some(folder) = skip::outside("bleu_and_rouge_of_real_answers", "ASFT_DATA", "data") else { return };
    let golden = golden();
    let text = std::fs::read_to_string(folder.join(golden["data"]["name"].as_str().unwrap())).unwrap();
    let last_turn = |value: &Value| {
        let text = value.as_str().unwrap();
        text.rsplit_once("\n\nAssistant: ").map_or(text, |(_, turn)| turn).to_owned()
    };
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let pairs: Vec<_> = rows.map(|row| (last_turn(&row["rejected"]), last_turn(&row["chosen"]))).collect();
    let (ours, theirs) = (corpus(&pairs).score(), golden["data"]["bleu"].as_f64().unwrap());
    assert!((ours - theirs).abs() < CLOSE, "{ours} {theirs}");
    check_rouge(&pairs, &golden["data"]["rouge"]);
}

/// Six hundred texts out of pieces that could mislead, with what Python finds in them (`golden/make_judge.py`).
#[test]
fn scores_are_found_where_fastchat_finds_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval/golden/judge.json");
    let cases: Vec<(String, Option<f64>, Option<char>)> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (text, score, winner) in &cases {
        assert_eq!(verdict::rating(text), *score, "{text:?}");
        let letter = verdict::winner(text).map(|verdict| match verdict {
            Verdict::A => 'A',
            Verdict::B => 'B',
            Verdict::Tie => 'C',
        });
        assert_eq!(letter, *winner, "{text:?}");
    }
    assert!(cases.iter().filter(|(_, score, _)| score.is_some()).count() > 100);
}
