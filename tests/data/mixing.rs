//! Several files: weights, the first rows only, rows that cannot be used.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use asft::data::{DataError, Dataset, LoadConfig, WeightedFile};
use asft::progress::Silent;
use tempfile::TempDir;

use crate::fixture::bare_encoder;

/// Rows whose prompt is their number, above `first`.
fn write(folder: &Path, name: &str, first: u32, rows: u32) -> PathBuf {
    let row = |n: u32| {
        format!(
            "{{\"prompt_input_ids\":[{}],\"chosen_input_ids\":[1],\"rejected_input_ids\":[2]}}\n",
            first + n
        )
    };
    let path = folder.join(name);
    std::fs::write(&path, (0..rows).map(row).collect::<String>()).unwrap();
    path
}

fn mixture(files: &[(&Path, f64)], seed: u64) -> LoadConfig {
    let files = files.iter().map(|(path, weight)| WeightedFile { path: path.to_path_buf(), weight: *weight });
    LoadConfig { sources: files.collect(), seed, ..LoadConfig::whole(&[]) }
}

fn load(config: &LoadConfig) -> Dataset {
    config.load(&bare_encoder(crate::fixture::config()), &mut Silent).unwrap()
}

fn refused(config: &LoadConfig) -> DataError {
    config.load(&bare_encoder(crate::fixture::config()), &mut Silent).unwrap_err()
}

fn prompts(data: &Dataset) -> Vec<u32> {
    data.groups.iter().map(|group| group.prompt[0]).collect()
}

#[test]
fn a_weight_takes_a_share_of_a_file_and_repeats_it() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (write(folder.path(), "a", 0, 100), write(folder.path(), "b", 200, 10));
    let data = load(&mixture(&[(&a, 0.3), (&b, 2.5)], 1));
    let prompts = prompts(&data);
    let (of_a, of_b) = prompts.split_at(30);
    assert!(of_a.is_sorted_by(|x, y| x < y) && of_a.iter().all(|prompt| *prompt < 100), "{of_a:?}");
    assert_eq!(of_b[..20], [(200..210).collect::<Vec<u32>>(), (200..210).collect()].concat());
    assert_eq!(of_b.len(), 25);
    assert!(of_b[20..].is_sorted_by(|x, y| x < y), "{of_b:?}");
    // Rows keep their place in the files.
    for group in &data.groups {
        let (place, prompt) = (data.report.locate(group.row).unwrap(), group.prompt[0] as usize);
        let expected = if prompt < 200 { (a.clone(), prompt + 1) } else { (b.clone(), prompt - 200 + 1) };
        assert_eq!((place.path, place.number), expected);
    }
    let used: Vec<_> = data.report.files.iter().map(|file| (file.usable, file.weight, file.used)).collect();
    assert_eq!(used, [(100, 0.3, 30), (10, 2.5, 25)]);
    assert_eq!(data.report.rows, 110);
}

#[test]
fn which_rows_are_taken_depends_on_seed_and_content_alone() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (write(folder.path(), "a", 0, 100), write(folder.path(), "b", 200, 100));
    let again = write(folder.path(), "another name", 0, 100);
    let of = |files: &[(&Path, f64)], seed| prompts(&load(&mixture(files, seed)));
    let taken = of(&[(&a, 0.3)], 1);
    assert_eq!(taken, of(&[(&again, 0.3)], 1));
    assert_eq!(taken, of(&[(&b, 0.4), (&a, 0.3)], 1)[40..]);
    assert_ne!(taken, of(&[(&a, 0.3)], 2));
    // Two files of one length are not cut in the same places.
    assert_ne!(taken, of(&[(&b, 0.3)], 1).iter().map(|prompt| prompt - 200).collect::<Vec<_>>());
    // A larger share holds the smaller one.
    let more: HashSet<u32> = of(&[(&a, 0.6)], 1).into_iter().collect();
    assert!(taken.iter().all(|prompt| more.contains(prompt)));
    // A share above one repeats those that a share below one takes.
    let mut counts = BTreeMap::new();
    of(&[(&a, 1.3)], 1).into_iter().for_each(|prompt| *counts.entry(prompt).or_insert(0) += 1);
    let twice: Vec<u32> =
        counts.iter().filter(|(_, count)| **count == 2).map(|(prompt, _)| *prompt).collect();
    assert_eq!((counts.len(), twice), (100, taken));
}

#[test]
fn repeated_rows_are_held_out_once_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (write(folder.path(), "a", 0, 40), write(folder.path(), "b", 200, 60));
    let data = load(&mixture(&[(&a, 3.5), (&b, 1.0)], 5));
    assert_eq!(data.groups.len(), 140 + 60);
    let all: Vec<u32> = prompts(&data);
    let (train, eval) = data.split(0.2, 5).unwrap();
    let (train, eval) = (prompts(&train), prompts(&eval));
    assert_eq!(eval.len(), 20, "a fifth of the 100 rows there are");
    let held_out: HashSet<u32> = eval.iter().copied().collect();
    assert_eq!(held_out.len(), 20);
    assert!(held_out.iter().any(|prompt| *prompt < 40), "none of the repeated file");
    let left: Vec<u32> = all.into_iter().filter(|prompt| !held_out.contains(prompt)).collect();
    assert_eq!(train, left);
}

#[test]
fn the_first_rows_of_each_file() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (write(folder.path(), "a", 0, 3000), write(folder.path(), "b", 200, 5));
    let mut text = std::fs::read_to_string(&b).unwrap();
    text.push_str("nothing that anybody could read\n");
    std::fs::write(&b, text).unwrap();
    let first = |rows| LoadConfig { max_rows: Some(rows), ..mixture(&[(&a, 1.0), (&b, 1.0)], 0) };
    // Prompts above 420 are beyond the vocabulary: they are not read either.
    for rows in [1, 5] {
        let data = load(&first(rows));
        let expected: Vec<u32> = (0..rows as u32).chain(200..200 + rows as u32).collect();
        assert_eq!(prompts(&data), expected);
        assert_eq!(data.report.rows, 2 * rows);
    }
    assert!(
        matches!(refused(&first(6)), DataError::Row { place, .. } if place.path == b && place.number == 6)
    );
}

const GOOD: &str = "{\"prompt_input_ids\":[1],\"chosen_input_ids\":[1],\"rejected_input_ids\":[2]}\n";
const NO_PROMPT: &str = "{\"prompt_input_ids\":[],\"chosen_input_ids\":[1],\"rejected_input_ids\":[2]}\n";
const NO_ANSWER: &str = "{\"prompt_input_ids\":[1],\"chosen_input_ids\":[1],\"rejected_input_ids\":[]}\n";

#[test]
fn unusable_rows_are_told_by_reason_and_place() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let a = file("a", [&GOOD.repeat(60), NO_ANSWER, NO_PROMPT, NO_PROMPT].concat());
    let b = file("b", [NO_PROMPT.repeat(5), GOOD.repeat(60)].concat());
    let data = load(&mixture(&[(&a, 1.0), (&b, 0.5)], 0));
    let shown = |lines: Vec<String>| -> Vec<String> {
        let folder = format!("{}/", folder.path().display());
        lines.into_iter().map(|line| line.replace(&folder, "")).collect()
    };
    assert_eq!(
        shown(data.report.dropped_lines("training data")),
        [
            "training data: 8 of 128 rows dropped (6.2%):",
            "  7 empty prompt: a:62, a:63, b:1, b:2, b:3, ...",
            "  1 empty rejected: a:61",
        ]
    );
    assert_eq!(
        shown(data.report.table()),
        [
            "  rows  usable  weight  per epoch  file",
            "    63      60       1         60  a",
            "    65      60     0.5         30  b"
        ]
    );
    // One file, all of it: nothing that the totals do not say.
    let alone = load(&mixture(&[(&a, 1.0)], 0));
    assert_eq!(alone.report.table(), [] as [&str; 0]);
    let strict = LoadConfig { strict: true, ..mixture(&[(&a, 1.0), (&b, 1.0)], 0) };
    assert_eq!(
        shown(vec![refused(&strict).to_string()]),
        [
            "8 of 128 rows cannot be used, and --strict allows none: 7 empty prompt (lines a:62, a:63, b:1, b:2, b:3, ...); \
          1 empty rejected (line a:61)"
        ]
    );
    let clean = file("clean", GOOD.to_owned());
    assert_eq!(load(&LoadConfig { strict: true, ..mixture(&[(&clean, 1.0)], 0) }).groups.len(), 1);

    let much = file("much", [NO_ANSWER.repeat(2), GOOD.repeat(15)].concat());
    let lines = shown(load(&mixture(&[(&much, 1.0)], 0)).report.dropped_lines("training data"));
    assert_eq!(
        lines.last().map(String::as_str),
        Some(
            "training data: 12% of the rows are not used! are these the columns that were meant?; --strict stops at any such row"
        )
    );
    let tenth = file("tenth", [NO_ANSWER.to_owned(), GOOD.repeat(9)].concat());
    let strict = LoadConfig { strict: true, ..mixture(&[(&tenth, 1.0)], 0) };
    assert!(refused(&strict).to_string().starts_with("1 of 10 rows cannot be used"), "one is enough");
    assert_eq!(
        load(&mixture(&[(&tenth, 1.0)], 0)).report.dropped_lines("x").len(),
        2,
        "a tenth is not over a tenth"
    );
}

#[test]
fn a_file_that_gives_nothing_is_refused_also_beside_others() {
    let folder = TempDir::new().unwrap();
    let good = write(folder.path(), "good", 0, 3);
    for (text, message) in [
        (String::new(), "no rows in empty"),
        (NO_PROMPT.repeat(2), "none of the 2 rows of empty can be used: 2 empty prompt (lines 1, 2)"),
    ] {
        let empty = folder.path().join("empty");
        std::fs::write(&empty, text).unwrap();
        let error = refused(&mixture(&[(&good, 1.0), (&empty, 1.0)], 0)).to_string();
        assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), message);
    }
}
