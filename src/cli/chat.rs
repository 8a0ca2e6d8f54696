//! A chat: turns from stdin, answers to stdout as they come, the conversation kept in the key/value cache.

use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use asft::backend::Backend;
use asft::checkpoint::ModelFolder;
use asft::config::GenerateConfig;
use asft::data::{Message, Tokenizer};
use asft::generate::{
    Answer, AnswerText, Decoder, Demand, End, GenerateError, GenerationLayout, PromptEncoder, Request,
    Watcher,
};
use asft::train::Target;

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::{ExitStatus, generate, output};

/// Tokens of a conversation unless something else is asked for.
const CONTEXT: usize = 4096;

const HELP: &str = "/reset begins a new conversation, /system TEXT sets what the system says and begins one, \
                    /exit or Ctrl-D ends";

/// Talks until the input ends.
pub fn run(
    config: &GenerateConfig,
    folder: &ModelFolder,
    encoder: PromptEncoder,
) -> anyhow::Result<ExitStatus> {
    if encoder.tokenizer().is_none() {
        return Err(GenerateError::NoTokenizer { path: config.model.clone() }).or_usage();
    }
    if !encoder.is_chat() {
        let problem = if config.raw { "--raw leaves it out" } else { "the folder has none" };
        let message = format!(
            "{}: a chat needs a chat template, and {problem}; continue a text with --prompt TEXT",
            config.model.display()
        );
        return Err(anyhow::Error::msg(message)).or_usage();
    }
    let backend = choose(config.device, config.threads, config.formats.dtype)?;
    on_device!(backend, backend => talk(config, folder, encoder, backend))?;
    Ok(ExitStatus::Success)
}

fn talk<B: Backend>(
    config: &GenerateConfig,
    folder: &ModelFolder,
    mut encoder: PromptEncoder,
    mut backend: B,
) -> anyhow::Result<()> {
    let positions = config.context.unwrap_or(CONTEXT).min(folder.config().max_position_embeddings);
    let answer = config.max_new_tokens.min(positions - 1);
    let demand = Demand {
        prompts: 1,
        longest_prompt: positions - answer,
        prompt_tokens: positions - answer,
        samples: 1,
        max_new_tokens: answer,
        sequences: None,
    };
    let layout =
        GenerationLayout::fit(folder.config(), Target::of(&backend), config.formats, demand).or_usage()?;
    layout.allocate(&mut backend)?;
    layout.model.load(&mut backend, folder)?;
    let settings = generate::settings(config, folder, encoder.tokenizer());
    let mut decoder = Decoder::new(&mut backend, &layout.model, &layout.activations, &layout.cache);
    decoder.remember();
    let mut messages: Vec<Message> = Vec::new();
    let mut turn = 0;
    eprintln!("{HELP}.");
    let mut lines = io::stdin().lock().lines();
    loop {
        eprint!("> ");
        io::stderr().flush().context("cannot write to stderr")?;
        let Some(line) = lines.next() else {
            eprintln!();
            return Ok(());
        };
        let line = line.context("cannot read from stdin")?;
        match Typed::of(&line) {
            Typed::Nothing => continue,
            Typed::Exit => return Ok(()),
            Typed::Reset => messages.clear(),
            Typed::System(text) => {
                encoder.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                messages.clear();
            }
            Typed::Unknown => eprintln!("{HELP}."),
            Typed::Turn(text) => {
                messages.push(Message::new("user", text));
                let ids = match encoder.conversation(&messages) {
                    Ok(ids) => ids,
                    Err(error) => {
                        messages.pop();
                        tracing::error!("{error}");
                        continue;
                    }
                };
                if ids.len() >= positions {
                    messages.pop();
                    tracing::error!(
                        "the conversation has {} tokens, and there is room for {positions}: /reset begins a new one, \
                         --context TOKENS makes room for longer ones",
                        ids.len()
                    );
                    continue;
                }
                let tokenizer = encoder.tokenizer().context("the folder's tokenizer is loaded")?;
                let mut speech = Speech::new(tokenizer, config)?;
                let requests = [Request { prompt: &ids, key: turn }];
                decoder.generate(&requests, &settings, &mut speech).context("generating failed")?;
                messages.push(Message::new("assistant", &speech.close(config)?));
                turn += 1;
            }
        }
    }
}

/// What a line of input means.
enum Typed<'a> {
    Nothing,
    Exit,
    Reset,
    System(&'a str),
    Unknown,
    Turn(&'a str),
}

impl<'a> Typed<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Nothing } else { Self::Turn(line) };
        };
        match command.split_once(char::is_whitespace).unwrap_or((command, "")) {
            ("exit" | "quit", "") => Self::Exit,
            ("reset", "") => Self::Reset,
            ("system", text) => Self::System(text.trim()),
            _ => Self::Unknown,
        }
    }
}

/// An answer that is shown as it comes.
struct Speech<'a> {
    text: AnswerText<'a>,
    failure: Option<anyhow::Error>,
    end: Option<End>,
}

impl<'a> Speech<'a> {
    fn new(tokenizer: &'a Tokenizer, config: &'a GenerateConfig) -> anyhow::Result<Self> {
        output::print(&config.prefix)?;
        Ok(Self { text: AnswerText::new(tokenizer, &config.stop), failure: None, end: None })
    }

    /// The whole answer, once it has ended.
    fn close(mut self, config: &GenerateConfig) -> anyhow::Result<String> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let rest = self.text.finish().map_err(anyhow::Error::msg)?;
        output::print(&(rest + "\n"))?;
        if self.end.is_some_and(|end| end != End::Stop) {
            tracing::warn!("the answer is cut: --max-new-tokens or the conversation's room is used up");
        }
        Ok(config.prefix.clone() + self.text.text())
    }
}

impl Watcher for Speech<'_> {
    fn token(&mut self, _: usize, _: usize, token: u32) -> ControlFlow<()> {
        let shown = self.text.push(token).map_err(anyhow::Error::msg).and_then(|piece| {
            output::print(&piece.text)?;
            Ok(piece.stopped)
        });
        match shown {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    fn ended(&mut self, _: usize, _: usize, answer: &Answer) -> ControlFlow<()> {
        self.end = Some(answer.end);
        ControlFlow::Continue(())
    }
}
