//! A typed row -> a [`Group`] of token ids, or the [`Reason`] why it cannot be used.
//!
//! The rules, in order. *Conversations* are rendered by the chat template and encoded with nothing added. *Plain
//! text* gets BOS once if the tokenizer adds one, and EOS after each answer that does not end with it. *Token
//! ids* are used as they are. The encoded prompt must be a prefix of prompt + answer for both answers; where
//! tokens merge across the border, the split moves back to the common prefix. Then `max_length` bounds prompt +
//! each answer by cutting the answer's end.
//!
//! Boundary: one row at a time and no file names; [`super::dataset`] knows where a row came from and counts.

use std::fmt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::columns::{Message, PreferenceRow};
use super::error::{DataError, RowError};
use super::group::{Answer, Group};
use super::role::Role;
use super::template::{ChatTemplate, GivenTemplate, RenderError};
use super::template_date::TemplateDate;
use super::template_source::{TemplateChoice, TemplateText};
use super::tokenizer::Tokenizer;

/// What encoding must know of the model and of the user's wishes.
#[derive(Clone, Debug)]
pub struct EncodeConfig {
    /// The model's vocabulary: every id must be below it.
    pub vocab_size: usize,
    /// Upper bound of prompt + each answer in tokens; `None` for no bound.
    pub max_length: Option<usize>,
    /// The model's end tokens (`eos_token_id`); the first ends plain text where the tokenizer names no EOS.
    pub eos_ids: Vec<u32>,
    /// Whether answers keep their text for display.
    pub keep_text: bool,
    /// The chat template, where it is not the folder's.
    pub template: TemplateConfig,
}

/// Which chat template renders conversations, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateConfig {
    /// In place of the model folder's.
    pub choice: Option<TemplateChoice>,
    /// The date that `strftime_now` gives; without one it is undefined.
    pub date: Option<TemplateDate>,
}

/// Turns rows into groups; shared by the threads that encode.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    config: EncodeConfig,
}

/// The outcome for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// It can be used.
    Group(Group, Notes),
    /// It cannot.
    Unusable(Reason),
}

/// What happened to a usable row, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The prompt's last tokens merged with an answer, so they were counted as the answer's.
    pub moved_split: bool,
    /// Answers cut by `max_length`.
    pub truncated: usize,
    /// Answers whose end token was cut off.
    pub lost_end: usize,
    /// Both answers have the same tokens.
    pub identical: bool,
}

/// Why a row cannot be used. Displayed as in `score`'s output: `empty chosen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// No prompt token: nothing predicts an answer's first token.
    EmptyPrompt,
    /// The answer has no text, or no token.
    Empty(Role),
    /// The prompt fills `max_length`.
    PromptTooLong,
    /// The template shows nothing of the answer.
    NoResponseToken(Role),
}

impl Reason {
    /// What somebody can do who wants such rows to be used.
    pub fn remedy(self) -> &'static str {
        match self {
            Reason::PromptTooLong => "raise --max-length",
            Reason::EmptyPrompt | Reason::Empty(_) => "are these the columns that were meant?",
            Reason::NoResponseToken(_) => "does the chat template fit this data?",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::EmptyPrompt => write!(f, "empty prompt"),
            Reason::Empty(role) => write!(f, "empty {}", role.name()),
            Reason::PromptTooLong => write!(f, "prompt of max-length or more"),
            Reason::NoResponseToken(role) => write!(f, "no response token left in {}", role.name()),
        }
    }
}

/// A prompt and its two answers before the bounds are applied.
struct Pair {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    moved_split: bool,
    texts: [Option<String>; 2],
}

impl Encoder {
    /// An encoder of these parts; rows of token ids need neither tokenizer nor template.
    pub fn new(tokenizer: Option<Tokenizer>, template: Option<ChatTemplate>, config: EncodeConfig) -> Self {
        Self { tokenizer, template, config }
    }

    /// The tokenizer of a model folder and the chat template: the one that `config` asks for, else the folder's; as far as
    /// there are such. Special tokens that the template writes and the tokenizer lacks are warned about.
    ///
    /// # Errors
    /// Files that are there but cannot be read or make no sense.
    pub fn from_folder(folder: &Path, config: EncodeConfig) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let template = match &tokenizer {
            Some(tokenizer) => template(folder, &config.template, tokenizer)?,
            None => None,
        };
        Ok(Self::new(tokenizer, template, config))
    }

    /// The folder's tokenizer.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The folder's chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The chat template where it was asked for in place of the folder's, as a trained model is to carry it.
    pub fn given_template(&self) -> Option<GivenTemplate<'_>> {
        let (template, tokenizer) = (self.template.as_ref()?, self.tokenizer.as_ref()?);
        self.config.template.choice.as_ref()?;
        Some(GivenTemplate { source: template.source(), end_of_turn: template.end_of_turn(tokenizer) })
    }

    /// xxh3 of the template's text: what a resumed run must find again.
    pub fn template_fingerprint(&self) -> Option<u64> {
        self.template.as_ref().map(|template| xxh3_64(template.source().as_bytes()))
    }

    /// What the encoder was told.
    pub fn config(&self) -> &EncodeConfig {
        &self.config
    }

    /// Encodes one row; `row` is the number the group will carry.
    ///
    /// # Errors
    /// A [`RowError`]: something the user must repair, rather than a row that happens to be unusable.
    pub fn encode(&self, row: usize, content: PreferenceRow) -> Result<Encoded, RowError> {
        if let Some(reason) = empty_part(&content) {
            return Ok(Encoded::Unusable(reason));
        }
        let tokenised = matches!(content, PreferenceRow::Tokens { .. });
        let pair = match content {
            PreferenceRow::Text { prompt, chosen, rejected } => {
                self.encode_text(&prompt, chosen, rejected)?
            }
            PreferenceRow::Conversation { prompt, chosen, rejected } => {
                self.encode_conversation(&prompt, &chosen, &rejected)?
            }
            PreferenceRow::Tokens { prompt, chosen, rejected } => {
                Pair { prompt, chosen, rejected, moved_split: false, texts: [None, None] }
            }
        };
        self.check_vocabulary(&pair, tokenised)?;
        Ok(self.bound(row, pair))
    }

    fn encode_text(&self, prompt: &str, chosen: String, rejected: String) -> Result<Pair, RowError> {
        let tokenizer = self.tokenizer.as_ref().ok_or(RowError::NoTokenizer)?;
        let eos = tokenizer.eos_id().or_else(|| self.config.eos_ids.first().copied());
        let eos = eos.ok_or(RowError::NoEndToken)?;
        let encode = |text: &str, column| {
            tokenizer.encode_with_bos(text).map_err(|message| RowError::Tokenize { column, message })
        };
        let ended = |answer: &str, column| {
            let mut ids = encode(&[prompt, answer].concat(), column)?;
            if ids.last() != Some(&eos) {
                ids.push(eos);
            }
            Ok(ids)
        };
        let whole = [ended(&chosen, "chosen")?, ended(&rejected, "rejected")?];
        Ok(self.split(encode(prompt, "prompt")?, whole, [chosen, rejected]))
    }

    fn encode_conversation(
        &self,
        prompt: &[Message],
        chosen: &[Message],
        rejected: &[Message],
    ) -> Result<Pair, RowError> {
        let tokenizer = self.tokenizer.as_ref().ok_or(RowError::NoTokenizer)?;
        let template = self.template.as_ref().ok_or(RowError::NoTemplate)?;
        let render = |answer: &[Message], column| {
            let messages: Vec<&Message> = prompt.iter().chain(answer).collect();
            let text = template.render(&messages, answer.is_empty()).map_err(|error| match error {
                RenderError::Raised { message, line } => RowError::TemplateRaised { column, message, line },
                RenderError::Failed { message, line } => RowError::TemplateFailed { column, message, line },
            })?;
            let ids = tokenizer.encode(&text).map_err(|message| RowError::Tokenize { column, message })?;
            Ok((text, ids))
        };
        let (prompt_text, prompt_ids) = render(&[], "prompt")?;
        let (chosen_text, chosen_ids) = render(chosen, "chosen")?;
        let (rejected_text, rejected_ids) = render(rejected, "rejected")?;
        let answers = [chosen_text, rejected_text].map(|text| match text.strip_prefix(&prompt_text) {
            Some(answer) => answer.to_owned(),
            None => text,
        });
        Ok(self.split(prompt_ids, [chosen_ids, rejected_ids], answers))
    }

    /// Cuts prompt + answer where the prompt ends in both, at the latest where it ends by itself.
    fn split(&self, mut prompt: Vec<u32>, whole: [Vec<u32>; 2], texts: [String; 2]) -> Pair {
        let shared = |ids: &Vec<u32>| prompt.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let [chosen, rejected] = &whole;
        let border = shared(chosen).min(shared(rejected));
        let moved_split = border < prompt.len();
        prompt.truncate(border);
        let [chosen, rejected] = whole.map(|mut ids| ids.split_off(border));
        let texts = texts.map(|text| self.config.keep_text.then_some(text));
        Pair { prompt, chosen, rejected, moved_split, texts }
    }

    fn check_vocabulary(&self, pair: &Pair, tokenised: bool) -> Result<(), RowError> {
        let vocab_size = self.config.vocab_size;
        let columns = match tokenised {
            true => ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"],
            false => ["prompt", "chosen", "rejected"],
        };
        for (column, ids) in columns.into_iter().zip([&pair.prompt, &pair.chosen, &pair.rejected]) {
            if let Some(position) = ids.iter().position(|id| *id as usize >= vocab_size) {
                return Err(RowError::BeyondVocabulary { column, id: ids[position], position, vocab_size });
            }
        }
        Ok(())
    }

    /// Applies `max_length` and refuses what has nothing left to score.
    fn bound(&self, row: usize, pair: Pair) -> Encoded {
        let Pair { prompt, chosen, rejected, moved_split, texts } = pair;
        if prompt.is_empty() {
            return Encoded::Unusable(Reason::EmptyPrompt);
        }
        let room = match self.config.max_length {
            Some(max_length) if prompt.len() >= max_length => {
                return Encoded::Unusable(Reason::PromptTooLong);
            }
            Some(max_length) => max_length - prompt.len(),
            None => usize::MAX,
        };
        let mut notes = Notes { moved_split, identical: chosen == rejected, ..Notes::default() };
        let mut answers = Vec::with_capacity(2);
        let roles = [Role::Chosen, Role::Rejected];
        for ((role, mut ids), text) in roles.into_iter().zip([chosen, rejected]).zip(texts) {
            if ids.is_empty() {
                return Encoded::Unusable(Reason::NoResponseToken(role));
            }
            if ids.len() > room {
                notes.truncated += 1;
                let end = ids.iter().rposition(|id| self.ends_answer(*id));
                notes.lost_end += usize::from(end.is_some_and(|end| end >= room));
                ids.truncate(room);
            }
            answers.push(Answer { role, ids, scored: None, text });
        }
        Encoded::Group(Group { row, prompt, answers, annotations: None }, notes)
    }

    /// Any special token counts: the template's end of turn need not be the tokenizer's EOS.
    fn ends_answer(&self, id: u32) -> bool {
        self.config.eos_ids.contains(&id) || self.tokenizer.as_ref().is_some_and(|t| t.is_special(id))
    }
}

/// The template that is asked for, else the folder's.
fn template(
    folder: &Path,
    config: &TemplateConfig,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, DataError> {
    let text = match &config.choice {
        Some(choice) => Some(choice.load()?),
        None => TemplateText::of_folder(folder)?,
    };
    let Some(text) = text else { return Ok(None) };
    let template = ChatTemplate::new(text, tokenizer, config.date)?;
    let unknown = template.unknown_special_tokens(tokenizer);
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: the tokenizer has no special token {}: encoded as several ordinary tokens wherever the template writes it",
            template.origin(),
            unknown.join(", ")
        );
    }
    Ok(Some(template))
}

/// What is empty before anything is rendered: templates answer an empty conversation with an error, and an
/// answer without text would still get an end token.
fn empty_part(content: &PreferenceRow) -> Option<Reason> {
    let silent = |messages: &[Message]| messages.iter().all(|message| message.content().is_empty());
    // A prompt of no text is a prompt: BOS alone.
    let (prompt, chosen, rejected) = match content {
        PreferenceRow::Text { chosen, rejected, .. } => (false, chosen.is_empty(), rejected.is_empty()),
        PreferenceRow::Conversation { prompt, chosen, rejected } => {
            (prompt.is_empty(), silent(chosen), silent(rejected))
        }
        PreferenceRow::Tokens { prompt, chosen, rejected } => {
            (prompt.is_empty(), chosen.is_empty(), rejected.is_empty())
        }
    };
    let reasons = [
        (prompt, Reason::EmptyPrompt),
        (chosen, Reason::Empty(Role::Chosen)),
        (rejected, Reason::Empty(Role::Rejected)),
    ];
    reasons.into_iter().find_map(|(empty, reason)| empty.then_some(reason))
}
