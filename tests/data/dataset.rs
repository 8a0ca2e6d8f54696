//! Whole files: reports, line numbers in errors, scoring, fingerprints, the evaluation split.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use asft::data::report::Kinds;
use asft::data::{
    DataError, Dataset, EncodeConfig, LoadReport, Numbering, Place, Reason, Role, Skipped, load, load_rows,
};
use asft::progress::Silent;

use crate::fixture::{bare_encoder, config, encoder, file, group};

fn tokens(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> String {
    format!(
        r#"{{"prompt_input_ids":{prompt:?},"chosen_input_ids":{chosen:?},"rejected_input_ids":{rejected:?}}}"#
    )
}

fn line(path: &Path, number: usize) -> Place {
    Place::new(path, Numbering::Lines, number)
}

fn refused(lines: &[&str], config: EncodeConfig) -> String {
    let (folder, path) = file(lines);
    let error = load(&[path], &encoder("llama3", config)).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

const TEXT: &str = r#"{"prompt":"Hello","chosen":" world","rejected":" dog"}"#;

#[test]
fn a_file_is_loaded_in_order_and_reported() {
    let chat = r#"{"prompt":[{"role":"user","content":"Hello"}],"chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]}"#;
    let long = tokens(&[1; 38], &[2, 3, 4], &[2]);
    let (_texts, texts) = file(&[TEXT, "", r#"{"prompt":"p","chosen":"","rejected":"r"}"#]);
    let (_chats, chats) = file(&[chat]);
    let (_tokens, path) = file(&[&long, "", &tokens(&[1; 40], &[2], &[3]), &tokens(&[7], &[8], &[8])]);
    let bounded = EncodeConfig { max_length: Some(40), eos_ids: vec![4], ..config() };
    let files = [texts.clone(), chats, path.clone()];
    let dataset = load(&files, &encoder("llama3", bounded)).unwrap();
    let rows: Vec<_> = dataset.groups.iter().map(|group| group.row).collect();
    assert_eq!(rows, [0, 2, 3, 5]);
    let report = &dataset.report;
    assert_eq!(report.rows, 6);
    assert_eq!(report.kinds, Kinds { text: 2, conversation: 1, tokens: 3 });
    assert_eq!(
        report.dropped,
        [
            Skipped { row: 1, line: 3, reason: Reason::Empty(Role::Chosen) },
            Skipped { row: 4, line: 3, reason: Reason::PromptTooLong },
        ]
    );
    let (texts, tokens) = (texts.display(), path.display());
    let summary =
        format!("1 empty chosen (line {texts}:3); 1 prompt of max-length or more (line {tokens}:3)");
    assert_eq!(report.dropped_summary(), summary);
    let shapes: Vec<String> =
        report.files.iter().map(|file| file.shape.as_ref().unwrap().shape.to_string()).collect();
    let expected = ["strings", "message lists"].map(|kind| format!("prompt, chosen, rejected as {kind}"));
    assert_eq!(shapes[..2], expected);
    assert_eq!(shapes[2], "prompt_input_ids, chosen_input_ids, rejected_input_ids as token ids");
    assert_eq!((report.truncated_answers, report.lost_ends, report.identical_answers), (1, 1, 1));
    assert_eq!(report.moved_splits, 0);
    assert_eq!(report.longest, 40);
    assert_eq!(report.locate(4), Some(line(&path, 3)));
    assert_eq!(report.locate(6), None);
    assert_eq!(LoadReport::default().locate(0), None);
}

#[test]
fn more_rows_than_a_chunk_stay_in_order() {
    let lines: Vec<String> =
        (0..5000u32).map(|row| tokens(&[row % 420], &[row % 419, 1], &[row % 7])).collect();
    let (_folder, path) = file(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let load = || load(std::slice::from_ref(&path), &bare_encoder(config())).unwrap();
    let dataset = load();
    assert_eq!(dataset.groups.len(), 5000);
    for (row, found) in dataset.groups.iter().enumerate() {
        let id = row as u32;
        assert_eq!(*found, group(row, &[id % 420], &[id % 419, 1], &[id % 7]));
    }
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(load);
    assert_eq!(one_thread.groups, dataset.groups);
    assert_eq!(one_thread.report, dataset.report);
    assert_eq!(one_thread.fingerprint, dataset.fingerprint);
}

#[test]
fn rows_go_on_counting_from_file_to_file() {
    let (_first, first) = file(&[TEXT, "", TEXT]);
    let (_second, second) = file(&["", TEXT, r#"{"prompt":"p","chosen":"c","rejected":""}"#]);
    let dataset = load(&[first.clone(), second.clone()], &encoder("llama3", config())).unwrap();
    let rows: Vec<_> = dataset.groups.iter().map(|group| group.row).collect();
    assert_eq!(rows, [0, 1, 2]);
    assert_eq!(dataset.report.locate(1), Some(line(&first, 3)));
    assert_eq!(dataset.report.locate(2), Some(line(&second, 2)));
    assert_eq!(dataset.report.dropped_summary(), format!("1 empty rejected (line {}:3)", second.display()));
}

#[test]
fn the_first_wrong_row_is_named_with_file_and_line() {
    let missing = r#"{"prompt":"p","chosen":"c"}"#;
    assert_eq!(
        refused(&[TEXT, "", missing], config()),
        "train.jsonl:3: column \"rejected\" is missing; the row has prompt, chosen"
    );
    // The earlier line is named although the later one fails earlier.
    assert_eq!(
        refused(&[TEXT, missing, "{"], config()),
        "train.jsonl:2: column \"rejected\" is missing; the row has prompt, chosen"
    );
    assert_eq!(
        refused(&[TEXT, TEXT, "{"], config()),
        "train.jsonl:3: malformed JSON: EOF while parsing an object (column 1); \
         each line must hold one whole JSON object"
    );
    assert_eq!(
        refused(&[&tokens(&[1], &[2], &[3]), &tokens(&[1], &[9, 500], &[3])], config()),
        "train.jsonl:2: column \"chosen_input_ids\" has token id 500 at position 1, \
         but the model's vocabulary has 420 tokens (0 to 419)"
    );
}

#[test]
fn nothing_usable_is_an_error() {
    assert_eq!(refused(&["", " "], config()), "no rows in train.jsonl");
    let empty = r#"{"prompt":"p","chosen":"","rejected":"r"}"#;
    assert_eq!(
        refused(&[empty, "", empty, empty, empty, empty, empty], config()),
        "none of the 6 rows of train.jsonl can be used: 6 empty chosen (lines 1, 3, 4, 5, 6, ...)"
    );
}

#[test]
fn scoring_reports_every_row_in_order() {
    let (_folder, path) = file(&[TEXT, r#"{"prompt":"p","chosen":"","rejected":"r"}"#, "", TEXT]);
    let (rows, report) = load_rows(&path, &encoder("llama3", config()), &mut Silent).unwrap();
    assert_eq!(report.rows, rows.len());
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].as_ref().unwrap().row, 0);
    let skipped = rows[1].as_ref().unwrap_err();
    assert_eq!((skipped.row, skipped.line, skipped.reason.to_string().as_str()), (1, 2, "empty chosen"));
    assert_eq!(rows[2].as_ref().unwrap().row, 2);
    let (_folder, empty) = file(&[]);
    assert_eq!(load_rows(&empty, &encoder("llama3", config()), &mut Silent).unwrap().0, []);
    assert!(load_rows(&PathBuf::from("no/such.jsonl"), &encoder("llama3", config()), &mut Silent).is_err());
}

#[test]
fn the_fingerprint_is_of_the_tokens_and_their_borders() {
    let print = |groups: Vec<_>| Dataset::new(groups, LoadReport::default()).fingerprint;
    let of =
        |prompt: &[u32], chosen: &[u32], rejected: &[u32]| print(vec![group(0, prompt, chosen, rejected)]);
    let base = of(&[1, 2], &[3], &[4]);
    assert_eq!(base, of(&[1, 2], &[3], &[4]));
    assert_eq!(base, print(vec![group(9, &[1, 2], &[3], &[4])]), "the row is not data");
    let others = [
        of(&[1], &[2, 3], &[4]),
        of(&[1, 2], &[3, 4], &[]),
        of(&[1, 2], &[4], &[3]),
        of(&[1, 2], &[3], &[5]),
    ];
    assert!(others.iter().all(|other| *other != base), "{others:?}");
    let two = |a, b| print(vec![group(0, &[a], &[1], &[1]), group(1, &[b], &[1], &[1])]);
    assert_ne!(two(1, 2), two(2, 1));
    // Computed with the Python package xxhash 4.1 over the documented layout.
    assert_eq!(base, REFERENCE);
}

#[test]
fn the_fingerprint_is_of_the_masks_too() {
    let print = |mask: Option<&[bool]>| {
        let mut group = group(0, &[1, 2], &[3, 4], &[4]);
        group.answers[0].scored = mask.map(<[bool]>::to_vec);
        Dataset::new(vec![group], LoadReport::default()).fingerprint
    };
    assert_eq!(print(None), print(Some(&[true, true])), "a mask of every token is none");
    let masked = [print(None), print(Some(&[false, true])), print(Some(&[true, false]))];
    assert!(masked[0] != masked[1] && masked[1] != masked[2] && masked[2] != masked[0]);
    // As above, of 2,1,2, 2,0,0, 2,0,1, 2,3,4, 1,1, 1,4: a masked answer's role has a 0 beside it and the mask after it.
    assert_eq!(masked[1], 0x3b40_f9a4_6af3_17c4);
}

/// `xxhash.xxh3_64_intdigest` of 2,1,2, 1,0, 1,3, 1,1, 1,4: lengths as u64, ids and roles as u32, little-endian.
const REFERENCE: u64 = 0xa2a3_592a_4fb9_0c68;

fn many(prompts: u32, answers: usize) -> Dataset {
    let groups = (0..prompts).flat_map(|prompt| (0..answers).map(move |n| (prompt, n)));
    let groups =
        groups.enumerate().map(|(row, (prompt, n))| group(row, &[prompt], &[n as u32], &[7])).collect();
    Dataset::new(groups, LoadReport::default())
}

#[test]
fn a_split_is_disjoint_deterministic_and_keeps_prompts_together() {
    for (prompts, answers, fraction, expected) in
        [(100, 1, 0.1, 10), (50, 3, 0.1, 15), (1000, 1, 0.0001, 1), (3, 4, 0.1, 4)]
    {
        let (train, eval) = many(prompts, answers).split(fraction, 7).unwrap();
        assert_eq!(eval.groups.len(), expected, "{prompts} x {answers}");
        assert_eq!(train.groups.len() + eval.groups.len(), prompts as usize * answers);
        let prompts_of =
            |side: &Dataset| side.groups.iter().map(|g| g.prompt.clone()).collect::<HashSet<_>>();
        assert!(prompts_of(&train).is_disjoint(&prompts_of(&eval)));
        for side in [&train, &eval] {
            assert!(side.groups.is_sorted_by(|a, b| a.row < b.row));
            assert_eq!(
                side.fingerprint,
                Dataset::new(side.groups.clone(), LoadReport::default()).fingerprint
            );
        }
        assert_eq!(many(prompts, answers).split(fraction, 7).unwrap().1.groups, eval.groups);
    }
    let held_out = |seed| many(100, 1).split(0.1, seed).unwrap().1.groups;
    assert_ne!(held_out(7), held_out(8));
}

#[test]
fn a_prompt_with_many_rows_does_not_swell_the_split() {
    // One prompt has 50 of the 100 rows: a tenth is ten of the others, whatever the seed.
    let groups: Vec<_> =
        (0..100).map(|row| group(row, &[(row as u32).saturating_sub(49)], &[1], &[2])).collect();
    for seed in 0..20 {
        let data = Dataset::new(groups.clone(), LoadReport::default());
        assert_eq!(data.split(0.1, seed).unwrap().1.groups.len(), 10, "seed {seed}");
    }
}

#[test]
fn impossible_splits_are_refused() {
    for fraction in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(matches!(many(9, 1).split(fraction, 0), Err(DataError::SplitFraction { .. })), "{fraction}");
    }
    assert_eq!(
        many(1, 5).split(0.2, 0).unwrap_err().to_string(),
        "cannot hold out 0.2 of 5 rows with 1 distinct prompts and keep any to train on \
         (rows with one prompt stay together); give a separate evaluation file instead"
    );
    assert!(many(1, 1).split(0.5, 0).is_err());
}
