//! The runs that figures are made of, as command lines of this program: what somebody could type by hand.

use std::path::{Path, PathBuf};

use super::cost::Variant;
use super::margins::Competitor;
use crate::config::PaperConfig;

/// Evaluations of a run of the margins after its first step, about.
const EVALUATIONS: usize = 6;

/// One call of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its name, which is that of its record and of its folder.
    pub name: String,
    /// What it writes.
    pub output: PathBuf,
    /// The command line, without the program.
    pub words: Vec<String>,
    /// Optimizer steps; 0 where nothing is trained.
    pub steps: usize,
}

/// The runs of one invocation.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    config: &'a PaperConfig,
    data: &'a Path,
}

impl<'a> Runs<'a> {
    /// On this data.
    pub fn new(config: &'a PaperConfig, data: &'a Path) -> Self {
        Self { config, data }
    }

    /// Where runs and everything they need lie.
    pub fn folder(config: &PaperConfig) -> PathBuf {
        config.runs.clone()
    }

    /// The folder of the tokenizer and configuration of the small model.
    pub fn material(&self) -> PathBuf {
        self.config.runs.join("material")
    }

    /// The model that every run starts from.
    pub fn start(&self) -> PathBuf {
        self.config.model.clone().unwrap_or_else(|| self.config.runs.join("start"))
    }

    /// The run that makes the model which all others start from out of random weights; none where a model is given.
    pub fn warm_up(&self) -> Option<Run> {
        if self.config.model.is_some() {
            return None;
        }
        let (material, steps) = (self.material(), self.config.warm_up_steps);
        let mut words = vec!["train".to_owned()];
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--init", shown(&material.join("config.json")));
        add("--tokenizer", shown(&material));
        add("--chat-template", self.config.chat_template.clone().unwrap_or_else(|| "llama3".to_owned()));
        add("--objective", "sft".to_owned());
        add("--max-steps", steps.to_string());
        add("--learning-rate", "1e-3".to_owned());
        add("--lr-scheduler-type", "cosine".to_owned());
        add("--warmup-ratio", "0.1".to_owned());
        add("--seed", "1".to_owned());
        Some(self.train("start".to_owned(), words, steps, None))
    }

    /// A run of figure 2a.
    pub fn margin(&self, competitor: &Competitor, seed: u64) -> Run {
        let config = self.config;
        let mut words = self.continued(config.max_steps, &competitor.words(config.lambda, config.beta));
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        match &config.eval_data {
            Some(file) => add("--eval-data", shown(file)),
            None => add("--eval-split", "0.1".to_owned()),
        }
        add("--eval-steps", config.max_steps.div_ceil(EVALUATIONS).to_string());
        add("--warmup-ratio", "0.1".to_owned());
        add("--seed", seed.to_string());
        // Shared: the reference is the same model in every run.
        add("--reference-cache", shown(&config.runs.join("reference-cache")));
        self.train(format!("{}-seed{seed}", competitor.name), words, config.max_steps, None)
    }

    /// A run of figure 2b: nothing but training, with a reference cache of its own.
    pub fn cost(&self, variant: &Variant, number: usize) -> Run {
        let config = self.config;
        let name = format!("cost-{}-{number}", variant.name);
        let mut words = self.continued(config.cost_steps, &variant.words(config.lambda, config.beta));
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--max-samples", self.cost_rows().to_string());
        add("--seed", "1".to_owned());
        add("--reference-cache", shown(&config.runs.join(format!("{name}.references"))));
        self.train(name, words, config.cost_steps, Some("--no-cache"))
    }

    /// Rows of the cost runs: half as many as the steps take, so that each is seen twice.
    pub fn cost_rows(&self) -> usize {
        (self.config.cost_steps * self.config.batch_size).div_ceil(2)
    }

    /// The run that lets models answer questions.
    pub fn answers(&self, models: &[PathBuf], questions: &Path) -> Run {
        let config = self.config;
        let output = config.runs.join("answers");
        let mut words: Vec<String> = ["eval", "mt-bench"].map(str::to_owned).into();
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        models.iter().for_each(|model| add("--model", shown(model)));
        add("--questions", shown(questions));
        add("--max-new-tokens", config.max_new_tokens.to_string());
        add("--seed", "1".to_owned());
        add("--output", shown(&output));
        words.extend(config.device.clone());
        Run { name: "answers".to_owned(), output, words, steps: 0 }
    }

    fn continued(&self, steps: usize, objective: &[String]) -> Vec<String> {
        let mut words = vec!["train".to_owned()];
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--model", shown(&self.start()));
        // The folder that a warm-up leaves has its template.
        if let Some(template) = self.config.chat_template.as_ref().filter(|_| self.config.model.is_some()) {
            add("--chat-template", template.clone());
        }
        add("--max-steps", steps.to_string());
        add("--learning-rate", self.config.learning_rate.to_string());
        words.extend_from_slice(objective);
        words
    }

    fn train(&self, name: String, mut words: Vec<String>, steps: usize, last: Option<&str>) -> Run {
        let output = self.config.runs.join(&name);
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--data", shown(self.data));
        add("--batch-size", self.config.batch_size.to_string());
        add("--max-length", self.config.max_length.to_string());
        add("--output", shown(&output));
        match last {
            Some(flag) => words.push(flag.to_owned()),
            None => words.extend(["--data-cache".to_owned(), shown(&self.config.runs.join("tokens"))]),
        }
        words.push("--overwrite-output-dir".to_owned());
        words.extend(self.config.device.clone());
        Run { name, output, words, steps }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
