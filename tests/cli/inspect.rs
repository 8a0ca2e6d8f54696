use serde_json::{Value, json};

use crate::golden::{done, repository, typed};
use crate::shell::Shell;

/// Plain text, a row without an answer, a prompt that is too long; in a second file a conversation that
/// `--max-length 20` cuts.
fn folder() -> Shell {
    let shell = Shell::new();
    let message = |role: &str, content: &str| json!([{ "role": role, "content": content }]);
    let rows = [
        json!({ "prompt": "Hello", "chosen": " world", "rejected": "\t\u{1b}[31m🦙" }),
        json!({ "prompt": "Hello", "chosen": "", "rejected": " world" }),
        json!({ "prompt": "Hello".repeat(20), "chosen": "a", "rejected": "b" }),
    ];
    shell.write("pairs.jsonl", rows.map(|row| row.to_string() + "\n").concat());
    let conversation = json!({
        "prompt": message("user", "What is the capital of France?"),
        "chosen": message("assistant", "Paris.\n\nIt is"),
        "rejected": message("assistant", "The dog"),
        "source": "made up",
    });
    shell.write("chat.jsonl", conversation.to_string());
    shell
}

fn inspect(more: &str) -> String {
    let tokenizer = repository("tests/data/golden/folder");
    format!("inspect --tokenizer {tokenizer} --data pairs.jsonl --data chat.jsonl --no-cache {more}")
}

const ROWS: &str = "\
│ border of two tokens   «...» special token   ↵ line break   ⇥ tab   … part of the next character
scored: the model learns to write it   unscored: it only reads it   cut: beyond --max-length

pairs.jsonl: prompt, chosen, rejected as strings; columns used: prompt, chosen, rejected

pairs.jsonl:1 (row 0): tokens: prompt 2, chosen 2, rejected 11
  prompt     unscored  «<|begin_of_text|>»│Hello
  chosen     scored     world│«<|eot_id|>»
  rejected   scored    ⇥│\\u{1b}│[│3│1│m│…│…│…│🦙│«<|eot_id|>»

pairs.jsonl:2 (row 1)
  dropped: empty chosen

pairs.jsonl:3 (row 2): tokens: prompt 21 (1 cut), chosen 2 (2 cut), rejected 2 (2 cut)
  dropped: prompt of max-length or more
  prompt     unscored  «<|begin_of_text|>»│Hello│Hello│Hello│Hello│Hello│Hello│Hello│Hello│Hello│
                       Hello│Hello│Hello│Hello│Hello│Hello│Hello│Hello│Hello│Hello
             cut       Hello
  chosen     cut       a│«<|eot_id|>»
  rejected   cut       b│«<|eot_id|>»

chat.jsonl: prompt, chosen, rejected as message lists; columns used: prompt, chosen, rejected; ignored: source

chat.jsonl:1 (row 3): tokens: prompt 17, chosen 8 (5 cut), rejected 3
  prompt     unscored  «<|begin_of_text|>»│«<|start_header_id|>»│user│«<|end_header_id|>»│↵↵│
                       What│ is│ the│ capital│ of│ France│?│«<|eot_id|>»│«<|start_header_id|>»│
                       assistant│«<|end_header_id|>»│↵↵
  chosen     scored    Pa│ris│.
             cut       ↵↵│
                       I│t│ is│«<|eot_id|>»
  rejected   scored    The│ dog│«<|eot_id|>»
";

#[test]
fn rows_are_shown_token_by_token() {
    let shell = folder();
    assert_eq!(done(&shell, &inspect("--max-length 20 --rows 9")).stdout, ROWS);
    let blocks: Vec<&str> = ROWS.split("\n\n").collect();
    let some = done(&shell, &inspect("--max-length 20 --row 3 --row 1")).stdout;
    assert_eq!(some, [blocks[0], blocks[1], blocks[3], blocks[5], blocks[6]].join("\n\n"));
    // Three rows by themselves; a prompt that is scored as well; no bound that cuts.
    let three = done(&shell, &inspect("--objective sft --nll-on prompt-and-response")).stdout;
    assert!(three.contains("(row 2)") && !three.contains("(row 3)"), "{three}");
    assert!(
        three.contains("  prompt     unscored  «<|begin_of_text|>»\n             scored    Hello\n"),
        "{three}"
    );
    assert!(three.contains("prompt 21, chosen 2, rejected 2"), "{three}");
    let ran = typed(&shell, &inspect("--row 4"));
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("there is no row 4: the data has 4 rows, counted from 0"), "{}", ran.stderr);
}

#[test]
fn colours_are_asked_for_and_change_no_text() {
    let shell = folder();
    let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
    let line = inspect("--max-length 20 --rows 9");
    let words: Vec<&str> = line.split_whitespace().collect();
    let with = |variables: &[(&str, &str)], more: &[&str]| {
        let ran = shell.asft_with(variables, &[&words, more].concat());
        assert_eq!(plain(&ran.stdout), ROWS);
        ran.stdout != ROWS
    };
    assert!(!with(&[], &[]), "not a terminal");
    assert!(with(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(with(&[], &["--color", "always"]));
    assert!(!with(&[("CLICOLOR_FORCE", "1")], &["--color", "never"]));
    // The two answers stand in different colours where one is cut.
    let colored = shell.asft_with(&[("CLICOLOR_FORCE", "1")], &words).stdout;
    for styled in ["\u{1b}[32mPa\u{1b}[0m", "\u{1b}[36mHello\u{1b}[0m", "\u{1b}[9m\u{1b}[31m is\u{1b}[0m"] {
        assert!(colored.contains(styled), "{styled:?} in {colored}");
    }
}

#[test]
fn rows_as_json() {
    let shell = folder();
    let ran = done(&shell, &inspect("--max-length 20 --rows 4 --json"));
    let rows: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4);
    assert_eq!(
        rows[0]["chosen"],
        json!({ "ids": [396, 417], "texts": [" world", "<|eot_id|>"], "uses": ["scored", "scored"],
                "special": [false, true] })
    );
    let dropped = json!({ "row": 1, "place": "pairs.jsonl:2", "dropped": "empty chosen",
                          "shape": "prompt, chosen, rejected as strings" });
    assert_eq!(rows[1], dropped);
    assert_eq!(rows[2]["dropped"], "prompt of max-length or more");
    assert_eq!((&rows[3]["row"], &rows[3]["place"]), (&json!(3), &json!("chat.jsonl:1")));
    assert_eq!(
        rows[3]["chosen"]["uses"],
        json!(["scored", "scored", "scored", "cut", "cut", "cut", "cut", "cut"])
    );
}

// By hand, with --max-length 20: row 0 has 2 + 2 and 2 + 11 tokens, row 3 17 + 3 (5 cut) and 17 + 3; two are dropped.
// Packed: 2 + 2 + 11 + 17 + 3 + 3 = 38; with a copy of the prompt for each answer 2 + 17 more.
const STATS: &str = "\
4 rows, 2 used, 2 dropped
         1  empty chosen: pairs.jsonl:2
         1  prompt of max-length or more: pairs.jsonl:3
  pairs.jsonl: prompt, chosen, rejected as strings; columns used: prompt, chosen, rejected
  chat.jsonl: prompt, chosen, rejected as message lists; columns used: prompt, chosen, rejected; ignored: source
  rows  usable  weight  per epoch  file
     3       1       1          1  pairs.jsonl
     1       1       1          1  chat.jsonl

tokens                         min  median     p90     p99     max         total
  prompt                         2       2      17      17      17            19
  chosen                         2       2       3       3       3             5
  rejected                       3       3      11      11      11            14
  prompt + longest answer       13      13      20      20      20            33

prompt + longest answer
             13 ######################################## 1
             14                                          0
             15                                          0
             16                                          0
             17                                          0
             18                                          0
             19                                          0
             20 ######################################## 1

notes
         1  answers cut by --max-length 20
         1  of them without their end token
         0  rows whose two answers have the same tokens
         0  prompts whose last tokens merge with an answer
         0  special tokens written in the data's text

an epoch
              19  scored tokens
              38  tokens as packed, each prompt once
              57  tokens if each answer had a copy of its prompt
           33.3%  saved by sharing prompts
";

#[test]
fn figures_are_those_counted_by_hand() {
    let shell = folder();
    assert_eq!(done(&shell, &inspect("--max-length 20 --stats")).stdout, STATS);
    let figures: Value =
        serde_json::from_str(&done(&shell, &inspect("--max-length 20 --stats --json")).stdout).unwrap();
    assert_eq!((&figures["rows"], &figures["used"]), (&json!(4), &json!(2)));
    assert_eq!(figures["dropped"], json!({ "empty chosen": [1], "prompt of max-length or more": [2] }));
    assert_eq!(figures["histogram"], json!({ "first": 13, "width": 1, "counts": [1, 0, 0, 0, 0, 0, 0, 1] }));
    assert_eq!((&figures["packed_tokens"], &figures["separate_tokens"]), (&json!(38), &json!(57)));
    assert_eq!(figures["tokens"]["prompt"]["total"], 19);
    // SFT packs no rejected answer, so there is nothing to share.
    let chosen_only = done(&shell, &inspect("--max-length 20 --stats --objective sft")).stdout;
    assert!(chosen_only.contains("              24  tokens as packed, each prompt once\n"), "{chosen_only}");
    assert!(chosen_only.contains("            0.0%  saved by sharing prompts\n"), "{chosen_only}");
}

/// Turns of the assistant's are scored, what the user says between them is not.
const TURNS: &str = "\
  chosen     scored    Pa│ris│.│«<|eot_id|>»
             unscored  «<|start_header_id|>»│user│«<|end_header_id|>»│↵↵│
                       A│n│d│ the│ dog│?│«<|eot_id|>»│«<|start_header_id|>»│assistant│
                       «<|end_header_id|>»│↵↵
             scored    The│ dog│.│«<|eot_id|>»
";

#[test]
fn turns_that_are_not_scored_are_told_from_those_that_are() {
    let shell = Shell::new();
    let tokenizer = repository("tests/data/golden/folder");
    let say = |role: &str, content: &str| json!({ "role": role, "content": content });
    let conversation = [
        say("user", "What is the capital of France?"),
        say("assistant", "Paris."),
        say("user", "And the dog?"),
        say("assistant", "The dog."),
    ];
    let transcript = |first: &str, turns: &str| {
        format!("\n\nHuman: What is the capital of France?\n\nAssistant: {first}\n\nHuman: {turns}")
    };
    let chosen = transcript("Paris.", "And the dog?\n\nAssistant: The dog.");
    let rows = [
        json!({ "chosen": chosen, "rejected": transcript("The fox.", "Which?\n\nAssistant: That.") }),
        json!({ "chosen": chosen, "rejected": transcript("The fox.", "bye") }),
    ];
    shell.write("hh.jsonl", rows.map(|row| row.to_string() + "\n").concat());
    shell.write("messages.jsonl", json!({ "messages": conversation }).to_string());
    let pairs = done(&shell, &format!("inspect --tokenizer {tokenizer} --data hh.jsonl")).stdout;
    assert!(pairs.contains("hh.jsonl: chosen, rejected as Human/Assistant transcripts; columns"), "{pairs}");
    assert!(pairs.contains("(row 0): tokens: prompt 17, chosen 23 (15 unscored), rejected "), "{pairs}");
    assert!(pairs.contains(TURNS), "{pairs}");
    let dropped = "  dropped: not a conversation: the last turn of rejected is not the assistant's\n";
    assert!(pairs.ends_with(dropped), "{pairs}");
    let one = format!("inspect --tokenizer {tokenizer} --data messages.jsonl --objective sft");
    let shown = done(&shell, &one).stdout;
    assert!(shown.ends_with(TURNS), "{shown}");
    let figures = done(&shell, &format!("{one} --stats --no-cache")).stdout;
    assert!(figures.contains("               8  scored tokens\n"), "{figures}");
}

#[test]
fn what_is_missing_is_said() {
    let shell = folder();
    let refused = |line: &str, message: &str| {
        let ran = typed(&shell, line);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}\ndoes not say\n{message}", ran.stderr);
    };
    refused("inspect --data pairs.jsonl", "--model or --tokenizer is missing");
    refused("inspect --tokenizer x", "--data is missing");
    refused("inspect --data pairs.jsonl --model absent", "absent/config.json");
    shell.write(
        "ids.jsonl",
        "{\"prompt_input_ids\":[1],\"chosen_input_ids\":[2],\"rejected_input_ids\":[999]}\n",
    );
    refused(
        &format!("inspect --data ids.jsonl --init {}/config.json", crate::golden::checkpoint("gqa-llama3")),
        "ids.jsonl:1: column \"rejected_input_ids\" has token id 999",
    );
    // Without a model nothing bounds the ids; without a tokenizer they have no text.
    let shown = done(&shell, "inspect --data ids.jsonl --tokenizer .").stdout;
    assert!(shown.contains("  rejected   scored    <999>\n"), "{shown}");
}
