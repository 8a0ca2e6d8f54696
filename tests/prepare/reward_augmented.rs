use asft::prepare::{GoalConfig, GoalPlace, Scale, reward_augmented};
use asft::progress::Silent;
use serde_json::{Value, json};

use crate::Files;
use crate::fixture::words;

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn config() -> GoalConfig {
    GoalConfig { wording: "{score} of {min} to {max}".to_owned(), ..GoalConfig::default() }
}

fn made(rows: &[Value], config: &GoalConfig) -> Vec<Value> {
    let files = Files::new(rows);
    reward_augmented(&files.task(), config, &mut Silent).unwrap();
    files.rows("out.jsonl")
}

fn refused(row: Value, config: &GoalConfig) -> String {
    let files = Files::new(&[row]);
    words(&reward_augmented(&files.task(), config, &mut Silent).unwrap_err())
}

#[test]
fn a_pair_becomes_two_with_opposite_answers() {
    let (ask, good, bad) = (turn("user", "q"), turn("assistant", "good"), turn("assistant", "bad"));
    let row = json!({"id": 3, "chosen": [ask, good], "rejected": [ask, bad], "score_chosen": 8.5, "score_rejected": 3});
    let goal = |score: &str| turn("system", &format!("{score} of 1 to 10"));
    let expected = [
        json!({
            "prompt": [goal("8.5"), ask], "chosen": [good], "rejected": [bad], "id": 3,
            "score_chosen": 8.5, "score_rejected": 3,
        }),
        json!({
            "prompt": [goal("3"), ask], "chosen": [bad], "rejected": [good], "id": 3,
            "score_chosen": 3, "score_rejected": 8.5,
        }),
    ];
    assert_eq!(made(std::slice::from_ref(&row), &config()), expected);
    // Transcripts are conversations; text has the goal as a paragraph of its own.
    let transcript = json!({
        "chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad", "id": 3,
        "score_chosen": 8.5, "score_rejected": 3,
    });
    assert_eq!(made(&[transcript], &config()), expected);
    let text = made(
        &[json!({"prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": 2, "score_rejected": 1.125})],
        &config(),
    );
    assert_eq!(text[0]["prompt"], "2 of 1 to 10\n\nq");
    assert_eq!(text[1]["prompt"], "1.12 of 1 to 10\n\nq");
    assert_eq!((&text[1]["chosen"], &text[1]["rejected"]), (&json!("r"), &json!("c")));
}

#[test]
fn the_goal_stands_before_what_the_system_says_or_the_user() {
    let row = |prompt: Value| {
        let answers = ["good", "bad"].map(|words| json!([turn("assistant", words)]));
        json!({"prompt": prompt, "chosen": answers[0], "rejected": answers[1], "score_chosen": 2, "score_rejected": 1})
    };
    let system = row(json!([turn("system", "Be brief."), turn("user", "q")]));
    let rows = made(std::slice::from_ref(&system), &config());
    assert_eq!(rows[0]["prompt"], json!([turn("system", "2 of 1 to 10\n\nBe brief."), turn("user", "q")]));
    assert_eq!(rows[1]["prompt"][0]["content"], "1 of 1 to 10\n\nBe brief.");
    let place = GoalPlace::Prompt;
    let rows = made(&[system], &GoalConfig { place, ..config() });
    assert_eq!(rows[0]["prompt"], json!([turn("system", "Be brief."), turn("user", "2 of 1 to 10\n\nq")]));
    assert_eq!(rows[1]["prompt"][1]["content"], "1 of 1 to 10\n\nq");
    // The released code exchanges no answers in this branch.
    assert_eq!(rows[1]["chosen"][0]["content"], "bad");
    let unasked = [row(json!([turn("system", "Be brief.")])), row(json!([turn("user", "q")]))];
    let files = Files::new(&unasked);
    let report = reward_augmented(&files.task(), &GoalConfig { place, ..config() }, &mut Silent).unwrap();
    assert_eq!(report.dropped("no message of the user's to put the goal in front of"), 1);
}

#[test]
fn what_belongs_to_the_old_prompt_is_left_out() {
    let row = json!({
        "prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": 2, "score_rejected": 1, "tools": [1],
        "ref_chosen_logps": -1, "ref_rejected_logps": -2, "chosen_weights": [1], "rejected_weights": [0],
        "prompt_embedding": [1], "soft_label": 0.9,
    });
    for row in made(&[row], &config()) {
        let names: Vec<_> = row.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["prompt", "chosen", "rejected", "score_chosen", "score_rejected", "tools"]);
    }
}

#[test]
fn reversed_pairs_go_and_ties_are_told() {
    let row = |chosen: f64, rejected: f64| json!({"prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": chosen, "score_rejected": rejected});
    let files = Files::new(&[row(5.0, 5.0), row(4.0, 5.0), row(5.0, 4.0)]);
    let run = |config: GoalConfig| reward_augmented(&files.task(), &config, &mut Silent).unwrap();
    let report = run(config());
    assert_eq!((report.written[0].1, report.dropped("rejected scored above chosen")), (4, 1));
    assert_eq!(report.notes[0].0, 1);
    let report = run(GoalConfig { keep_reversed: true, ..config() });
    assert_eq!(report.written[0].1, 6);
    let report = run(GoalConfig { drop_ties: true, ..config() });
    assert_eq!((report.written[0].1, report.dropped("both answers have one score")), (2, 1));
}

#[test]
fn scores_are_mapped_from_their_scale_and_checked_against_it() {
    let row = |chosen: Value| json!({"prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": chosen, "score_rejected": 0});
    let from = GoalConfig { from: Some(Scale { min: -1.0, max: 1.0 }), decimals: 1, ..config() };
    let rows = made(&[row(json!(0.5))], &from);
    assert_eq!([&rows[0]["prompt"], &rows[1]["prompt"]], ["7.8 of 1 to 10\n\nq", "5.5 of 1 to 10\n\nq"]);
    assert_eq!(rows[0]["score_chosen"], 0.5, "the columns keep their scale");
    let none = GoalConfig { scale: Scale { min: 0.0, max: 100.0 }, decimals: 0, ..config() };
    assert_eq!(made(&[row(json!(100))], &none)[0]["prompt"], "100 of 0 to 100\n\nq", "not 1");
    let expected =
        "expected a number on the scale (--scale MIN:MAX, or --from-scale if the data have another)";
    let beyond = refused(row(json!(1)), &config());
    assert!(
        beyond.ends_with(&format!("in.jsonl:1: column \"score_rejected\" holds 0; {expected}")),
        "{beyond}"
    );
    let beyond = refused(row(json!(1.5)), &from);
    assert!(beyond.ends_with(&format!("column \"score_chosen\" holds 1.5; {expected}")), "{beyond}");
    let mistyped = refused(row(json!("8")), &none);
    assert!(mistyped.contains("column \"score_chosen\" holds \"8\""), "{mistyped}");
    let missing = refused(json!({"prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": 1}), &none);
    assert!(missing.contains("column \"score_rejected\" is missing"), "{missing}");
    let ids = json!({"prompt_input_ids": [1], "chosen_input_ids": [2], "rejected_input_ids": [3], "score_chosen": 2, "score_rejected": 1});
    let ids = refused(ids, &config());
    assert!(ids.ends_with("column \"prompt_input_ids\" holds token ids; expected text or messages, which a goal can be put in front of"), "{ids}");
}
