use serde_json::{Value, json};

use crate::golden::{done, files, lines, repository, typed};
use crate::shell::Shell;

/// A folder with a few rows of the quickstart's data and two questions.
fn shell() -> Shell {
    let shell = Shell::new();
    let rows = std::fs::read_to_string(repository("examples/quickstart/train.jsonl")).unwrap();
    let first = |rows: &str, skip: usize, take: usize| {
        rows.lines().skip(skip).take(take).map(|line| format!("{line}\n")).collect::<String>()
    };
    shell.write("train.jsonl", first(&rows, 0, 24));
    shell.write("held.jsonl", first(&rows, 24, 6));
    let question =
        |id: u64, turns: &[&str]| json!({ "question_id": id, "category": "writing", "turns": turns });
    let questions =
        [question(81, &["copy: cat dog", "again"]), question(82, &["sort: <b> one two three four five"])];
    shell.write("questions.jsonl", questions.map(|line| format!("{line}\n")).concat());
    shell
}

const SMALL: &str = "--data train.jsonl --eval-data held.jsonl --questions questions.jsonl --output out --seeds 1 --max-steps 2 \
                     --warm-up-steps 2 --cost-steps 2 --cost-runs 1 --batch-size 4 --max-length 128 --max-new-tokens 4 --device cpu";

#[test]
fn all_figures_of_a_small_model() {
    let shell = shell();
    let ran = done(&shell, &format!("paper {SMALL}"));
    let out = shell.path().join("out");
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let results = text("results.md");
    let expected = [
        "surfaces.svg",
        "surfaces.csv",
        "margins.svg",
        "margins.csv",
        "cost.svg",
        "cost.csv",
        "answers.html",
    ];
    for name in expected {
        assert!(results.contains(&format!("[{name}]({name})")), "{results}");
        assert!(!text(name).contains("NaN") && !text(name).contains("inf"), "{name}");
    }
    // The sentences are those that were printed, and the command is there to be typed again.
    let parts = ran.stdout.split("\n\n").filter_map(|part| part.trim().split_once('\n'));
    let sentences: Vec<&str> = parts.map(|(_, words)| words).collect();
    assert_eq!(sentences.len(), 4, "{}", ran.stdout);
    assert!(sentences.iter().all(|sentence| results.contains(sentence)));
    assert!(results.contains("$ asft paper --data train.jsonl"), "{results}");

    // The margins are what the runs measured, and what `asft eval pairs` measures of the result.
    let margins = text("margins.csv");
    for name in ["asft", "orpo", "dpo", "sft"] {
        let line = margins.lines().rfind(|line| line.starts_with(&format!("{name},1,2,"))).unwrap();
        let ours: Vec<f64> = line.split(',').skip(3).map(|number| number.parse().unwrap()).collect();
        let run = out.join(format!("runs/{name}-seed1"));
        let recorded = lines(run.join("metrics.jsonl"));
        let last = recorded.iter().rfind(|line| line.contains_key("eval_loss")).unwrap();
        assert!((last["eval_mean_logps/margins"].as_f64().unwrap() - ours[2]).abs() < 1e-6, "{line}");
        let measured =
            done(&shell, &format!("eval pairs --model {} --data held.jsonl --json", run.display())).stdout;
        let measured: Value = serde_json::from_str(&measured).unwrap();
        for (name, ours) in ["chosen", "rejected", "margins"].iter().zip(&ours) {
            let theirs = measured["metrics"][format!("mean_logps/{name}")]["value"].as_f64().unwrap();
            assert!((ours - theirs).abs() < 2e-6, "{line}: {name} {theirs}");
        }
    }
    // Every way of training has its own time and memory, and the derived multiples for two epochs.
    let cost = text("cost.csv");
    let column = |index: usize| -> Vec<f64> {
        cost.lines().skip(1).map(|line| line.split(',').nth(index).unwrap().parse().unwrap()).collect()
    };
    assert_eq!(column(5), [1.0, 1.1667, 1.3333]);
    assert!(column(2).iter().zip(column(3)).all(|(total, steps)| *total > steps && steps > 0.0), "{cost}");
    let weights = std::fs::metadata(out.join("runs/start/model.safetensors")).unwrap().len() as f64;
    assert_eq!(column(6), [0.0, 0.0, weights]);
    // Questions are shown by their first words, answers as text.
    let page = text("answers.html");
    assert!(page.contains("sort: &lt;b&gt; one two three four \u{2026}") && !page.contains("five"), "{page}");
    assert_eq!(page.matches("class=\"answer\"").count(), 2 * 5);

    // Again: no run is repeated, and the figures are the same.
    let stamps = || {
        let times = files(&out).into_iter().filter(|name| name.ends_with("metrics.jsonl"));
        times.map(|name| std::fs::metadata(out.join(name)).unwrap().modified().unwrap()).collect::<Vec<_>>()
    };
    let before = (stamps(), expected.map(text));
    let again = done(&shell, &format!("paper {SMALL}"));
    assert_eq!((stamps(), expected.map(text)), before);
    assert_eq!(again.stdout, ran.stdout);
    // Another setting is another run.
    let other = done(&shell, &format!("paper margins {SMALL} --lambda 0.5"));
    assert!(
        other.stderr.contains("sft-seed1 is there already") && !other.stderr.contains("asft-seed1 is there"),
        "{}",
        other.stderr
    );
}

#[test]
fn what_a_figure_lacks() {
    let shell = shell();
    let ran = done(&shell, "paper --output out");
    assert!(ran.stderr.contains("margins is left out: it needs --data"), "{}", ran.stderr);
    let surfaces = std::fs::read_to_string(shell.path().join("out/surfaces.csv")).unwrap();
    assert_eq!(surfaces.lines().count(), 1 + 5 * 100);
    assert!(surfaces.contains("\"ASFT, align term alone\",0.05,0.95,"), "{surfaces}");
    let refused = |words: &str, code: i32, message: &str| {
        let ran = typed(&shell, words);
        assert_eq!(ran.code, code, "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{words}: {}", ran.stderr);
    };
    refused("paper", 2, "--output is missing");
    refused("paper cost --output out", 2, "cost needs --data");
    refused("paper answers --output out --data train.jsonl", 2, "answers needs --questions");
    refused("paper margins --output out --data train.jsonl --seeds 0", 2, "--seeds 0");
    // A run that fails says so with the end of its log.
    let failing = SMALL.replace("held.jsonl", "gone.jsonl");
    refused(&format!("paper margins {failing}"), 1, "asft-seed1 failed");
    refused(&format!("paper margins {failing}"), 1, "gone.jsonl");
}
