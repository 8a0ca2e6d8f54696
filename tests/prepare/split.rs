use std::collections::HashSet;

use asft::data::LoadConfig;
use asft::prepare::{HeldOut, Output, PrepareError, SplitConfig, split};
use asft::progress::Silent;
use serde_json::{Value, json};

use crate::Files;
use crate::fixture::{bare_encoder, config, words};

fn settings(files: &Files, held_out: HeldOut, seed: u64) -> SplitConfig {
    SplitConfig { held_out, output: Output { path: files.path("test.jsonl"), overwrite: true }, seed }
}

/// Both files as text.
fn halves(files: &Files, held_out: HeldOut, seed: u64) -> (Vec<Value>, Vec<Value>) {
    split(&files.task(), &settings(files, held_out, seed), &mut Silent).unwrap();
    (files.rows("out.jsonl"), files.rows("test.jsonl"))
}

/// 100 rows of 50 prompts that come once to three times.
fn many() -> Vec<Value> {
    let prompt = |row: usize| row * row % 50;
    (0..100).map(|row| json!({"prompt": format!("p{}", prompt(row)), "chosen": format!(" {row}"), "rejected": " x"})).collect()
}

#[test]
fn no_prompt_is_in_both_and_no_row_is_lost() {
    let rows = many();
    let files = Files::new(&rows);
    for (held_out, seed) in [(HeldOut::Fraction(0.2), 0), (HeldOut::Fraction(0.2), 1), (HeldOut::Rows(37), 0)]
    {
        let (train, test) = halves(&files, held_out, seed);
        let expected = if matches!(held_out, HeldOut::Rows(_)) { 37 } else { 20 };
        // Prompts with several rows need not fit exactly.
        assert!(test.len() <= expected && test.len() + 6 > expected, "{}", test.len());
        let prompts =
            |rows: &[Value]| rows.iter().map(|row| row["prompt"].to_string()).collect::<HashSet<_>>();
        assert!(prompts(&train).is_disjoint(&prompts(&test)));
        // Each in the order of the file, and together all of it.
        let place = |row: &Value| rows.iter().position(|other| other == row).unwrap();
        for part in [&train, &test] {
            assert!(part.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
        }
        let mut all: Vec<usize> = train.iter().chain(&test).map(place).collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let files = Files::new(&many());
    let first = halves(&files, HeldOut::Fraction(0.1), 5);
    assert_eq!(halves(&files, HeldOut::Fraction(0.1), 5), first);
    assert_ne!(halves(&files, HeldOut::Fraction(0.1), 6), first);
}

#[test]
fn it_holds_out_what_the_evaluation_split_would() {
    let rows: Vec<Value> = (0..40u32)
        .map(|row| json!({"prompt_input_ids": [row % 30], "chosen_input_ids": [row], "rejected_input_ids": [1]}))
        .collect();
    let files = Files::new(&rows);
    let data =
        LoadConfig::whole(&[files.path("in.jsonl")]).load(&bare_encoder(config()), &mut Silent).unwrap();
    let (_, eval) = data.split(0.25, 9).unwrap();
    let (_, test) = halves(&files, HeldOut::Fraction(0.25), 9);
    let chosen: Vec<_> =
        test.iter().map(|row| row["chosen_input_ids"][0].as_u64().unwrap() as usize).collect();
    assert_eq!(chosen, eval.groups.iter().map(|group| group.row).collect::<Vec<_>>());
}

#[test]
fn prompts_are_those_that_training_finds() {
    let transcript = |first: &str, answer: &str| format!("\n\nHuman: {first}\n\nAssistant: {answer}");
    let hh = |first: &str, answer: usize| json!({"chosen": transcript(first, &answer.to_string()), "rejected": transcript(first, "no")});
    let rows: Vec<Value> = (0..12).map(|row| hh(["a", "b", "c"][row % 3], row)).collect();
    let (train, test) = halves(&Files::new(&rows), HeldOut::Rows(4), 0);
    assert_eq!((train.len(), test.len()), (8, 4));
    let asked = |row: &Value| row["chosen"].as_str().unwrap().chars().nth(9).unwrap();
    assert!(test.iter().all(|row| asked(row) == asked(&test[0])));
    assert!(train.iter().all(|row| asked(row) != asked(&test[0])));
    // Conversations that share no message, and texts that are no transcripts, have no prompt to share.
    let strange: Vec<Value> =
        (0..10).map(|row| json!({"chosen": format!("{row}"), "rejected": "x"})).collect();
    let mut rows = vec![hh("a", 0)];
    rows.extend(strange);
    let (train, test) = halves(&Files::new(&rows), HeldOut::Rows(5), 0);
    assert_eq!((train.len(), test.len()), (6, 5));
    // Prompts alone.
    let rows: Vec<Value> =
        (0..6).map(|row| json!({"prompt": if row % 2 == 0 { "p" } else { "q" }, "id": row})).collect();
    let (train, test) = halves(&Files::new(&rows), HeldOut::Fraction(0.5), 0);
    assert!(train.iter().all(|row| row["prompt"] == train[0]["prompt"]) && test.len() == 3);
}

#[test]
fn too_few_prompts_are_refused_and_nothing_is_written() {
    let files = Files::new(&vec![json!({"prompt": "p", "chosen": "a", "rejected": "b"}); 4]);
    let run = |held_out| split(&files.task(), &settings(&files, held_out, 0), &mut Silent);
    let error = run(HeldOut::Fraction(0.5)).unwrap_err();
    assert_eq!(
        words(&error),
        "cannot hold out 2 of 4 rows with 1 distinct prompts and keep any (rows with one prompt stay together)"
    );
    assert!(error.is_usage());
    let files = Files::new(&many());
    let run = |held_out| split(&files.task(), &settings(&files, held_out, 0), &mut Silent);
    assert!(matches!(run(HeldOut::Rows(100)), Err(PrepareError::SplitTooSmall { .. })));
    assert!(!files.path("out.jsonl").exists() && !files.path("test.jsonl").exists());
    // Neither file is replaced unasked.
    std::fs::write(files.path("test.jsonl"), "mine").unwrap();
    let mut config = settings(&files, HeldOut::Rows(5), 0);
    config.output.overwrite = false;
    let error = split(&files.task(), &config, &mut Silent).unwrap_err();
    assert!(matches!(error, PrepareError::Exists { .. }));
    assert!(!files.path("out.jsonl").exists());
}
