//! Run folders as `asft train` leaves them, without a run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

/// A folder that goes away at the end.
pub struct Folder {
    _above: TempDir,
    path: PathBuf,
}

impl Folder {
    /// A finished run of 100 steps with all of its records.
    pub fn whole(name: &str, objective: &str) -> Self {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join(name);
        fs::create_dir_all(&path).unwrap();
        let folder = Self { _above: above, path };
        folder.write("metrics.jsonl", &metrics());
        folder.write("samples.jsonl", &samples());
        folder.write("trainer_state.json", "{\"global_step\": 100}");
        let settings = format!(
            "# asft run configuration, version 0.1.0\nobjective = \"{objective}\"\nseed = 1\noutput = {:?}\n",
            folder.path.display().to_string()
        );
        folder.write("run.toml", &settings);
        let lengths = json!([{"part": "prompt", "min": 3, "median": 9, "p90": 20, "max": 50}]);
        let facts = json!({
            "objective": objective, "device": "CPU, 2 threads", "parameters": 1000, "steps": 100, "epochs": 1.5,
            "planned": [{"what": "weights", "bytes": 10 << 20}],
            "data": {"rows": 600, "used": 590, "dropped": 10, "lengths": lengths},
            "eval_data": {"rows": 256, "used": 256, "lengths": lengths},
        });
        folder.write("facts.json", &facts.to_string());
        folder
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    /// Leaves only these lines of `metrics.jsonl`.
    pub fn keep_lines(&self, keep: impl Fn(&str) -> bool) {
        let text = fs::read_to_string(self.path.join("metrics.jsonl")).unwrap();
        let kept: String = text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect();
        self.write("metrics.jsonl", &kept);
    }
}

fn metrics() -> String {
    let mut text = String::new();
    for step in 0..=100u32 {
        let done = f64::from(step) / 100.0;
        if step > 0 {
            let noise = f64::from(step * 7919 % 101) / 101.0 - 0.5;
            let line = json!({
                "step": step, "epoch": done, "loss": 2.0 - done + 0.3 * noise, "learning_rate": 1e-3 * (1.0 - done),
                "grad_norm": 1.0 + 0.5 * noise, "rewards/accuracies": (0.5 + done / 2.0 + 0.2 * noise).clamp(0.0, 1.0),
                "rewards/margins": 3.0 * done + noise, "logps/chosen": -2.0 + done, "logps/rejected": -2.0 - 2.0 * done,
                "nll_loss": 2.0 - done, "tokens_per_second": 1000.0 + 50.0 * noise, "peak_memory_bytes": 20 << 20,
                "step_seconds": 0.25,
            });
            text += &format!("{line}\n");
        }
        if step % 25 == 0 {
            let accuracy = 0.5 + 0.49 * done;
            let line = json!({
                "step": step, "eval_loss": 2.0 - done, "eval_rewards/accuracies": accuracy,
                "eval_rewards/margins": 3.0 * done, "eval_logps/chosen": -2.0 + done, "eval_logps/rejected": -2.0 - 2.0 * done,
                "eval_nll_loss": 2.0 - done,
                "eval_intervals": {"loss": [1.9 - done, 2.1 - done], "rewards/accuracies": [accuracy - 0.01, accuracy + 0.01]},
            });
            text += &format!("{line}\n");
        }
    }
    text
}

fn samples() -> String {
    let prompts = [
        "Say hello to a very long word: Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenfabrik",
        "2 + 2",
    ];
    let mut text = String::new();
    for step in [0, 50, 100] {
        for (place, prompt) in prompts.iter().enumerate() {
            let exact = step == 100 && place == 1;
            let answer = if exact { "four".to_owned() } else { "x".repeat(300) };
            text += &format!(
                "{}\n",
                json!({"step": step, "prompt": prompt, "answer": answer, "expected": "four", "exact": exact})
            );
        }
    }
    text
}
