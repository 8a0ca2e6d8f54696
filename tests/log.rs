//! The run's own record: `metrics.jsonl`, `trainer_state.json`, `curves.svg` and the model card.

use std::fs;
use std::path::Path;

use asft::train::card::{Evaluated, ModelCard};
use asft::train::curves::Curves;
use asft::train::log::{EvalMetrics, MetricsLog, RunShape, StepMetrics, TrainerState, lines, truncate_after};
use serde_json::{Map, Value, json};

const SHAPE: RunShape = RunShape {
    max_steps: 10,
    num_train_epochs: 2,
    train_batch_size: 32,
    logging_steps: 3,
    eval_steps: 4,
    save_steps: 5,
};

fn objective(step: usize) -> [(&'static str, f64); 2] {
    [("rewards/accuracies", 0.5 + step as f64 / 100.0), ("logps/chosen", -1.0 / 3.0 * step as f64)]
}

fn step(step: usize, objective: &[(&'static str, f64)]) -> StepMetrics<'static> {
    StepMetrics {
        step,
        epoch: step as f64 / 5.0,
        loss: 2.0 / step as f64,
        learning_rate: 1e-3 / step as f64,
        grad_norm: 0.1 + step as f64,
        objective: Box::leak(objective.into()),
        num_tokens: 1000 * step as u64,
        tokens_per_second: 1234.5,
        peak_memory_bytes: 17 << 30,
        step_seconds: 0.25,
        skipped: None,
    }
}

/// Ten steps with evaluations before the first and after every fourth; the state as it was at each step.
fn run(path: &Path, from: Option<usize>, to: usize) -> TrainerState {
    let (mut log, mut state) = match from {
        None => (MetricsLog::create(path).unwrap(), TrainerState::new(SHAPE)),
        Some(step) => {
            (MetricsLog::resume(path, step).unwrap(), TrainerState::from_metrics(SHAPE, path).unwrap())
        }
    };
    let evaluate = |log: &mut MetricsLog, state: &mut TrainerState, step: usize| {
        let values = [("loss", 0.7 - step as f64 / 30.0), ("rewards/accuracies", 0.5)];
        let line = log.evaluation(&EvalMetrics { step, values: &values, intervals: &[] }).unwrap();
        state.record(&line);
    };
    if from.is_none() {
        evaluate(&mut log, &mut state, 0);
    }
    for number in from.unwrap_or(0) + 1..=to {
        let line = log.step(&step(number, &objective(number))).unwrap();
        let entry = state.record(&line).cloned();
        assert_eq!(entry.is_some(), number.is_multiple_of(3), "step {number}");
        if number.is_multiple_of(4) {
            evaluate(&mut log, &mut state, number);
        }
    }
    log.sync().unwrap();
    state
}

fn all(path: &Path) -> Vec<Map<String, Value>> {
    lines(path).unwrap().map(Result::unwrap).collect()
}

#[test]
fn lines_have_the_promised_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    run(&path, None, 10);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 13);
    assert_eq!(text.lines().next().unwrap(), r#"{"step":0,"eval_loss":0.7,"eval_rewards/accuracies":0.5}"#);
    assert_eq!(
        text.lines().nth(1).unwrap(),
        concat!(
            r#"{"step":1,"epoch":0.2,"loss":2.0,"learning_rate":0.001,"grad_norm":1.1,"rewards/accuracies":0.51,"#,
            r#""logps/chosen":-0.3333333333333333,"num_tokens":1000,"tokens_per_second":1234.5,"#,
            r#""peak_memory_bytes":18253611008,"step_seconds":0.25}"#
        )
    );
    for line in all(&path) {
        let evaluation = line.keys().any(|key| key.starts_with("eval_"));
        assert_eq!(evaluation, !line.contains_key("loss"), "{line:?}");
        assert!(!evaluation || line.keys().all(|key| key == "step" || key.starts_with("eval_")), "{line:?}");
    }
}

#[test]
fn numbers_that_are_none_stay_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    let mut state = TrainerState::new(RunShape { logging_steps: 1, ..SHAPE });
    let broken = StepMetrics {
        loss: f64::NAN,
        grad_norm: f64::INFINITY,
        tokens_per_second: f64::NEG_INFINITY,
        ..step(1, &[("rewards/margins", f64::NAN)])
    };
    state.record(&log.step(&broken).unwrap());
    state.record(
        &log.evaluation(&EvalMetrics { step: 1, values: &[("loss", f64::NAN)], intervals: &[] }).unwrap(),
    );
    let lines = all(&path);
    for (line, key) in
        [(0, "loss"), (0, "grad_norm"), (0, "tokens_per_second"), (0, "rewards/margins"), (1, "eval_loss")]
    {
        assert_eq!(lines[line][key], Value::Null, "{key}");
    }
    let file = dir.path().join("trainer_state.json");
    state.save(&file).unwrap();
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved["log_history"][0]["loss"], Value::Null);
    assert_eq!(saved["log_history"][1]["eval_loss"], Value::Null);
    assert_eq!(TrainerState::from_metrics(RunShape { logging_steps: 1, ..SHAPE }, &path).unwrap(), state);
}

/// A run stopped after any step and resumed leaves the same bytes as one that never stopped.
#[test]
fn a_resumed_run_leaves_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole.jsonl"), dir.path().join("parts.jsonl"));
    let expected = run(&whole, None, 10);
    for stop in 1..10 {
        for reached in stop..10 {
            run(&parts, None, reached);
            let state = run(&parts, Some(stop), 10);
            assert_eq!(
                fs::read(&parts).unwrap(),
                fs::read(&whole).unwrap(),
                "stopped at {reached}, resumed from {stop}"
            );
            let texts = [&expected, &state].map(|state| {
                let path = dir.path().join("trainer_state.json");
                state.save(&path).unwrap();
                fs::read_to_string(path).unwrap()
            });
            assert_eq!(texts[0], texts[1]);
        }
    }
}

/// A kill tears the last line at any byte.
#[test]
fn a_torn_last_line_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    run(&path, None, 3);
    let whole = fs::read(&path).unwrap();
    let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in last_line..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        truncate_after(&path, 2).unwrap();
        assert_eq!(fs::read(&path).unwrap(), &whole[..last_line], "torn at {length}");
        // Complete but for its newline, it is whole.
        fs::write(&path, &whole[..length]).unwrap();
        truncate_after(&path, 3).unwrap();
        let expected = if length == whole.len() - 1 { &whole[..] } else { &whole[..last_line] };
        assert_eq!(fs::read(&path).unwrap(), expected, "torn at {length}");
    }
    truncate_after(&dir.path().join("absent"), 3).unwrap();
    fs::write(&path, "").unwrap();
    truncate_after(&path, 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_damaged_line_is_named_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    for (text, expected) in [
        ("{\"step\":1}\n{\"step\":\n{\"step\":3}\n", ":2: not a line of a run's record: EOF while parsing"),
        ("{\"step\":1}\n{\"loss\":1}\n", ":2: not a line of a run's record: it has no step"),
        ("[]\n", ":1: not a line of a run's record: invalid type"),
        ("{\"step\":1}\n\u{fffd}\n", ":2: not a line of a run's record: expected value"),
    ] {
        fs::write(&path, text).unwrap();
        let error = truncate_after(&path, 5).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(expected), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn trainer_state_is_hugging_faces() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = run(&dir.path().join("metrics.jsonl"), None, 10);
    state.total_flos = 1.5e15;
    let path = dir.path().join("trainer_state.json");
    state.save(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    // The fields of transformers 5.23's TrainerState, which its loader passes to the constructor by name.
    let fields = [
        "best_global_step",
        "best_metric",
        "best_model_checkpoint",
        "epoch",
        "eval_steps",
        "global_step",
        "is_hyper_param_search",
        "is_local_process_zero",
        "is_world_process_zero",
        "log_history",
        "logging_steps",
        "max_steps",
        "num_input_tokens_seen",
        "num_train_epochs",
        "save_steps",
        "stateful_callbacks",
        "total_flos",
        "train_batch_size",
        "trial_name",
        "trial_params",
    ];
    assert_eq!(saved.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!(
        (&saved["global_step"], &saved["epoch"], &saved["best_metric"]),
        (&json!(10), &json!(2.0), &Value::Null)
    );
    let history = saved["log_history"].as_array().unwrap();
    let order: Vec<_> =
        history.iter().map(|entry| (entry["step"].as_u64().unwrap(), entry.get("loss").is_some())).collect();
    assert_eq!(order, [(0, false), (3, true), (4, false), (6, true), (8, false), (9, true)]);
    assert_eq!(
        history[1],
        json!({
            "epoch": 0.6, "grad_norm": 3.1, "learning_rate": 1e-3 / 3.0, "logps/chosen": -1.0 / 3.0 * 6.0 / 3.0,
            "loss": (2.0 + 1.0 + 2.0 / 3.0) / 3.0, "num_tokens": 3000, "rewards/accuracies": (0.51 + 0.52 + 0.53) / 3.0, "step": 3
        })
    );
    assert_eq!(
        history[2],
        json!({"epoch": 0.8, "eval_loss": 0.7 - 4.0 / 30.0, "eval_rewards/accuracies": 0.5, "step": 4})
    );
}

#[test]
fn logging_steps_zero_keeps_only_evaluations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    run(&path, None, 10);
    let state = TrainerState::from_metrics(RunShape { logging_steps: 0, ..SHAPE }, &path).unwrap();
    assert_eq!(state.log_history.len(), 3);
}

fn curves(lines: &[Value]) -> Curves {
    let mut curves = Curves::default();
    lines.iter().for_each(|line| curves.push(line.as_object().unwrap()));
    curves
}

/// A run like a real one: noise that a plot must survive, without a random-number library.
fn long_run(steps: usize) -> Curves {
    let mut noise = 1u64;
    let mut draw = move || {
        noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (noise >> 40) as f64 / (1 << 24) as f64 - 0.5
    };
    let mut lines = Vec::new();
    for step in 1..=steps {
        let done = step as f64 / steps as f64;
        let spike = if step % 211 == 0 { 12.0 } else { 0.0 };
        lines.push(json!({
            "step": step, "loss": 0.3 + 2.2 * (-5.0 * done).exp() + 0.3 * draw(), "grad_norm": 1.0 + draw() + spike,
            "learning_rate": 1e-3 * (1.0 - done), "rewards/accuracies": (1.0 - 0.5 * (-6.0 * done).exp() + 0.1 * draw()).min(1.0),
            "rewards/margins": 4.0 * done + draw(), "logps/chosen": -1.5 + done + 0.2 * draw(),
            "logps/rejected": -1.5 - 2.0 * done + 0.2 * draw(),
        }));
        if step % (steps / 10).max(1) == 0 {
            lines.push(json!({
                "step": step, "eval_loss": 0.35 + 2.2 * (-5.0 * done).exp(), "eval_rewards/margins": 4.0 * done,
                "eval_rewards/accuracies": 1.0 - 0.5 * (-6.0 * done).exp(), "eval_logps/chosen": -1.6 + done,
                "eval_logps/rejected": -1.6 - 2.0 * done,
            }));
        }
    }
    curves(&lines)
}

/// Every number of every path and circle, with the names of the elements.
fn coordinates(svg: &str) -> Vec<f64> {
    let values = svg.split(" d=\"").chain(svg.split(" cx=\"")).chain(svg.split(" cy=\"")).skip(1);
    values
        .filter_map(|rest| rest.split('"').next())
        .flat_map(|text| text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')))
        .filter(|text| !text.is_empty())
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Well-formed enough for any XML reader: tags close in order, no bare ampersand.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1).map(|rest| rest.split_once('>').expect("a closed tag").0) {
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert_eq!(open, [] as [&str; 0]);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "a number is none");
    for rest in svg.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;"].iter().any(|entity| rest.starts_with(entity)), "{rest:.20}");
    }
}

#[test]
fn curves_of_every_length_are_drawn() {
    for steps in [1, 2, 3, 30, 800, 5000, 60_000] {
        let svg = long_run(steps).to_svg("quickstart", &format!("asft, {steps} steps"));
        assert_well_formed(&svg);
        assert!(svg.len() < 200_000, "{steps} steps make {} bytes", svg.len());
        assert_eq!(svg.matches("class=\"panel\"").count(), 6);
        assert!(coordinates(&svg).iter().all(|value| value.abs() < 1e5));
        // To look at them: ASFT_CURVES_OUT=FOLDER cargo test --test log curves
        if let Some(folder) = std::env::var_os("ASFT_CURVES_OUT") {
            fs::write(Path::new(&folder).join(format!("curves-{steps}.svg")), svg).unwrap();
        }
    }
}

#[test]
fn empty_and_odd_runs_are_drawn() {
    let svg = curves(&[]).to_svg("a < b & c", "");
    assert_well_formed(&svg);
    assert!(svg.contains("no steps yet") && svg.contains("a &lt; b &amp; c"));
    // Supervised training has no pairs: only the panels that have something to show.
    let svg = curves(&[json!({"step": 1, "loss": 1.0}), json!({"step": 2, "loss": 0.5})]).to_svg("t", "s");
    assert_eq!(svg.matches("class=\"panel\"").count(), 1);
    for values in [[0.0, 0.0], [5.0, 5.0], [-1e-300, 1e-300], [1e99, -1e99], [1.0, 1.0 + 1e-15], [3e-9, 2e-9]]
    {
        let lines = values.map(|value: f64| json!({"step": 1, "loss": value, "learning_rate": value.abs()}));
        assert_well_formed(&curves(&lines).to_svg("t", "s"));
    }
    let svg =
        curves(&[json!({"step": 1, "loss": null, "eval_loss": 1e300}), json!({"step": 2})]).to_svg("t", "s");
    assert!(svg.contains("no steps yet"));
}

/// A point of a known value lies between the ticks around it, and more is higher up.
#[test]
fn points_lie_where_the_ticks_say() {
    let svg = curves(&[json!({"step": 4, "rewards/accuracies": 0.25})]).to_svg("t", "s");
    let tick = |label: &str| -> f64 {
        let end = svg.find(&format!("text-anchor=\"end\">{label}</text>")).unwrap();
        let start = svg[..end].rfind(" y=\"").unwrap() + 4;
        svg[start..].split('"').next().unwrap().parse::<f64>().unwrap() - 4.0
    };
    let start = svg.find("cy=\"").unwrap() + 4;
    let y: f64 = svg[start..].split('"').next().unwrap().parse().unwrap();
    let (none, all) = (tick("0"), tick("1.0"));
    assert!(all < none && (y - (0.75 * none + 0.25 * all)).abs() < 0.2, "{y} between {none} and {all}");
}

#[test]
fn curves_are_read_from_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    run(&path, None, 10);
    let svg = Curves::read(&path).unwrap().to_svg("t", "s");
    assert_eq!(svg.matches("class=\"panel\"").count(), 5);
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn the_card_says_what_was_done() {
    let card = ModelCard {
        name: "my-model",
        base_model: Some("meta-llama/Llama-3.2-1B"),
        objective: "asft",
        hyper_parameters: &[("learning_rate", "6e-6".into()), ("chat_template", "a|b\nc".into())],
        data: &[Path::new("/home/someone/secret/pairs.jsonl")],
        eval_data: &[],
        evaluation: &[
            Evaluated { metric: "loss", before: Some(1.25), after: 0.5 },
            Evaluated { metric: "rewards/accuracies", before: None, after: 0.98 },
        ],
        chat: true,
        is_run: true,
    };
    let text = card.to_markdown();
    assert!(text.contains("(curves.svg)") && text.contains("`run.toml`"), "{text}");
    let checkpoint = ModelCard { is_run: false, ..card.clone() }.to_markdown();
    assert!(!checkpoint.contains("curves.svg") && !checkpoint.contains("run.toml"), "{checkpoint}");
    let front = text.strip_prefix("---\n").unwrap().split("---\n").next().unwrap();
    assert!(front.contains("library_name: transformers\n") && front.contains("- asft\n"), "{front}");
    assert!(front.contains("base_model: meta-llama/Llama-3.2-1B\n"), "{front}");
    assert!(text.contains("arXiv:2409.10571") && text.contains("*Aligned* Supervised Fine-Tuning"), "{text}");
    assert!(text.contains("| `loss` | 1.2500 | 0.5000 |\n| `rewards/accuracies` | | 0.9800 |"), "{text}");
    assert!(text.contains("`pairs.jsonl`") && !text.contains("secret"), "{text}");
    assert!(text.contains("| `chat_template` | a\\|b c |"), "{text}");
    assert!(text.contains("apply_chat_template") && text.contains("# my-model\n"));
    let local =
        ModelCard { base_model: Some("../models/llama"), chat: false, evaluation: &[], ..card.clone() };
    let text = local.to_markdown();
    assert!(!text.contains("base_model:") && text.contains("Fine-tuned from `../models/llama`"), "{text}");
    assert!(!text.contains("apply_chat_template") && !text.contains("## Results"));
    for (objective, formula) in
        [("dpo", "\\pi_\\mathrm{ref}"), ("orpo", "\\log\\sigma(o_w - o_l)"), ("sft", "y_w")]
    {
        assert!(ModelCard { objective, base_model: None, ..card.clone() }.to_markdown().contains(formula));
    }
    assert!(
        ModelCard { objective: "new", base_model: None, ..card }
            .to_markdown()
            .contains("## Objective\n\n`new`")
    );
}
