use std::time::Duration;

use serde_json::{Value, json};

use crate::golden::{files, lines};
use crate::shell::{Ran, Shell};
use crate::stand_in::{Call, Reply, StandIn};

const KEY: &str = "sk-very-secret-9";

/// Questions, prompts, references and the answers of two models, in FastChat's forms.
fn shell() -> Shell {
    let shell = Shell::new();
    let write = |name: &str, rows: &[Value]| {
        shell.write(name, rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    };
    let question = |id: u64, category: &str, turns: &[&str]| json!({ "question_id": id, "category": category, "turns": turns });
    write(
        "questions.jsonl",
        &[
            question(81, "writing", &["Write {x}.", "Shorter."]),
            question(82, "writing", &["Only once."]),
            question(111, "math", &["1 + 1?", "Twice that?"]),
        ],
    );
    let prompt = |name: &str, template: &str| {
        let (kind, format) =
            if name.starts_with("single") { ("single", "[[rating]]") } else { ("pairwise", "[[A]]") };
        json!({ "name": name, "type": kind, "system_prompt": format!("Judge by {name}."), "prompt_template": template,
                "description": "", "category": "general", "output_format": format })
    };
    write(
        "prompts.jsonl",
        &[
            prompt("single-v1", "Q {question} A {answer}"),
            prompt("single-v1-multi-turn", "Q {question_1} A {answer_1} Q {question_2} A {answer_2}"),
            prompt("single-math-v1", "R {ref_answer_1} Q {question} A {answer}"),
            prompt(
                "single-math-v1-multi-turn",
                "R {ref_answer_1} {ref_answer_2} Q {question_2} A {answer_2}",
            ),
            prompt("pair-v2", "Q {question} A {answer_a} B {answer_b}"),
            prompt(
                "pair-v2-multi-turn",
                "Q {question_2} A {answer_a_1} {answer_a_2} B {answer_b_1} {answer_b_2}",
            ),
            prompt("pair-math-v1", "R {ref_answer_1} Q {question} A {answer_a} B {answer_b}"),
            prompt("pair-math-v1-multi-turn", "R {ref_answer_2} A {answer_a_2} B {answer_b_2}"),
        ],
    );
    let answer = |model: &str, id: u64, turns: &[&str]| {
        json!({ "question_id": id, "answer_id": "x", "model_id": model, "choices": [{ "index": 0, "turns": turns }],
                "tstamp": 1.0 })
    };
    for model in ["good", "bad"] {
        write(
            &format!("{model}.jsonl"),
            &[
                answer(model, 81, &[&format!("{model} {{ text"), &format!("{model} short")]),
                answer(model, 82, &[&format!("{model} once")]),
                answer(model, 111, &[&format!("{model} 2"), &format!("{model} 4")]),
            ],
        );
    }
    write("references.jsonl", &[answer("gpt-4", 111, &["two", "four"])]);
    shell
}

fn judged(shell: &Shell, endpoint: &str, more: &str) -> Ran {
    let words = format!(
        "eval judge --questions questions.jsonl --prompts prompts.jsonl --references references.jsonl \
         --judge-model some-judge --output out/judgments.jsonl --retry-wait 0.01 --endpoint {endpoint} {more}"
    );
    // A proxy of whoever runs the tests is none for this machine.
    let variables = [("THE_KEY", KEY), ("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")];
    shell.asft_with(&variables, &words.split_whitespace().collect::<Vec<_>>())
}

/// The good model gets 9 and 8.5, the bad one 3.
fn fair(call: &Call) -> Reply {
    let shown = call.message("user");
    let score = match (shown.contains("good"), shown.contains("short")) {
        (true, true) => "Fine: [[8.5]]",
        (true, false) => "[1] Great. Rating: [[9]]",
        (false, _) => "Poor. [3]",
    };
    Reply::Says(score.to_owned())
}

fn out(shell: &Shell) -> Vec<serde_json::Map<String, Value>> {
    lines(shell.path().join("out/judgments.jsonl"))
}

#[test]
fn both_turns_are_rated_as_fastchat_asks() {
    let shell = shell();
    let judge = StandIn::new(|_, call| fair(call));
    let base = format!("{}/v1/", judge.address);
    let fields = r#"--request-fields {"max_tokens":null,"max_completion_tokens":77}"#;
    let models = "--answers good.jsonl --answers bad.jsonl";
    let ran = judged(&shell, &base, &format!("{models} --key-variable THE_KEY {fields} -vv"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    let calls = judge.calls();
    assert_eq!(calls.len(), 10, "two models, three first turns and two second ones");
    let first = &calls[0];
    assert_eq!(first.path, "/v1/chat/completions");
    assert!(
        first.headers.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: bearer {KEY}")))
    );
    let body = first.body.as_object().unwrap();
    let keys: Vec<&str> = body.keys().map(String::as_str).collect();
    assert_eq!(keys, ["model", "messages", "n", "temperature", "max_completion_tokens"]);
    assert_eq!((&body["model"], &body["temperature"]), (&json!("some-judge"), &json!(0)));
    assert_eq!(first.message("system"), "Judge by single-v1.");
    assert_eq!(first.message("user"), "Q Write {x}. A good { text");
    // FastChat's order, and its prompt for each kind and turn.
    let shown: Vec<&str> =
        calls.iter().map(|call| call.message("user")).filter(|text| text.contains("good")).collect();
    let expected = [
        "Q Write {x}. A good { text",
        "Q Only once. A good once",
        "R two Q 1 + 1? A good 2",
        "Q Write {x}. A good { text Q Shorter. A good short",
        "R two four Q Twice that? A good 4",
    ];
    assert_eq!(shown, expected);

    let found = out(&shell);
    let keys: Vec<&str> = found[0].keys().map(String::as_str).collect();
    // The fields of FastChat's play_a_match_single.
    assert_eq!(keys, ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]);
    assert_eq!(found[0]["judge"], json!(["some-judge", "single-v1"]));
    let scores = |model: &str| -> Vec<f64> {
        found
            .iter()
            .filter(|line| line["model"] == model)
            .map(|line| line["score"].as_f64().unwrap())
            .collect()
    };
    assert_eq!((scores("good"), scores("bad")), (vec![9.0, 9.0, 9.0, 8.5, 9.0], vec![3.0; 5]));
    let row = |name: &str| ran.stdout.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace();
    assert_eq!(row("writing").collect::<Vec<_>>(), ["writing", "8.83", "3.00"], "{}", ran.stdout);
    assert_eq!(row("turn 2").collect::<Vec<_>>(), ["turn", "2", "8.75", "3.00"]);
    assert_eq!(row("average").collect::<Vec<_>>(), ["average", "8.90", "3.00"]);

    // The key is nowhere, however much is said.
    let file = std::fs::read_to_string(shell.path().join("out/judgments.jsonl")).unwrap();
    for text in [&ran.stdout, &ran.stderr, &file] {
        assert!(!text.contains("secret") && !text.contains("Bearer"), "{text}");
    }

    // Again: nothing is asked, and the table is the same, also as JSON.
    let again = judged(&shell, &base, models);
    assert_eq!((again.stdout, judge.calls().len()), (ran.stdout, 10));
    let line = judged(&shell, &base, &format!("{models} --json")).stdout.lines().next().unwrap().to_owned();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["model"], &line["scores"]["average"]),
        (&json!("good"), &json!({"value": 8.9, "judged": 5, "unscored": 0}))
    );

    // Another answer is another thing to judge, and the others are not.
    let text = std::fs::read_to_string(shell.path().join("bad.jsonl")).unwrap();
    shell.write("bad.jsonl", text.replace("bad once", "good once"));
    let changed = judged(&shell, &base, models);
    assert_eq!((changed.code, judge.calls().len()), (0, 11), "{}", changed.stderr);
    assert!(
        changed.stdout.lines().any(|line| line.starts_with("average") && line.ends_with("4.20")),
        "{}",
        changed.stdout
    );
}

#[test]
fn what_passes_is_tried_again() {
    let shell = shell();
    let error = json!({ "error": { "message": "the server had\na bad day" } }).to_string();
    let judge = StandIn::new(move |number, call| match number {
        0 => Reply::Status(500, "", error.clone()),
        1 => Reply::Status(429, "Retry-After: 0.02\r\n", "slow down".to_owned()),
        2 => Reply::Closes,
        3 => Reply::Status(200, "", "<html>hello</html>".to_owned()),
        4 => Reply::Status(200, "", "{\"choices\": []}".to_owned()),
        5 => Reply::Waits(Duration::from_secs(3)),
        _ => fair(call),
    });
    let ran = judged(&shell, &judge.address, "--answers good.jsonl --timeout 0.5");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!((judge.calls().len(), out(&shell).len()), (11, 5));
    let warned: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("again in")).collect();
    let expected = [
        "status 500: the server had a bad day; again in 0.0 s",
        "status 429: slow down; again in 0.0 s",
        "/chat/completions: ",
        "no chat completion: expected value",
        "no choices[0].message: {\"choices\": []}",
        "no answer within 0.5 s (--timeout)",
    ];
    assert_eq!(warned.len(), expected.len(), "{}", ran.stderr);
    for (warned, expected) in warned.iter().zip(expected) {
        assert!(warned.contains("question 81, turn 1, good: ") && warned.contains(expected), "{warned}");
    }
}

#[test]
fn what_was_done_before_a_failure_is_kept() {
    let shell = shell();
    let judge = StandIn::new(|number, call| match number {
        0 | 1 => fair(call),
        _ => Reply::Status(503, "", "out of order".to_owned()),
    });
    let ran = judged(&shell, &judge.address, "--answers good.jsonl --attempts 2");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("3 of 5 judgments are missing, and the judge is not asked any more: "),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("status 503: out of order") && ran.stderr.contains("the same command goes on")
    );
    assert_eq!((judge.calls().len(), out(&shell).len()), (8, 2), "two tries each for three more");
    let kept = std::fs::read_to_string(shell.path().join("out/judgments.jsonl")).unwrap();
    // A kill may have torn the next line.
    shell.write("out/judgments.jsonl", format!("{kept}{{\"question_id\": 8"));
    let judge = StandIn::new(|_, call| fair(call));
    let ran = judged(&shell, &judge.address, "--answers good.jsonl --parallel 3");
    assert_eq!((ran.code, judge.calls().len()), (0, 3), "{}", ran.stderr);
    let after = std::fs::read_to_string(shell.path().join("out/judgments.jsonl")).unwrap();
    assert!(after.starts_with(&kept) && out(&shell).len() == 5, "{after}");

    // Nobody there at all.
    let shell = self::shell();
    let ran = judged(&shell, "http://127.0.0.1:9", "--answers good.jsonl --attempts 1");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("http://127.0.0.1:9/chat/completions: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("5 of 5 judgments are missing"), "{}", ran.stderr);
}

#[test]
fn a_wrong_key_or_address_ends_it_at_once() {
    for (status, headers, message) in [
        (401, "", "is the key right"),
        (404, "", "--judge-model must be known there"),
        (307, "Location: http://127.0.0.1:1/elsewhere\r\n", "it has moved"),
    ] {
        let shell = shell();
        let echo = format!("{{\"error\": {{\"message\": \"Incorrect key: {KEY}\"}}}}");
        let judge = StandIn::new(move |_, _| Reply::Status(status, headers, echo.clone()));
        let ran = judged(&shell, &judge.address, "--answers good.jsonl --key-variable THE_KEY -vv");
        assert_eq!((ran.code, judge.calls().len()), (1, 1), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
        assert!(!ran.stderr.contains("secret") && !ran.stderr.contains("Bearer"), "{}", ran.stderr);
        let shown = if status == 307 { "127.0.0.1:1/elsewhere" } else { "Incorrect key: [key]" };
        assert!(ran.stderr.contains(shown), "{}", ran.stderr);
    }
}

#[test]
fn a_judgment_without_a_score_is_kept_and_asked_for_again() {
    let shell = shell();
    let judge = StandIn::new(|number, call| match number {
        1 => Reply::Says("I would rather not say.".to_owned()),
        _ => fair(call),
    });
    let first = judged(&shell, &judge.address, "--answers good.jsonl");
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(
        first.stderr.contains("question 82, turn 1, good: the judgment has no score"),
        "{}",
        first.stderr
    );
    assert!(first.stdout.contains("good: 4 judgments, 1 more without a score"), "{}", first.stdout);
    let found = out(&shell);
    assert_eq!(
        (found.len(), &found[1]["score"], &found[1]["judgment"]),
        (5, &json!(-1.0), &json!("I would rather not say."))
    );
    let second = judged(&shell, &judge.address, "--answers good.jsonl");
    assert_eq!(judge.calls().len(), 6);
    assert!(second.stdout.contains("good: 5 judgments\n"), "{}", second.stdout);
}

#[test]
fn answers_are_compared_in_both_orders() {
    let shell = shell();
    // Prefers the good one, except on question 82, where it likes whoever comes first; the second turn of 81 is a tie.
    let judge = StandIn::new(|_, call| {
        let shown = call.message("user");
        let good_first = shown.find("good") < shown.find("bad");
        let verdict = match () {
            () if shown.contains("once") => "[[A]]",
            () if shown.contains("short") => "Equal. [[C]]",
            () if good_first => "[[A]]",
            () => "[[B]]",
        };
        Reply::Says(verdict.to_owned())
    });
    let ran = judged(&shell, &judge.address, "--answers good.jsonl --baseline bad.jsonl");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let calls = judge.calls();
    assert_eq!(calls.len(), 10);
    assert_eq!(calls[0].message("system"), "Judge by pair-v2.");
    assert_eq!(calls[0].message("user"), "Q Write {x}. A good { text B bad { text");
    assert_eq!(calls[1].message("user"), "Q Write {x}. A bad { text B good { text");
    let found = out(&shell);
    let keys: Vec<&str> = found[0].keys().map(String::as_str).collect();
    // The fields of FastChat's play_a_match_pair.
    let expected = [
        "question_id",
        "model_1",
        "model_2",
        "g1_winner",
        "g2_winner",
        "judge",
        "g1_user_prompt",
        "g1_judgment",
        "g2_user_prompt",
        "g2_judgment",
        "turn",
        "tstamp",
    ];
    assert_eq!(keys, expected);
    let winners: Vec<[&Value; 2]> =
        found.iter().map(|line| [&line["g1_winner"], &line["g2_winner"]]).collect();
    let expected = [
        ["model_1", "model_1"],
        ["model_1", "model_2"],
        ["model_1", "model_1"],
        ["tie", "tie"],
        ["model_1", "model_1"],
    ];
    assert_eq!(json!(winners), json!(expected));
    assert!(ran.stdout.contains("good: 5 judgments, 3 won, 2 tied, 0 lost"), "{}", ran.stdout);
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("average") && line.ends_with("0.800")),
        "{}",
        ran.stdout
    );
    judged(&shell, &judge.address, "--answers good.jsonl --baseline bad.jsonl");
    assert_eq!(judge.calls().len(), 10, "nothing is asked twice");
}

#[test]
fn what_cannot_be_judged() {
    let shell = shell();
    let judge = StandIn::new(|_, call| fair(call));
    let before = files(shell.path());
    let refused = |more: &str, message: &str| {
        let ran = judged(&shell, &judge.address, more);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{more}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{more}: {}", ran.stderr);
        assert_eq!(files(shell.path()), before, "{more}");
    };
    refused("", "--answers is missing");
    refused("--answers gone.jsonl", "cannot read gone.jsonl");
    refused("--answers good.jsonl --answers ./good.jsonl", "called \"good\"");
    refused("--answers good.jsonl --key-variable NO_SUCH_KEY", "NO_SUCH_KEY");
    refused("--answers good.jsonl --timeout 0", "--timeout 0");
    refused("--answers good.jsonl --request-fields [1]", "a JSON object");
    refused("--answers references.jsonl", "references.jsonl: question 81 has 0 of 2 answers");
    let replaced = |file: &str, from: &str, to: &str, message: &str| {
        let path = shell.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        shell.write(file, text.replace(from, to));
        refused("--answers good.jsonl", message);
        shell.write(file, text);
    };
    replaced("references.jsonl", "111", "112", "question 111 (math) is judged against a reference");
    replaced("prompts.jsonl", "single-math-v1-", "other-", "no prompt \"single-math-v1-multi-turn\"");
    replaced("prompts.jsonl", "{answer}", "{answr}", "nothing for {answr}");
    replaced("prompts.jsonl", "[[rating]]", "[[A]]", "output_format is \"[[A]]\"");
    replaced(
        "prompts.jsonl",
        "prompt_template",
        "template",
        "prompts.jsonl:1: missing field `prompt_template`",
    );
    assert!(judge.calls().is_empty());
    std::fs::create_dir(shell.path().join("out")).unwrap();
    shell.write("out/judgments.jsonl", "{\"a\": 1}\n");
    let ran = judged(&shell, &judge.address, "--answers good.jsonl");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("judgments.jsonl:1: ") && ran.stderr.contains("write to another one"),
        "{}",
        ran.stderr
    );
}
