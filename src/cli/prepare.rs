//! `asft prepare`: new data files from data files, one subcommand per recipe.

use std::path::{Path, PathBuf};

use asft::checkpoint::hub;
use asft::config::{ConfigError, TemplateArguments};
use asft::data::{ColumnMap, EncodeConfig, Encoder, Needs};
use asft::model::LlamaConfig;
use asft::prepare::{
    GoalConfig, GoalPlace, HeldOut, Output, PrepareError, Ranking, Report, SamplingConfig, Scale,
    SplitConfig, StopWords, Task,
};
use asft::prepare::{extract_prompt, rejection_sample, reward_augmented, split, token_diff};
use clap::{Args, Subcommand, ValueEnum};

use super::ExitStatus;
use super::exit::OrUsage;
use super::prepare_dynamics::{self, DynamicsArguments};
use super::progress::Bars;

/// The file of a model folder that says how it ends.
const CONFIG_FILE: &str = "config.json";

/// What is prepared.
#[derive(Args, Clone, Debug)]
pub struct PrepareArguments {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Clone, Debug, Subcommand)]
enum Recipe {
    /// Rows with their prompt in a column of its own, whatever shape they had
    ExtractPrompt(FileArguments),
    /// A file in two, for training and evaluation, that share no prompt
    Split(SplitArguments),
    /// Pairs with scores, each as two pairs with a goal: the score to reach (arXiv 2410.08067; train with dpo)
    #[command(allow_negative_numbers = true)]
    RewardAugmented(GoalArguments),
    /// Pairs from scored candidates by statistical rejection sampling: RSO (arXiv 2309.06657; train with dpo or hinge)
    RejectionSample(SamplingArguments),
    /// Which tokens differ between two answers, as token weights: BMC (arXiv 2408.07471; train with bmc)
    TokenDiff(TokenDiffArguments),
    /// How sure checkpoints of a training run are of each answer: SFTMix (arXiv 2410.05248; train with sftmix)
    TrainingDynamics(DynamicsArguments),
}

/// Which file becomes which.
#[derive(Args, Clone, Debug)]
pub struct FileArguments {
    /// The rows to start from, in any form and shape that asft train reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The file to write: JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
    /// A column by its name in the file: prompt=question. The new file has the usual names. May be repeated
    #[arg(long, value_name = "COLUMN=NAME")]
    map: Vec<String>,
    /// Stop at rows that cannot be used instead of leaving them out
    #[arg(long)]
    strict: bool,
}

#[derive(Args, Clone, Debug)]
struct SplitArguments {
    #[command(flatten)]
    files: FileArguments,
    /// The file for the rows that are held out; --output gets the others
    #[arg(long, value_name = "FILE.jsonl")]
    test_output: PathBuf,
    /// Share of the rows that is held out [default: 0.1]
    #[arg(long, value_name = "SHARE", conflicts_with = "count")]
    fraction: Option<f64>,
    /// Hold out this many rows instead
    #[arg(long, value_name = "ROWS")]
    count: Option<usize>,
    /// Decides which prompts are held out
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    seed: u64,
}

#[derive(Args, Clone, Debug)]
struct GoalArguments {
    #[command(flatten)]
    files: FileArguments,
    /// Worst and best score, as the goal names them
    #[arg(long, value_name = "MIN:MAX", default_value = "1:10", value_parser = scale)]
    scale: Scale,
    /// The scale of score_chosen and score_rejected, from which they are mapped linearly [default: that of --scale]
    #[arg(long, value_name = "MIN:MAX", value_parser = scale)]
    from_scale: Option<Scale>,
    /// Digits of a goal behind the point, at most
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=9))]
    decimals: u8,
    /// The goal in other words, with {score}, {min} and {max} where they belong
    #[arg(long, value_name = "TEXT")]
    wording: Option<String>,
    /// Where the goal stands in a conversation; prompt: in front of the user's first words, for templates without a system
    /// message
    #[arg(long, value_name = "PLACE", value_enum, default_value = "system")]
    goal_in: Place,
    /// Keep pairs whose rejected answer has the higher score
    #[arg(long)]
    keep_reversed: bool,
    /// Leave out pairs of equal scores
    #[arg(long)]
    drop_ties: bool,
}

/// [`GoalPlace`] as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    System,
    Prompt,
}

#[derive(Args, Clone, Debug)]
struct SamplingArguments {
    #[command(flatten)]
    files: FileArguments,
    /// Candidates that are accepted for each prompt, at most
    #[arg(long, value_name = "K", default_value_t = 8)]
    keep: usize,
    /// Temperature of acceptance: a candidate is accepted with probability exp((score - highest) / beta)
    #[arg(long, value_name = "BETA", default_value_t = 0.5)]
    beta: f64,
    /// Who is set against whom: everybody once, or the winners again until one is left
    #[arg(long, value_name = "HOW", value_enum, default_value = "first-round")]
    ranking: RankingName,
    /// Write prompts and answers that are strings as messages of the user and the assistant
    #[arg(long)]
    as_messages: bool,
    /// Decides everything random
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    seed: u64,
}

/// [`Ranking`] as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RankingName {
    FirstRound,
    Tournament,
}

#[derive(Args, Clone, Debug)]
struct TokenDiffArguments {
    #[command(flatten)]
    files: FileArguments,
    /// Folder (or ORG/NAME in the local Hugging Face cache) with the tokenizer and chat template of the model to be trained; its
    /// weights are not needed
    #[arg(long, value_name = "DIR", visible_alias = "tokenizer")]
    model: PathBuf,
    #[command(flatten)]
    template: TemplateArguments,
    /// Changed tokens that do not count: none; English stop words as the released code takes them; those, and with a space in
    /// front
    #[arg(long, value_name = "WHICH", value_enum, default_value = "released")]
    stop_words: StopWordsName,
}

/// [`StopWords`] as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StopWordsName {
    None,
    Released,
    Spaced,
}

/// Writes the new file and logs what became of the rows.
pub fn run(arguments: &PrepareArguments) -> anyhow::Result<ExitStatus> {
    let bars = &mut Bars::default();
    let outcome = match &arguments.recipe {
        Recipe::ExtractPrompt(files) => extract_prompt(&files.task()?, bars),
        Recipe::Split(arguments) => split(&arguments.files.task()?, &arguments.config()?, bars),
        Recipe::RewardAugmented(arguments) => {
            let config = arguments.config();
            let outcome = reward_augmented(&arguments.files.task()?, &config, bars);
            if outcome.is_ok() {
                tracing::info!("to ask for the best answers: {}", config.goal(config.scale.max));
            }
            outcome
        }
        Recipe::RejectionSample(arguments) => {
            rejection_sample(&arguments.files.task()?, &arguments.config()?, bars)
        }
        Recipe::TokenDiff(arguments) => {
            let encoder = arguments.encoder().or_usage()?;
            token_diff(&arguments.files.task()?, &encoder, arguments.stop_words.into(), bars)
        }
        Recipe::TrainingDynamics(arguments) => prepare_dynamics::run(arguments)?,
    };
    finish(outcome)
}

fn finish(outcome: Result<Report, PrepareError>) -> anyhow::Result<ExitStatus> {
    match outcome {
        Ok(report) => {
            report.log();
            Ok(ExitStatus::Success)
        }
        Err(error) if error.is_usage() => Err(error).or_usage(),
        Err(error) => Err(error.into()),
    }
}

impl FileArguments {
    /// The rows to start from.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Columns by their names in the file, as typed.
    pub(super) fn map(&self) -> &[String] {
        &self.map
    }

    /// What was typed, checked.
    pub(super) fn task(&self) -> anyhow::Result<Task> {
        let columns = ColumnMap::new(self.map.iter().map(String::as_str));
        let columns = columns.map_err(|source| ConfigError::Columns { source })?;
        let output = Output { path: self.output.clone(), overwrite: self.overwrite };
        Ok(Task { data: self.data.clone(), columns, output, strict: self.strict })
    }
}

impl SplitArguments {
    fn config(&self) -> anyhow::Result<SplitConfig> {
        let fraction = self.fraction.unwrap_or(0.1);
        let held_out = match self.count {
            Some(0) => return refused("--count 0 holds out nothing; give at least 1"),
            Some(count) => HeldOut::Rows(count),
            None if fraction > 0.0 && fraction < 1.0 => HeldOut::Fraction(fraction),
            None => {
                return refused(&format!("--fraction {fraction} is not between 0 and 1 (0.1 is a tenth)"));
            }
        };
        let output = Output { path: self.test_output.clone(), overwrite: self.files.overwrite };
        if self.test_output == self.files.output {
            return refused("--output and --test-output are the same file");
        }
        Ok(SplitConfig { held_out, output, seed: self.seed })
    }
}

impl GoalArguments {
    fn config(&self) -> GoalConfig {
        let unless = GoalConfig::default();
        GoalConfig {
            scale: self.scale,
            from: self.from_scale,
            decimals: usize::from(self.decimals),
            wording: self.wording.clone().unwrap_or(unless.wording),
            place: match self.goal_in {
                Place::System => GoalPlace::System,
                Place::Prompt => GoalPlace::Prompt,
            },
            keep_reversed: self.keep_reversed,
            drop_ties: self.drop_ties,
        }
    }
}

impl SamplingArguments {
    fn config(&self) -> anyhow::Result<SamplingConfig> {
        if self.keep < 2 {
            return refused(&format!("--keep {} makes no pair; give at least 2", self.keep));
        }
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return refused(&format!("--beta {} is not a number above 0", self.beta));
        }
        let ranking = match self.ranking {
            RankingName::FirstRound => Ranking::FirstRound,
            RankingName::Tournament => Ranking::Tournament,
        };
        let Self { keep, beta, as_messages, seed, .. } = *self;
        Ok(SamplingConfig { keep, beta, ranking, as_messages, seed })
    }
}

impl TokenDiffArguments {
    /// The encoder that training would use, without a bound.
    fn encoder(&self) -> anyhow::Result<Encoder> {
        let folder = hub::locate(&self.model)?.folder;
        let file = folder.join(CONFIG_FILE);
        // A folder of tokenizer files alone will do: then nothing bounds the ids.
        let model = file.exists().then(|| LlamaConfig::from_file(&file)).transpose()?;
        let config = EncodeConfig {
            vocab_size: model.as_ref().map_or(usize::MAX, |model| model.vocab_size),
            eos_ids: model.map(|model| model.eos_token_ids).unwrap_or_default(),
            needs: Needs::pairs(),
            template: self.template.resolve(),
            ..EncodeConfig::default()
        };
        Ok(Encoder::from_folder(&folder, config)?)
    }
}

impl From<StopWordsName> for StopWords {
    fn from(name: StopWordsName) -> Self {
        match name {
            StopWordsName::None => StopWords::None,
            StopWordsName::Released => StopWords::Released,
            StopWordsName::Spaced => StopWords::Spaced,
        }
    }
}

fn refused<T>(message: &str) -> anyhow::Result<T> {
    Err(anyhow::anyhow!("{message}")).or_usage()
}

/// Two numbers, the second the larger.
fn scale(typed: &str) -> Result<Scale, String> {
    let numbers = typed.split_once(':').and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match numbers {
        Some((min, max)) if f64::is_finite(max - min) && min < max => Ok(Scale { min, max }),
        _ => Err("give the worst and the best score, such as 1:10".to_owned()),
    }
}
