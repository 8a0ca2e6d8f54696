//! `asft eval mt-bench`: each model answers both turns of every question.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use asft::backend::Backend;
use asft::checkpoint::{ModelFolder, hub};
use asft::config::{MtBenchArguments, MtBenchConfig};
use asft::data::{Message, Tokenizer};
use asft::eval::Progress;
use asft::eval::mt_bench::{self, ModelAnswer, Question};
use asft::generate::{
    Decoder, Demand, GenerateError, GenerationLayout, PromptEncoder, Request, Sampling, Settings, Unwatched,
};
use asft::train::Target;

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::progress::Bars;
use super::{ExitStatus, Layers, output};

/// Answers as the merged settings say.
pub fn run(arguments: &Layers<MtBenchArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve().or_usage()?;
    let questions = mt_bench::questions(&config.questions).or_usage()?;
    let subjects = Subject::all(&config).or_usage()?;
    fs_err::create_dir_all(&config.output).or_usage()?;
    let backend = choose(config.device, config.threads, config.formats.dtype)?;
    on_device!(backend, backend => answer_all(&config, &questions, &subjects, backend))?;
    Ok(ExitStatus::Success)
}

/// A model, its name and its file.
struct Subject {
    folder: ModelFolder,
    encoder: PromptEncoder,
    model_id: String,
    path: PathBuf,
}

impl Subject {
    fn all(config: &MtBenchConfig) -> anyhow::Result<Vec<Self>> {
        let subjects = config
            .models
            .iter()
            .map(|model| Self::open(model, config))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let names: BTreeMap<&str, &Subject> =
            subjects.iter().map(|subject| (subject.model_id.as_str(), subject)).collect();
        ensure!(
            names.len() == subjects.len(),
            "two models have one name; the folders' last parts must differ"
        );
        Ok(subjects)
    }

    fn open(path: &Path, config: &MtBenchConfig) -> anyhow::Result<Self> {
        let folder = ModelFolder::open(&hub::locate(path)?.folder)?;
        let vocabulary = folder.config().vocab_size;
        let encoder = PromptEncoder::from_folder(folder.dir(), vocabulary, config.template.clone())?;
        if encoder.tokenizer().is_none() {
            return Err(GenerateError::NoTokenizer { path: path.to_owned() }.into());
        }
        ensure!(
            encoder.is_chat(),
            "{}: MT-Bench is a conversation and needs a chat template",
            path.display()
        );
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = name.file_name().context("the model's folder has no name")?.to_string_lossy().into_owned();
        let path = config.output.join(format!("{name}.jsonl"));
        Ok(Self { folder, encoder, model_id: name, path })
    }

    /// The conversation so far, with the next question.
    fn conversation(&self, question: &Question, answers: &[String]) -> Result<Vec<u32>, GenerateError> {
        let mut messages = Vec::new();
        for (turn, text) in question.turns.iter().take(answers.len() + 1).enumerate() {
            messages.push(Message::new("user", text));
            messages.extend(answers.get(turn).map(|answer| Message::new("assistant", answer)));
        }
        self.encoder.conversation(&messages)
    }

    /// Tokens of the longest last conversation: all turns, and answers as long as they may be.
    fn longest(&self, questions: &[&Question], max_new_tokens: usize) -> Result<usize, GenerateError> {
        let mut longest = 0;
        for question in questions {
            let turns = question.turns.len().saturating_sub(1);
            let tokens = self.conversation(question, &vec![String::new(); turns])?.len();
            longest = longest.max(tokens + turns * max_new_tokens);
        }
        Ok(longest.min(self.folder.config().max_position_embeddings - 1))
    }
}

fn answer_all<B: Backend>(
    config: &MtBenchConfig,
    questions: &[Question],
    subjects: &[Subject],
    mut backend: B,
) -> anyhow::Result<()> {
    for subject in subjects {
        let mut answers = mt_bench::answers(&subject.path).or_usage()?;
        let left: Vec<&Question> =
            questions.iter().filter(|question| !answers.contains_key(&question.question_id)).collect();
        if left.len() < questions.len() {
            tracing::info!(
                "{}: {} of {} questions are answered already",
                subject.path.display(),
                questions.len() - left.len(),
                questions.len()
            );
        }
        if !left.is_empty() {
            answer(config, subject, &left, &mut answers, &mut backend)?;
        }
        output::print(&format!("{}\n", subject.path.display()))?;
    }
    Ok(())
}

/// Answers what is left, one temperature after the other, and saves after each.
fn answer<B: Backend>(
    config: &MtBenchConfig,
    subject: &Subject,
    left: &[&Question],
    answers: &mut BTreeMap<u64, ModelAnswer>,
    backend: &mut B,
) -> anyhow::Result<()> {
    let longest_prompt = subject.longest(left, config.max_new_tokens).or_usage()?;
    let demand = Demand {
        prompts: left.len(),
        longest_prompt,
        prompt_tokens: longest_prompt * left.len(),
        samples: 1,
        max_new_tokens: config.max_new_tokens,
        sequences: None,
    };
    let target = Target::of(backend);
    let layout = GenerationLayout::fit(subject.folder.config(), target, config.formats, demand).or_usage()?;
    layout.allocate(backend)?;
    layout.model.load(backend, &subject.folder)?;
    let mut decoder = Decoder::new(backend, &layout.model, &layout.activations, &layout.cache);
    let mut by_temperature: BTreeMap<u64, Vec<&Question>> = BTreeMap::new();
    for question in left {
        // Bits of a number that is not negative are in the order of the numbers.
        by_temperature.entry(question.temperature().to_bits()).or_default().push(question);
    }
    let mut bars = Bars::default();
    bars.begin(&subject.model_id, left.len());
    let mut done = 0;
    for (temperature, questions) in by_temperature {
        let sampling =
            Sampling { temperature: f64::from_bits(temperature), seed: config.seed, ..Sampling::GREEDY };
        let turns = turns(config, subject, &questions, sampling, &mut decoder)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        for (question, turns) in questions.iter().zip(turns) {
            let answer = ModelAnswer::new(question, &subject.model_id, turns, now);
            answers.insert(question.question_id, answer);
        }
        mt_bench::save(&subject.path, answers)?;
        done += questions.len();
        bars.advance(done, "");
    }
    bars.end();
    Ok(())
}

/// The answers to all turns of questions of one temperature.
fn turns<B: Backend>(
    config: &MtBenchConfig,
    subject: &Subject,
    questions: &[&Question],
    sampling: Sampling,
    decoder: &mut Decoder<'_, B>,
) -> anyhow::Result<Vec<Vec<String>>> {
    let tokenizer = subject.encoder.tokenizer().context("the folder's tokenizer is loaded")?;
    let mut stop = subject.folder.end_tokens();
    stop.extend(Tokenizer::eos_id(tokenizer));
    let settings = Settings { sampling, samples: 1, max_new_tokens: config.max_new_tokens, stop };
    let mut turns: Vec<Vec<String>> = vec![Vec::new(); questions.len()];
    let last = questions.iter().map(|question| question.turns.len()).max().unwrap_or(0);
    for turn in 0..last {
        let asked: Vec<usize> =
            (0..questions.len()).filter(|&index| turn < questions[index].turns.len()).collect();
        let prompts: Vec<Vec<u32>> = asked
            .iter()
            .map(|&index| subject.conversation(questions[index], &turns[index]))
            .collect::<Result<_, _>>()?;
        // A turn draws numbers of its own.
        let key = |index: usize| (questions[index].question_id << 8) + turn as u64;
        let requests: Vec<Request> =
            prompts.iter().zip(&asked).map(|(prompt, &index)| Request { prompt, key: key(index) }).collect();
        let answers = decoder.generate(&requests, &settings, &mut Unwatched)?;
        for (&index, answer) in asked.iter().zip(answers.into_iter().flatten()) {
            if answer.ids.is_empty() {
                tracing::warn!(
                    "question {}: turn {} is beyond the model's positions; its answer is empty",
                    questions[index].question_id,
                    turn + 1
                );
            }
            let text = tokenizer.decode(&answer.ids, true).map_err(anyhow::Error::msg)?;
            turns[index].push(text.trim().to_owned());
        }
    }
    Ok(turns)
}
