use asft::data::{ColumnMap, Encoded, Encoder, Group, Numbering, Row};
use asft::prepare::{PrepareError, extract_prompt};
use asft::progress::Silent;
use serde_json::{Value, json};

use crate::fixture::{config, encoder, words};
use crate::{Files, rows, task};

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn group(encoder: &Encoder, row: &Value) -> Group {
    let row = Row { index: 0, line: 1, columns: row.as_object().unwrap().clone() };
    let shape = encoder.shape(&row, Numbering::Lines).unwrap();
    match encoder.encode_row(&shape, 0, &row).unwrap() {
        Encoded::Group(group, _) => group,
        Encoded::Unusable(reason) => panic!("unusable: {reason}: {row:?}"),
    }
}

/// A row of every shape of docs/data.md, and what it is called when its prompt is explicit.
fn shapes() -> Vec<(Value, Value)> {
    let (ask, answer, worse) =
        (turn("user", "What?"), turn("assistant", "Paris."), turn("assistant", "The dog."));
    let system = turn("system", "Be brief.");
    let more = [turn("user", "And the fox?"), turn("assistant", "It jumps.")];
    let pair = json!({"prompt": [ask], "chosen": [answer], "rejected": [worse]});
    vec![
        (
            json!({"prompt": "Hello", "chosen": " world", "rejected": " dog"}),
            json!({"prompt": "Hello", "chosen": " world", "rejected": " dog"}),
        ),
        (pair.clone(), pair.clone()),
        (json!({"chosen": [ask, answer], "rejected": [ask, worse]}), pair.clone()),
        (json!({"prompt": "What?", "chosen": [ask, answer], "rejected": [ask, worse]}), pair.clone()),
        (
            json!({"chosen": [system, ask, answer, more[0], more[1]], "rejected": [system, ask, worse, more[0], answer]}),
            json!({"prompt": [system, ask], "chosen": [answer, more[0], more[1]], "rejected": [worse, more[0], answer]}),
        ),
        (
            json!({"chosen": [ask, answer], "rejected": [more[0], worse]}),
            json!({"prompt": [], "chosen": [ask, answer], "rejected": [more[0], worse]}),
        ),
        (
            json!({"chosen": "\n\nHuman: What?\n\nAssistant: Paris.", "rejected": "\n\nHuman: What?\n\nAssistant: The dog."}),
            pair.clone(),
        ),
        (
            json!({"chosen": "The fox jumps.", "rejected": "The fox is lazy."}),
            json!({"prompt": "The fox", "chosen": " jumps.", "rejected": " is lazy."}),
        ),
        (
            json!({"prompt_input_ids": [1, 2], "chosen_input_ids": [3, 4], "rejected_input_ids": [5]}),
            json!({"prompt_input_ids": [1, 2], "chosen_input_ids": [3, 4], "rejected_input_ids": [5]}),
        ),
        (
            json!({"messages": [system, ask, answer, more[0], more[1]]}),
            json!({"prompt": [system, ask], "completion": [answer, more[0], more[1]]}),
        ),
        (
            json!({"prompt": "Hello", "completion": " world"}),
            json!({"prompt": "Hello", "completion": " world"}),
        ),
        (json!({"prompt": "Hello", "chosen": " world"}), json!({"prompt": "Hello", "chosen": " world"})),
        (json!({"chosen": [ask, answer]}), json!({"prompt": [ask], "chosen": [answer]})),
        (
            json!({"chosen": "\n\nHuman: What?\n\nAssistant: Paris."}),
            json!({"prompt": [ask], "chosen": [answer]}),
        ),
    ]
}

#[test]
fn every_shape_gives_the_tokens_it_gave() {
    let mut unbounded = config();
    unbounded.vocab_size = 1000;
    let encoder = encoder("llama3", unbounded);
    for (row, expected) in shapes() {
        let files = Files::new(std::slice::from_ref(&row));
        let report = extract_prompt(&files.task(), &mut Silent).unwrap();
        assert_eq!((report.read, report.all_dropped()), (1, 0));
        let made = files.rows("out.jsonl");
        assert_eq!(made, [expected]);
        assert_eq!(group(&encoder, &made[0]), group(&encoder, &row), "{row}");
        // Once is enough.
        let again = files.path("again.jsonl");
        extract_prompt(&task(&files.path("out.jsonl"), &again), &mut Silent).unwrap();
        assert_eq!(rows(&again), made);
    }
}

#[test]
fn other_columns_stay_and_mapped_ones_get_their_names() {
    let row = json!({"id": 7, "question": "Q:", "prompt": "another", "better": "A b", "worse": "A c", "tools": [], "none": null});
    let files = Files::new(&[row.clone(), row]);
    let mut task = files.task();
    task.columns = ColumnMap::new(["prompt=question", "chosen=better", "rejected=worse"]).unwrap();
    extract_prompt(&task, &mut Silent).unwrap();
    let text = std::fs::read_to_string(files.path("out.jsonl")).unwrap();
    let line = r#"{"prompt":"Q:","chosen":"A b","rejected":"A c","id":7,"tools":[]}"#;
    assert_eq!(text, format!("{line}\n{line}\n"));
    task.columns = ColumnMap::new(["prompt=asked"]).unwrap();
    let error = extract_prompt(&task, &mut Silent).unwrap_err();
    assert!(words(&error).ends_with(
        "in.jsonl:1: --map prompt=asked: there is no column \"asked\"; the row has id, question, prompt, better, worse, tools"
    ));
    assert!(error.is_usage());
}

#[test]
fn every_form_of_a_file_gives_the_same_bytes() {
    let of = |name: &str| {
        let files = Files::new(&[]);
        let data = crate::fixture::golden().join("../files").join(name);
        extract_prompt(&task(&data, &files.path("out.jsonl")), &mut Silent).unwrap();
        std::fs::read_to_string(files.path("out.jsonl")).unwrap()
    };
    let plain = of("chat.jsonl");
    assert_eq!(plain.lines().count(), 8);
    let mut forms = vec!["chat.json", "chat.jsonl.gz", "chat.jsonl.zst"];
    if cfg!(feature = "parquet") {
        forms.extend(["chat.none.parquet", "chat.zstd.parquet"]);
    }
    let sorted =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    for form in forms {
        match form.ends_with("parquet") {
            false => assert_eq!(of(form), plain, "{form}"),
            // Parquet's columns have an order of their own.
            true => assert_eq!(sorted(&of(form)), sorted(&plain), "{form}"),
        }
    }
}

#[test]
fn what_cannot_be_used_is_counted_or_refused() {
    let human = "\n\nHuman: x";
    let rows = [
        json!({"chosen": format!("{human}\n\nAssistant: y"), "rejected": format!("{human}\n\nAssistant: z")}),
        json!({"chosen": "x", "rejected": human}),
        json!({"chosen": human, "rejected": "x"}),
    ];
    let files = Files::new(&rows);
    let mut task = files.task();
    let report = extract_prompt(&task, &mut Silent).unwrap();
    assert_eq!((report.read, report.all_dropped(), report.written[0].1), (3, 2, 1));
    assert_eq!(report.dropped("not a conversation: rejected does not begin with a turn"), 1);
    task.strict = true;
    let error = extract_prompt(&task, &mut Silent).unwrap_err();
    let said = "2 of 3 rows cannot be used, and --strict allows none: 1 not a conversation: chosen does not begin with a turn (";
    assert!(words(&error).starts_with(said), "{error}");
    assert_eq!(files.rows("out.jsonl").len(), 1, "the file is as it was");
    let none = Files::new(&[]);
    assert!(matches!(
        extract_prompt(&none.task(), &mut Silent),
        Err(PrepareError::Data(asft::data::DataError::Empty { .. }))
    ));
    let unusable = Files::new(&[json!({"chosen": format!("{human}\n\nAssistant:"), "rejected": "x"})]);
    let error = extract_prompt(&unusable.task(), &mut Silent).unwrap_err();
    assert!(words(&error).starts_with("none of the 1 rows of "), "{error}");
    assert!(!unusable.path("out.jsonl").exists());
}
