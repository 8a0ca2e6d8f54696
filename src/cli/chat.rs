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
    Settings, Watcher,
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
    encoder: PromptEncoder,
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
    let mut decoder = Decoder::new(&mut backend, &layout.model, &layout.activations, &layout.cache);
    decoder.remember();
    let settings = generate::settings(config, folder, encoder.tokenizer());
    let mut conversation =
        Conversation { config, settings, encoder, positions, messages: Vec::new(), turns: 0 };
    eprintln!("{HELP}.");
    let mut lines = io::stdin().lock().lines();
    loop {
        eprint!("> ");
        io::stderr().flush().context("cannot write to stderr")?;
        let Some(line) = lines.next() else {
            eprintln!();
            return Ok(());
        };
        match Typed::of(&line.context("cannot read from stdin")?) {
            Typed::Nothing => {}
            Typed::Exit => return Ok(()),
            Typed::Reset => conversation.messages.clear(),
            Typed::System(text) => {
                conversation.encoder.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                conversation.messages.clear();
            }
            Typed::Unknown => eprintln!("{HELP}."),
            Typed::Turn(text) => conversation.turn(text, &mut decoder)?,
        }
    }
}

/// What has been said.
struct Conversation<'a> {
    config: &'a GenerateConfig,
    settings: Settings,
    encoder: PromptEncoder,
    /// Tokens that there is room for.
    positions: usize,
    messages: Vec<Message>,
    /// Turns answered, over all conversations.
    turns: u64,
}

impl Conversation<'_> {
    /// The user's words and the answer to them. What cannot be answered is said and forgotten.
    fn turn<B: Backend>(&mut self, text: &str, decoder: &mut Decoder<'_, B>) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let ids = match self.encoder.conversation(&self.messages) {
            Ok(ids) if ids.len() < self.positions => ids,
            Ok(ids) => {
                self.messages.pop();
                tracing::error!(
                    "the conversation has {} tokens, and there is room for {}: /reset begins a new one, \
                     --context TOKENS makes room for longer ones",
                    ids.len(),
                    self.positions
                );
                return Ok(());
            }
            Err(error) => {
                self.messages.pop();
                tracing::error!("{error}");
                return Ok(());
            }
        };
        let tokenizer = self.encoder.tokenizer().context("the folder's tokenizer is loaded")?;
        let mut speech = Speech::new(tokenizer, self.config)?;
        let requests = [Request { prompt: &ids, key: self.turns }];
        decoder.generate(&requests, &self.settings, &mut speech).context("generating failed")?;
        self.messages.push(Message::new("assistant", &speech.close(self.config)?));
        self.turns += 1;
        Ok(())
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
