//! `asft generate`: answers to prompts, as text while they come, or as JSON lines in the order of the prompts.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use asft::backend::{Backend, DeviceKind};
use asft::bench::kernels::copy_rate;
use asft::bench::timing::Timing;
use asft::checkpoint::{ModelFolder, hub};
use asft::config::{GenerateArguments, GenerateConfig, PromptSource};
use asft::data::Tokenizer;
use asft::eval::Progress;
use asft::generate::{
    Answer, AnswerText, Decoder, Demand, End, GenerateError, GenerationLayout, Prompt, PromptEncoder,
    Request, Settings, Statistics, Watcher, prompts,
};
use asft::train::Target;
use serde_json::{Value, json};

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::progress::Bars;
use super::{ExitStatus, Layers, chat, output};

/// Answers as the merged settings say.
pub fn run(arguments: &Layers<GenerateArguments>) -> anyhow::Result<ExitStatus> {
    let arguments = arguments.merge().or_usage()?.arguments;
    let config = arguments.resolve(io::stdin().is_terminal()).or_usage()?;
    let folder = ModelFolder::open(&hub::locate(&config.model).or_usage()?.folder).or_usage()?;
    let encoder = encoder(&config, &folder).or_usage()?;
    if config.source == PromptSource::Chat {
        return chat::run(&config, &folder, encoder);
    }
    let prompts = prompts(&config, &encoder).or_usage()?;
    prompts::check(&prompts, folder.config().max_position_embeddings).or_usage()?;
    let backend = choose(config.device, config.threads, config.formats.dtype)?;
    on_device!(backend, backend => answer(&config, &folder, &encoder, &prompts, backend))?;
    Ok(ExitStatus::Success)
}

/// The folder's tokenizer and template, told how to use them.
fn encoder(config: &GenerateConfig, folder: &ModelFolder) -> Result<PromptEncoder, GenerateError> {
    let mut encoder =
        PromptEncoder::from_folder(folder.dir(), folder.config().vocab_size, config.template.clone())?;
    encoder.system = config.system.clone();
    encoder.prefix.clone_from(&config.prefix);
    encoder.raw = config.raw;
    let text = !config.stop.is_empty() || !config.prefix.is_empty();
    if encoder.tokenizer().is_none() && text {
        return Err(GenerateError::NoTokenizer { path: config.model.clone() });
    }
    Ok(encoder)
}

fn prompts(config: &GenerateConfig, encoder: &PromptEncoder) -> Result<Vec<Prompt>, GenerateError> {
    match &config.source {
        PromptSource::Text(text) => Ok(vec![encoder.text(text)?]),
        PromptSource::File(path) => encoder.file(path),
        PromptSource::Ids(path) => encoder.ids_file(path),
        PromptSource::Chat => Ok(Vec::new()),
    }
}

/// Settings of the decoder: the model's end tokens, those of the folder's generation_config.json, and those asked for.
pub fn settings(config: &GenerateConfig, folder: &ModelFolder, tokenizer: Option<&Tokenizer>) -> Settings {
    let mut stop = config.stop_tokens.clone();
    if !config.ignore_eos {
        stop.extend(folder.end_tokens());
        stop.extend(tokenizer.and_then(Tokenizer::eos_id));
    }
    Settings {
        sampling: config.sampling,
        samples: config.samples,
        max_new_tokens: config.max_new_tokens,
        stop,
    }
}

fn answer<B: Backend>(
    config: &GenerateConfig,
    folder: &ModelFolder,
    encoder: &PromptEncoder,
    prompts: &[Prompt],
    mut backend: B,
) -> anyhow::Result<()> {
    let demand = Demand {
        prompts: prompts.len(),
        longest_prompt: prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0),
        prompt_tokens: prompts.iter().map(|prompt| prompt.ids.len()).sum(),
        samples: config.samples,
        max_new_tokens: config.max_new_tokens,
        sequences: config.batch_size,
    };
    let layout =
        GenerationLayout::fit(folder.config(), Target::of(&backend), config.formats, demand).or_usage()?;
    let bandwidth = bandwidth(&mut backend);
    layout.allocate(&mut backend)?;
    layout.model.load(&mut backend, folder)?;
    let settings = settings(config, folder, encoder.tokenizer());
    let requests: Vec<Request> =
        prompts.iter().map(|prompt| Request { prompt: &prompt.ids, key: prompt.index as u64 }).collect();
    let mut answers = Answers::new(config, encoder, prompts)?;
    let mut decoder = Decoder::new(&mut backend, &layout.model, &layout.activations, &layout.cache);
    let result = decoder.generate(&requests, &settings, &mut answers);
    let statistics = decoder.statistics;
    // What was answered before a failure is kept.
    answers.close()?;
    result.context("generating failed")?;
    report(&statistics, layout.sequences, bandwidth);
    Ok(())
}

/// Bytes per second of a large copy: what a decoding pass, which mostly reads weights, is compared with.
fn bandwidth<B: Backend>(backend: &mut B) -> Option<f64> {
    let bytes = match B::KIND {
        DeviceKind::Cpu => 64 << 20,
        DeviceKind::Cuda => 256 << 20,
    };
    copy_rate(backend, bytes, Timing { rounds: 3, round_seconds: 0.0 }).ok()
}

/// Tokens per second, and how many the memory would allow.
fn report(statistics: &Statistics, sequences: usize, bandwidth: Option<f64>) {
    let Statistics { prompt_tokens, prompt_seconds, new_tokens, decode_seconds, decode_bytes, .. } =
        *statistics;
    if new_tokens == 0 {
        return;
    }
    let floor = bandwidth.map_or_else(String::new, |rate| {
        format!(
            "; reading weights and cache at {:.1} GB/s would give {:.1}",
            rate / 1e9,
            new_tokens as f64 / (decode_bytes / rate)
        )
    });
    tracing::info!(
        "prompts: {prompt_tokens} tokens in {prompt_seconds:.2} s. answers: {new_tokens} tokens in {decode_seconds:.2} s, \
         up to {sequences} side by side: {:.1} tokens/s{floor}",
        new_tokens as f64 / decode_seconds
    );
}

/// Answers on their way out.
struct Answers<'a> {
    config: &'a GenerateConfig,
    prompts: &'a [Prompt],
    tokenizer: Option<&'a Tokenizer>,
    /// Texts under way, by prompt and sample.
    texts: BTreeMap<(usize, usize), AnswerText<'a>>,
    /// Finished lines that wait for earlier ones.
    waiting: BTreeMap<(usize, usize), String>,
    /// The next line to be written.
    next: (usize, usize),
    /// A prefix that has not been shown yet, where text is shown as it comes.
    shown: Option<Shown>,
    sink: Sink,
    failure: Option<anyhow::Error>,
    bars: Bars,
    done: usize,
}

/// What a person sees of a single prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Text as it comes.
    Stream,
    /// Text of whole answers, numbered.
    Numbered,
}

/// Where lines go.
enum Sink {
    Stdout,
    /// Under another name until everything is there.
    File {
        file: fs_err::File,
        aside: PathBuf,
        path: PathBuf,
    },
}

impl Sink {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".partial");
        let aside = PathBuf::from(aside);
        let file = fs_err::File::create(&aside)?;
        Ok(Self::File { file, aside, path: path.to_owned() })
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::Stdout => output::print(text),
            Self::File { file, .. } => Ok(file.write_all(text.as_bytes())?),
        }
    }
}

impl<'a> Answers<'a> {
    fn new(
        config: &'a GenerateConfig,
        encoder: &'a PromptEncoder,
        prompts: &'a [Prompt],
    ) -> anyhow::Result<Self> {
        let is_text = matches!(config.source, PromptSource::Text(_));
        let shown = match (is_text && !config.json && config.output.is_none(), config.samples) {
            (false, _) => None,
            (true, 1) => Some(Shown::Stream),
            (true, _) => Some(Shown::Numbered),
        };
        let mut bars = Bars::default();
        if shown.is_none() {
            bars.begin("answering", prompts.len() * config.samples);
        }
        let mut sink = Sink::open(config.output.as_deref()).or_usage()?;
        if shown == Some(Shown::Stream) {
            sink.write(&config.prefix)?;
        }
        Ok(Self {
            config,
            prompts,
            tokenizer: encoder.tokenizer(),
            texts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: (0, 0),
            shown,
            sink,
            failure: None,
            bars,
            done: 0,
        })
    }

    /// The text of an answer under way; `None` without a tokenizer.
    fn text(&mut self, at: (usize, usize)) -> Option<&mut AnswerText<'a>> {
        let tokenizer = self.tokenizer?;
        let stops = &self.config.stop;
        Some(self.texts.entry(at).or_insert_with(|| AnswerText::new(tokenizer, stops)))
    }

    fn take_token(&mut self, at: (usize, usize), token: u32) -> anyhow::Result<bool> {
        let Some(text) = self.text(at) else { return Ok(false) };
        let piece = text.push(token).map_err(anyhow::Error::msg)?;
        if self.shown == Some(Shown::Stream) && !piece.text.is_empty() {
            self.sink.write(&piece.text)?;
        }
        Ok(piece.stopped)
    }

    fn take_answer(&mut self, at: (usize, usize), answer: &Answer) -> anyhow::Result<()> {
        let mut text = None;
        if let Some(under_way) = self.text(at) {
            let rest = under_way.finish().map_err(anyhow::Error::msg)?;
            text = Some(under_way.text().to_owned());
            if self.shown == Some(Shown::Stream) {
                self.sink.write(&(rest + "\n"))?;
            }
        }
        self.texts.remove(&at);
        self.done += 1;
        self.bars.advance(self.done, "");
        if self.shown == Some(Shown::Stream) {
            return Ok(());
        }
        let line = self.line(at, answer, text);
        self.waiting.insert(at, line);
        while let Some(line) = self.waiting.remove(&self.next) {
            self.sink.write(&line)?;
            let (prompt, sample) = self.next;
            self.next = if sample + 1 < self.config.samples { (prompt, sample + 1) } else { (prompt + 1, 0) };
        }
        Ok(())
    }

    /// What is written of a finished answer.
    fn line(&self, (prompt, sample): (usize, usize), answer: &Answer, text: Option<String>) -> String {
        let text = text.map(|text| self.config.prefix.clone() + &text);
        if self.shown == Some(Shown::Numbered) {
            return format!("--- {} ---\n{}\n", sample + 1, text.unwrap_or_default());
        }
        let finish = match answer.end {
            End::Stop => "stop",
            End::Length => "length",
            End::Context => "context",
        };
        let Prompt { index, ids, shown, .. } = &self.prompts[prompt];
        let mut line = json!({ "row": index, "sample": sample });
        if !matches!(self.config.source, PromptSource::Ids(_)) {
            line["prompt"] = shown.clone();
        }
        if let Some(text) = text {
            line["text"] = Value::from(text);
        }
        line["ids"] = Value::from(answer.ids.clone());
        line["prompt_tokens"] = Value::from(ids.len());
        line["finish_reason"] = Value::from(finish);
        format!("{line}\n")
    }

    fn keep(&mut self, failure: anyhow::Error) -> ControlFlow<()> {
        self.failure.get_or_insert(failure);
        ControlFlow::Break(())
    }

    /// Everything is there, or as much as there will be: the file gets its name.
    fn close(mut self) -> anyhow::Result<()> {
        self.bars.end();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if let Sink::File { file, aside, path } = self.sink {
            file.sync_all()?;
            if self.done == self.prompts.len() * self.config.samples {
                fs_err::rename(aside, path)?;
            } else {
                tracing::warn!("{}: the answers so far", aside.display());
            }
        }
        Ok(())
    }
}

impl Watcher for Answers<'_> {
    fn token(&mut self, request: usize, sample: usize, token: u32) -> ControlFlow<()> {
        match self.take_token((request, sample), token) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(()),
            Err(failure) => self.keep(failure),
        }
    }

    fn ended(&mut self, request: usize, sample: usize, answer: &Answer) -> ControlFlow<()> {
        match self.take_answer((request, sample), answer) {
            Ok(()) if self.failure.is_none() => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(failure) => self.keep(failure),
        }
    }
}
