//! `asft report` and `asft watch`, on folders as runs leave them and on folders that something happened to.

#[path = "report/browser.rs"]
mod browser;
#[path = "report/folder.rs"]
mod folder;
mod skip;

use std::fs;
use std::path::Path;

use asft::report::record::{RunRecord, Status, Tail};
use asft::report::watch::Watched;
use asft::report::{ReportError, curves, findings, page, tensorboard};
use folder::Folder;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::Value;

fn read(folder: &Folder) -> RunRecord {
    RunRecord::read(folder.path()).unwrap()
}

fn html(folders: &[&Folder]) -> String {
    let runs: Vec<RunRecord> = folders.iter().map(|folder| read(folder)).collect();
    page::to_html(&runs).unwrap()
}

fn weights(run: &RunRecord) -> Vec<String> {
    findings::findings(run).into_iter().map(|finding| finding.text).collect()
}

#[test]
fn a_whole_run_has_every_part() {
    let run = Folder::whole("whole", "asft");
    let record = read(&run);
    assert_eq!((record.status, &record.missing[..]), (Status::Finished, &[][..]));
    let page = html(&[&run]);
    for part in [
        "Held-out accuracy",
        "Evaluation on held-out pairs",
        "Answers before and after",
        "Training data",
        "Memory plan",
        "All settings",
        "0.990 [0.980, 1.00]",
        "exactly the chosen answer",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert_eq!(page.matches("<figure").count(), 11);
    assert!(!page.contains("Settings that differ"));
    // The name of a namespace is no address.
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"), "nothing from outside");
    let texts = weights(&record);
    assert!(texts[0].starts_with("It finished: 100 steps"), "{texts:?}");
    assert!(
        texts.iter().any(|text| text.contains("accuracy on held-out pairs went from 0.500 to 0.990")),
        "{texts:?}"
    );
}

#[test]
fn several_runs_share_charts_and_show_their_differences() {
    let (one, two) = (Folder::whole("one", "asft"), Folder::whole("two", "orpo"));
    let page = html(&[&one, &two]);
    assert_eq!(page.matches("<figure").count(), 11);
    assert!(page.contains("one, training") && page.contains("two, evaluation"));
    let differing = page.split("Settings that differ").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(differing.contains("<code>objective</code>") && differing.contains("<code>orpo</code>"));
    assert!(
        !differing.contains("<code>seed</code>") && !differing.contains("<code>output</code>"),
        "{differing}"
    );
    // Both are drawn in each chart, in two colours.
    let loss = page.split("<figure").nth(1).unwrap();
    assert!(loss.contains("class=\"line a\"") && loss.contains("class=\"line b\""));
    let twice = RunRecord::read_all(&[one.path().to_owned(), one.path().to_owned()]).unwrap();
    assert_eq!(twice[0].name, one.path().display().to_string(), "equal names are no names");
}

#[test]
fn whatever_a_run_is_called_or_says_is_only_text() {
    let run = Folder::whole("<img src=x onerror=alert(1)>'\"&", "asft");
    run.write("samples.jsonl", "{\"step\":0,\"prompt\":\"</script><script>alert(2)\",\"answer\":\"<b>\",\"expected\":\"\",\"exact\":false}\n");
    let mut facts: Value =
        serde_json::from_str(&fs::read_to_string(run.path().join("facts.json")).unwrap()).unwrap();
    facts["device"] = "<i>device".into();
    facts["objective"] = "'><i>objective".into();
    run.write("facts.json", &facts.to_string());
    for page in [html(&[&run]), html(&[&run, &Folder::whole("other", "dpo")])] {
        for tag in ["<img", "<i>", "<b>device", "</script><script>alert", "'><i>"] {
            assert!(!page.contains(tag), "{tag} went through");
        }
        assert_eq!(page.matches("<script>").count(), 1);
        assert!(page.contains("&lt;img src=x"));
        // The names of curves stand in an attribute in single quotes, as JSON.
        for attribute in page.split("data-hover='").skip(1) {
            let json = attribute.split('\'').next().unwrap().replace("&#39;", "'");
            assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json:.200}");
        }
    }
}

#[test]
fn what_is_broken_is_named_and_the_rest_is_shown() {
    let run = Folder::whole("torn", "asft");
    let metrics = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    let mut lines: Vec<&str> = metrics.lines().collect();
    lines[7] = "{\"step\": 7, \"lo\u{0}";
    lines[9] = "[1]";
    lines[10] = "{\"loss\": 1}";
    let torn = lines.join("\n") + "\n{\"step\":101,\"loss\":0.";
    run.write("metrics.jsonl", &torn);
    run.write("run.toml", "objective = \"as");
    run.write("facts.json", "{");
    fs::remove_file(run.path().join("samples.jsonl")).unwrap();
    fs::remove_file(run.path().join("trainer_state.json")).unwrap();
    let record = read(&run);
    assert_eq!(record.lines.len(), lines.len() - 3);
    let missing = record.missing.join("\n");
    for part in [
        "metrics.jsonl:8: not a JSON object",
        "metrics.jsonl:10",
        "metrics.jsonl:11: it has no step",
        "cut off in the middle",
        "run.toml is broken",
        "facts.json is broken",
        "No answers were sampled",
    ] {
        assert!(missing.contains(part), "no {part} in {missing}");
    }
    assert!(matches!(record.status, Status::Unfinished(Some(_))));
    let page = page::to_html(&[record]).unwrap();
    assert!(
        page.contains("It has not finished: 100 steps are done") && page.contains("cut off in the middle")
    );
    assert_eq!(page.matches("<figure").count(), 11);
}

#[test]
fn runs_without_evaluation_or_steps_and_folders_without_runs() {
    let run = Folder::whole("bare", "sft");
    run.keep_lines(|line| !line.contains("eval_"));
    let record = read(&run);
    assert!(record.missing[0].starts_with("There was no evaluation"), "{:?}", record.missing);
    assert!(!html(&[&run]).contains("Evaluation on held-out pairs"));
    run.keep_lines(|_| false);
    assert!(html(&[&run]).contains("There are no steps yet."));
    fs::remove_file(run.path().join("metrics.jsonl")).unwrap();
    assert!(html(&[&run]).contains("There are no steps yet."));
    fs::remove_file(run.path().join("run.toml")).unwrap();
    assert!(matches!(RunRecord::read(run.path()), Err(ReportError::NoRun { .. })));
    assert!(matches!(RunRecord::read(&run.path().join("nowhere")), Err(ReportError::Io { .. })));
}

#[test]
fn a_run_that_went_wrong_is_said_to_have() {
    let run = Folder::whole("wrong", "asft");
    let mut lines = Vec::new();
    for step in 1..=100u32 {
        let speed = if step > 60 { 100.0 } else { 1000.0 };
        let norm = if step == 50 { 1000.0 } else { 1.0 };
        lines.push(
            serde_json::json!({"step": step, "loss": 1.0, "grad_norm": norm, "tokens_per_second": speed})
                .to_string(),
        );
        if step % 25 == 0 {
            let loss = [0.5, 0.2, 0.4, 0.9][step as usize / 25 - 1];
            let chosen = -1.0 - f64::from(step) / 10.0;
            lines.push(serde_json::json!({"step": step, "eval_loss": loss, "eval_rewards/accuracies": 0.5, "eval_logps/chosen": chosen}).to_string());
        }
    }
    lines.push("{\"step\":101,\"loss\":null}".to_owned());
    lines.push("{\"step\":102,\"loss\":null,\"skipped\":true,\"skipped_steps\":1}".to_owned());
    run.write("metrics.jsonl", &(lines.join("\n") + "\n"));
    let texts = weights(&read(&run)).join("\n");
    for part in [
        "It has not finished: 102 of 100 steps",
        "no clear difference",
        "Evaluation loss was least after step 50 (0.200) and ended at 0.900",
        "became less likely on held-out pairs: their log-prob fell from \u{2212}3.50 to \u{2212}11.0",
        "1 step was skipped because loss or gradient was not finite, the first of them step 102",
        "A loss was not finite, first at step 101",
        "At 1 step the gradient norm was over 20 times its median of 1.00",
        "It became slower: 1000 tokens/s in the second quarter, 100 in the last",
    ] {
        assert!(texts.contains(part), "no {part} in\n{texts}");
    }
}

/// The bytes are those of TensorBoard's own messages and record writer (`golden/make_events.py`).
#[test]
fn events_are_the_bytes_that_tensorboard_writes() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/golden");
    let news = Tail::new(&golden.join("metrics.jsonl")).read().unwrap();
    assert_eq!(news.lines.len(), 5);
    assert_eq!(tensorboard::events(&news.lines), fs::read(golden.join("events.tfevents")).unwrap());
    let (run, out) = (Folder::whole("a/b", "asft"), tempfile::tempdir().unwrap());
    let path = tensorboard::write(out.path(), &read(&run)).unwrap();
    assert!(path.starts_with(out.path()) && path.metadata().unwrap().len() > 1000);
}

#[test]
fn a_record_is_followed_as_it_grows() {
    let run = Folder::whole("growing", "asft");
    let path = run.path().join("metrics.jsonl");
    fs::write(&path, "{\"step\":1,\"loss\":1}\n{\"step\":2,").unwrap();
    let mut tail = Tail::new(&path);
    assert_eq!(tail.read().unwrap().lines.len(), 1);
    assert_eq!(tail.read().unwrap().lines.len(), 0, "the torn line waits");
    fs::write(&path, "{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":3}\n").unwrap();
    assert_eq!(tail.read().unwrap().lines.len(), 2);
    fs::write(&path, "{\"step\":1,\"loss\":5}\n").unwrap();
    let news = tail.read().unwrap();
    assert!(news.restarted && news.lines[0]["loss"] == 5);
}

#[test]
fn the_live_view_fits_every_terminal() {
    let run = Folder::whole("a run", "asft");
    let watched = Watched::new(run.path()).unwrap();
    let frame = |width, height| {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| watched.draw(frame)).unwrap();
        let symbols = terminal.backend().buffer().content().iter().map(|cell| cell.symbol().to_owned());
        symbols.collect::<String>()
    };
    let text = frame(100, 30);
    for part in [
        "a run",
        "finished",
        "step 100 of 100",
        "reward accuracy",
        "of 10.0 MiB planned",
        "evaluation after step 100",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    for width in [0, 1, 2, 5, 11, 12, 13, 35, 36, 72, 200] {
        for height in [0, 1, 2, 3, 6, 11, 12, 13, 20, 60] {
            frame(width, height);
        }
    }
    run.keep_lines(|_| false);
    let empty = Watched::new(run.path()).unwrap();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| empty.draw(frame)).unwrap();
}

#[test]
fn every_chart_is_a_file_of_its_own_too() {
    let run = Folder::whole("a<b", "asft");
    for drawn in curves::charts(&[read(&run)]) {
        let svg = drawn.to_svg();
        assert!(
            svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n") && !svg.contains("NaN"),
            "{}",
            drawn.id
        );
    }
}
