use std::path::Path;

use crate::golden::{batch, checkpoint, copy_folder};
use crate::shell::{Ran, Shell};

const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// A cache with two commits of `org/tiny`: its branch is at the older one.
struct Hub {
    shell: Shell,
    cache: String,
}

impl Hub {
    fn new() -> Self {
        let shell = Shell::new();
        let home = shell.path().join("hub/models--org--tiny");
        copy_folder(checkpoint("gqa-llama3").as_ref(), &home.join("snapshots").join(OLD));
        copy_folder(checkpoint("gqa-llama3-reference").as_ref(), &home.join("snapshots").join(NEW));
        let cache = shell.path().join("hub").display().to_string();
        let hub = Self { shell, cache };
        hub.move_branch(OLD);
        hub
    }

    fn move_branch(&self, commit: &str) {
        let refs = self.shell.path().join("hub/models--org--tiny/refs");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.join("main"), commit).unwrap();
    }

    fn asft(&self, line: &str) -> Ran {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.shell.asft_with(&[("HF_HUB_CACHE", &self.cache)], &words)
    }

    #[track_caller]
    fn done(&self, line: &str) -> Ran {
        let ran = self.asft(line);
        assert_eq!(ran.code, 0, "asft {line}\n{}", ran.stderr);
        ran
    }
}

fn train(model: &str, more: &str) -> String {
    let data = batch("train12");
    format!(
        "train --model {model} --data {data} --batch-size 4 --output run --save-steps 1 --reference-cache cache {more}"
    )
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_command_finds_a_model_by_its_name() {
    let hub = Hub::new();
    let data = batch("mixed6");
    for line in ["score", "plan", "inspect --stats"] {
        let by_name = hub.done(&format!("{line} --model org/tiny --data {data}"));
        let by_path =
            hub.done(&format!("{line} --model hub/models--org--tiny/snapshots/{OLD} --data {data}"));
        assert!(by_name.stderr.contains(&format!("org/tiny: snapshot {OLD}")), "{}", by_name.stderr);
        // A plan tells how much memory is free at the moment.
        if line != "plan" {
            assert_eq!(by_name.stdout, by_path.stdout);
        }
        let missing = hub.asft(&format!("{line} --model org/large --data {data}"));
        assert_eq!(missing.code, 2);
        assert!(missing.stderr.contains("Fetch it with: hf download org/large"), "{}", missing.stderr);
    }
    let reference = format!("--objective dpo --max-steps 1 --reference org/tiny@{NEW}");
    assert!(hub.done(&train("org/tiny", &reference)).stderr.contains(&format!("snapshot {NEW}")));
    let recorded = text(&hub.shell.path().join("run/run.toml"));
    assert!(recorded.contains(&format!("reference = [\"org/tiny@{NEW}\"]\n")), "{recorded}");
}

#[test]
fn a_run_stays_with_the_commit_that_it_began_with() {
    let hub = Hub::new();
    hub.done(&train("org/tiny", "--max-steps 2"));
    let run = hub.shell.path().join("run");
    assert!(text(&run.join("run.toml")).contains(&format!("model = \"org/tiny@{OLD}\"\n")));
    assert!(text(&run.join("README.md")).contains("base_model: org/tiny\n"));
    hub.move_branch(NEW);
    let resumed = hub.done(&train("org/tiny", "--max-steps 3 --resume"));
    assert!(resumed.stderr.contains(&format!("snapshot {OLD}")), "{}", resumed.stderr);
    // A branch that was typed is taken at its word; the model that it names now is another one.
    let moved = hub.asft(&train("org/tiny@main", "--max-steps 4 --resume"));
    assert_eq!(moved.code, 2);
    let row = moved.stderr.lines().find(|line| line.starts_with("  model ")).unwrap_or_default();
    assert!(
        row.contains(&format!("org/tiny@{NEW}")) && row.contains(&format!("org/tiny@{OLD}")),
        "{}",
        moved.stderr
    );
}
