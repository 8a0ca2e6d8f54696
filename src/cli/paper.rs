//! `asft paper`: the figures of ASFT's paper, as far as this machine can make them.
//!
//! Runs are processes of their own, so that what they take is theirs alone, and are kept with the command line that made them: a run
//! that is there is not repeated.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use asft::backend::Backend;
use asft::bench::facts::Facts;
use asft::checkpoint::ModelFolder;
use asft::config::{Device, FormatConfig, PaperArguments, PaperConfig};
use asft::eval::mt_bench;
use asft::paper::answers::{self, Column};
use asft::paper::cost::{self, Measured, VARIANTS, Work};
use asft::paper::margins::{self, COMPETITORS, Competitor, Course};
use asft::paper::page::{self, Record};
use asft::paper::runs::{Run, Runs};
use asft::paper::{Figure, material, surfaces};
use clap::{Args, ValueEnum};

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::paper_runs::Kept;
use super::{ExitStatus, Layers, output};

/// Which figures, and how.
#[derive(Args, Clone, Debug)]
pub struct PaperCommand {
    /// The figures; all are those that the settings suffice for
    #[arg(value_name = "FIGURE", value_enum, default_value = "all")]
    figures: Vec<Choice>,
    #[command(flatten)]
    settings: Layers<PaperArguments>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Figure 1: loss surfaces and gradient fields; needs nothing
    Surfaces,
    /// Figure 2a: likelihood margin during training; needs --data
    Margins,
    /// Figure 2b: run time and peak memory; needs --data
    Cost,
    /// Answers to MT-Bench's questions; needs --data and --questions
    Answers,
    /// All of them
    All,
}

/// Makes the figures.
pub fn run(command: &PaperCommand) -> anyhow::Result<ExitStatus> {
    let config = command.settings.merge().or_usage()?.arguments.resolve().or_usage()?;
    let chosen = chosen(&command.figures, &config).or_usage()?;
    fs_err::create_dir_all(&config.output).or_usage()?;
    fs_err::create_dir_all(&config.runs).or_usage()?;
    let facts = facts(&config)?;
    for choice in chosen {
        let figure = match choice {
            Choice::Margins => margins(&config)?,
            Choice::Cost => cost(&config)?,
            Choice::Answers => answers(&config)?,
            Choice::Surfaces | Choice::All => surfaces::figure(),
        };
        let files = figure.save(&config.output)?;
        Record::new(&figure, files, &facts).save(&config.runs)?;
        output::print(&format!("{}\n{}\n\n", figure.title, figure.sentence))?;
    }
    let page = page::write(&config.runs, &config.output)?;
    output::print(&format!("{}\n", page.display()))?;
    Ok(ExitStatus::Success)
}

/// The figures that are asked for; of all, those that the settings suffice for.
fn chosen(typed: &[Choice], config: &PaperConfig) -> anyhow::Result<Vec<Choice>> {
    let lacks = |choice: Choice| match choice {
        Choice::Margins | Choice::Cost if config.data.is_none() => Some("--data"),
        Choice::Answers if config.data.is_none() => Some("--data"),
        Choice::Answers if config.questions.is_none() => Some("--questions"),
        _ => None,
    };
    let each = [Choice::Surfaces, Choice::Margins, Choice::Cost, Choice::Answers];
    let all = typed.contains(&Choice::All);
    let mut chosen = Vec::new();
    for choice in each.into_iter().filter(|choice| all || typed.contains(choice)) {
        let name = choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match lacks(choice) {
            None => chosen.push(choice),
            Some(flag) if all => tracing::info!("{name} is left out: it needs {flag}"),
            Some(flag) => bail!("{name} needs {flag}"),
        }
    }
    Ok(chosen)
}

/// Program and machine, as the runs will find them.
fn facts(config: &PaperConfig) -> anyhow::Result<Facts> {
    let word = |flag: &str| {
        let place = config.device.iter().position(|word| word == flag)?;
        config.device.get(place + 1).cloned()
    };
    let device = match word("--device").as_deref() {
        Some("cpu") => Device::Cpu,
        Some("cuda") => Device::Cuda,
        _ => Device::Auto,
    };
    let threads = word("--threads").and_then(|threads| threads.parse().ok());
    let backend = choose(device, threads, FormatConfig::default().dtype)?;
    let facts = on_device!(backend, backend => anyhow::Ok(facts_of(backend)))?;
    Ok(facts)
}

fn facts_of<B: Backend>(backend: B) -> Facts {
    let mut facts = Facts::of(&backend);
    // The program's own path says nothing to anybody else.
    let words: Vec<String> = std::env::args().skip(1).collect();
    facts.command = format!("asft {}", words.join(" "));
    facts
}

/// The runs on the data, and the model that they start from.
fn start<'a>(config: &'a PaperConfig, kept: &mut Kept) -> anyhow::Result<Runs<'a>> {
    let data = config.data.as_deref().context("--data is missing")?;
    let runs = Runs::new(config, data);
    if let Some(run) = runs.warm_up() {
        let folder = runs.material();
        if !folder.join("config.json").exists() {
            material::write(&folder, data).or_usage()?;
        }
        kept.run(&run)?;
    }
    Ok(runs)
}

fn margins(config: &PaperConfig) -> anyhow::Result<Figure> {
    let seeds = 1..=config.seeds;
    let mut kept = Kept::begin(config, "margins", COMPETITORS.len() * config.seeds as usize);
    let runs = start(config, &mut kept)?;
    let mut courses = Vec::new();
    // Seed by seed, so that a part of the work is already a comparison.
    for (seed, competitor) in seeds.flat_map(|seed| COMPETITORS.map(|competitor| (seed, competitor))) {
        let run = runs.margin(&competitor, seed);
        kept.run(&run)?;
        courses.push(Course::read(competitor, seed, &run.output.join("metrics.jsonl"))?);
    }
    kept.end();
    let mut notes = described(config, &runs)?;
    notes.push(format!(
        "{} steps of {} pairs; learning rate {} at its peak for all; lambda {} for ASFT and ORPO, beta {} for DPO; the NLL per sequence \
         over the answer. The same seed is the same order of the pairs.",
        config.max_steps, config.batch_size, config.learning_rate, config.lambda, config.beta
    ));
    Ok(margins::figure(&courses, notes))
}

fn cost(config: &PaperConfig) -> anyhow::Result<Figure> {
    let mut kept = Kept::begin(config, "cost", VARIANTS.len() * config.cost_runs);
    let runs = start(config, &mut kept)?;
    let mut measured = Vec::new();
    // In turns, so that a machine that changes its pace does so for all.
    for (number, variant) in
        (1..=config.cost_runs).flat_map(|number| VARIANTS.map(|variant| (number, variant)))
    {
        let run = runs.cost(&variant, number);
        let seconds = kept.run(&run)?;
        measured.push(Measured::read(variant, number, seconds, &run.output.join("metrics.jsonl"))?);
    }
    kept.end();
    let work = Work {
        steps: config.cost_steps,
        batch: config.batch_size,
        rows: runs.cost_rows(),
        weight_bytes: weight_bytes(&runs.start())?,
    };
    let mut notes = described(config, &runs)?;
    notes.push(format!(
        "{} steps of {} pairs, two epochs of {} pairs; from the start of the process to its end, with loading, the reference pass and \
         saving the result, which the derived model leaves out.",
        config.cost_steps,
        config.batch_size,
        runs.cost_rows()
    ));
    Ok(cost::figure(&measured, work, notes))
}

/// Bytes of the weights in a model's folder.
fn weight_bytes(folder: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ending| ending == "safetensors") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes as f64)
}

fn answers(config: &PaperConfig) -> anyhow::Result<Figure> {
    let questions_file = config.questions.as_deref().context("--questions is missing")?;
    let questions = mt_bench::questions(questions_file).or_usage()?;
    let mut kept = Kept::begin(config, "answers", COMPETITORS.len() + 1);
    let runs = start(config, &mut kept)?;
    let mut models: Vec<(String, PathBuf)> = vec![("Before".to_owned(), runs.start())];
    for competitor in &COMPETITORS {
        let run: Run = runs.margin(competitor, 1);
        kept.run(&run)?;
        models.push((title(competitor), run.output));
    }
    let folders: Vec<PathBuf> = models.iter().map(|(_, folder)| folder.clone()).collect();
    let run = runs.answers(&folders, questions_file);
    kept.run(&run)?;
    kept.end();
    let mut columns = Vec::new();
    for (title, folder) in &models {
        let name = fs_err::canonicalize(folder)?;
        let name = name.file_name().context("the model's folder has no name")?.to_string_lossy().into_owned();
        columns.push(Column::read(title, &run.output.join(format!("{name}.jsonl")))?);
    }
    let mut notes = described(config, &runs)?;
    notes.push(format!(
        "The models of the margins' first seed, and the one they started from; up to {} tokens, FastChat's temperatures. Questions are \
         FastChat's, shown by number, kind and first words.",
        config.max_new_tokens
    ));
    Ok(answers::figure(&questions, &columns, notes))
}

fn title(competitor: &Competitor) -> String {
    format!("After {}", competitor.title)
}

/// What the runs are of.
fn described(config: &PaperConfig, runs: &Runs) -> anyhow::Result<Vec<String>> {
    let folder = ModelFolder::open(&runs.start())?;
    let model = folder.config();
    let millions = weight_bytes(&runs.start())? / folder_bytes(&folder) / 1e6;
    let origin = match &config.model {
        Some(model) => format!("The model of {}", model.display()),
        None => format!(
            "A small model, trained from random weights on the chosen answers for {} steps, with a byte-level BPE of the same data",
            config.warm_up_steps
        ),
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data = config.data.as_deref().map(name).unwrap_or_default();
    let held_out = config.eval_data.as_deref().map_or_else(|| "a tenth of it".to_owned(), name);
    Ok(vec![format!(
        "{origin}: {millions:.1} million parameters, {} layers, {} tokens. Not the paper's Llama-3-8B. Trained on {data}, held out {held_out}.",
        model.num_hidden_layers, model.vocab_size
    )])
}

/// Bytes of one parameter as the folder stores it.
fn folder_bytes(folder: &ModelFolder) -> f64 {
    let text = std::fs::read_to_string(folder.dir().join("config.json")).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let dtype = value.get("dtype").or_else(|| value.get("torch_dtype")).and_then(serde_json::Value::as_str);
    if dtype == Some("float32") { 4.0 } else { 2.0 }
}
