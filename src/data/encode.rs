//! An [`Example`] -> a [`Group`] of token ids, or the [`Reason`] why it cannot be used.
//!
//! The rules, in order. *Conversations* are rendered by the chat template and encoded with nothing added. *Plain
//! text*, to which a transcript belongs where there is no template, gets BOS once if the tokenizer adds one, and EOS
//! after each answer that does not end with it. *Token ids* are used as they are. The encoded prompt must be a prefix
//! of prompt + answer for every answer; where tokens merge across the border, the split moves back to the common prefix.
//! A token is scored if any of its text is. Then `max_length` bounds prompt + each answer by cutting the answer's end.
//!
//! Boundary: one row at a time and no file names; [`super::dataset`] knows where a row came from and counts.

use std::fmt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::columns::{ColumnMap, Columns};
use super::conversation::{Ending, render};
use super::error::{DataError, RowError};
use super::example::{Conversation, Example, Part, Parts};
use super::group::{Answer, Group};
use super::message::Message;
use super::needs::{Needs, RowAnnotations};
use super::place::Numbering;
use super::role::Role;
use super::rows::Row;
use super::shape::FileShape;
use super::template::{ChatTemplate, GivenTemplate};
use super::template_date::TemplateDate;
use super::template_source::{TemplateChoice, TemplateText};
use super::tokenizer::Tokenizer;

/// What encoding must know of the model and of the user's wishes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodeConfig {
    /// The model's vocabulary: every id must be below it.
    pub vocab_size: usize,
    /// Upper bound of prompt + each answer in tokens; `None` for no bound.
    pub max_length: Option<usize>,
    /// What becomes of a row with a longer answer.
    pub truncation: Truncation,
    /// Whether a row whose two answers have the same tokens is dropped.
    pub drop_identical: bool,
    /// What every row must have.
    pub needs: Needs,
    /// Columns that go by other names.
    pub columns: ColumnMap,
    /// The model's end tokens (`eos_token_id`); the first ends plain text where the tokenizer names no EOS.
    pub eos_ids: Vec<u32>,
    /// Whether answers keep their text for display.
    pub keep_text: bool,
    /// The chat template, where it is not the folder's.
    pub template: TemplateConfig,
}

impl EncodeConfig {
    /// The same settings without those that cut and drop.
    pub fn unbounded(self) -> Self {
        Self { max_length: None, drop_identical: false, ..self }
    }
}

/// Which chat template renders conversations, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateConfig {
    /// In place of the model folder's.
    pub choice: Option<TemplateChoice>,
    /// The date that `strftime_now` gives; without one it is undefined.
    pub date: Option<TemplateDate>,
}

/// What becomes of a row with an answer that `max_length` does not leave room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// The answer's end is cut off.
    #[default]
    KeepStart,
    /// The row is dropped.
    Drop,
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
    /// Special tokens that the row's own text holds, apart from a BOS before and an EOS after plain text.
    pub special_tokens: usize,
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
    /// The template shows nothing of the answer, or `max_length` leaves nothing that is scored.
    NoResponseToken(Role),
    /// The answer is longer than `max_length` leaves room for, and such rows are to be dropped.
    TooLong(Role),
    /// In a file of transcripts, the text does not begin with a turn.
    NoTranscript(Role),
    /// The conversation does not end with a turn of the assistant's.
    LastTurn(Role),
    /// Both answers have the same tokens, and such rows are to be dropped.
    Identical,
}

impl Reason {
    /// What somebody can do who wants such rows to be used.
    pub fn remedy(self) -> &'static str {
        match self {
            Reason::PromptTooLong => "raise --max-length",
            Reason::EmptyPrompt | Reason::Empty(_) => "are these the columns that were meant?",
            Reason::NoResponseToken(_) => "does the chat template fit this data?",
            Reason::TooLong(_) => "raise --max-length, or cut such answers: --truncation-mode keep_start",
            Reason::NoTranscript(_) | Reason::LastTurn(_) => {
                "are these conversations that end with an answer?"
            }
            Reason::Identical => "leave --drop-identical out",
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
            Reason::TooLong(role) => write!(f, "{} beyond max-length", role.name()),
            Reason::NoTranscript(role) => {
                write!(f, "not a conversation: {} does not begin with a turn", role.name())
            }
            Reason::LastTurn(role) => {
                write!(f, "not a conversation: the last turn of {} is not the assistant's", role.name())
            }
            Reason::Identical => write!(f, "identical answers"),
        }
    }
}

/// A prompt and its answers before the bounds are applied.
struct Draft {
    prompt: Vec<u32>,
    prompt_column: String,
    answers: Vec<DraftAnswer>,
    moved_split: bool,
    special_tokens: usize,
}

/// An answer; while the prompt is still in it, so are its tokens in `ids` and `scored`.
struct DraftAnswer {
    role: Role,
    column: String,
    ids: Vec<u32>,
    /// As [`Answer::scored`].
    scored: Option<Vec<bool>>,
    text: Option<String>,
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

    /// The same parts under other settings, the template excepted.
    pub fn with_config(self, config: EncodeConfig) -> Self {
        Self { config, ..self }
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
        self.config.template.choice.as_ref()?;
        let source = self.template.as_ref()?.source();
        Some(GivenTemplate { source, end_of_turn: self.end_of_turn() })
    }

    /// The special token with which the template ends the assistant's turn, if it does.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.template.as_ref()?.end_of_turn(self.tokenizer.as_ref()?)
    }

    /// xxh3 of the template's text: what a resumed run must find again.
    pub fn template_fingerprint(&self) -> Option<u64> {
        self.template.as_ref().map(|template| xxh3_64(template.source().as_bytes()))
    }

    /// What the encoder was told.
    pub fn config(&self) -> &EncodeConfig {
        &self.config
    }

    /// How the rows of a file are read, of which this is the first.
    ///
    /// # Errors
    /// As [`FileShape::of`].
    pub fn shape(&self, first: &Row, numbering: Numbering) -> Result<FileShape, RowError> {
        let needs = &self.config.needs;
        let needs_rejected = needs.answers.contains(Role::Rejected);
        let columns = Columns::new(&first.columns, &self.config.columns);
        let place = (numbering, first.line);
        let mut shape = FileShape::of(&first.columns, place, &self.config.columns, needs_rejected)?;
        if needs.completions() && shape.shape.has_rejected() {
            return Err(RowError::NotCompletions { shape: shape.shape });
        }
        let more: Vec<String> = needs.columns(&columns).into_iter().map(|name| columns.name(name)).collect();
        shape.ignored.retain(|name| !more.contains(name));
        shape.used.extend(more);
        Ok(shape)
    }

    /// Encodes one row of a file of this shape; `number` is the row number that the group will carry.
    ///
    /// # Errors
    /// A [`RowError`]: something the user must repair, rather than a row that happens to be unusable.
    pub fn encode_row(&self, shape: &FileShape, number: usize, row: &Row) -> Result<Encoded, RowError> {
        let columns = Columns::new(&row.columns, &self.config.columns);
        let example = shape.read(&row.columns, &self.config.columns)?;
        let example = self.config.needs.complete(example, &columns)?;
        self.encode_annotated(number, example, self.config.needs.read(&columns)?)
    }

    /// Encodes one example; `row` is the number the group will carry.
    ///
    /// # Errors
    /// As [`Self::encode_row`].
    pub fn encode(&self, row: usize, example: Example) -> Result<Encoded, RowError> {
        self.encode_annotated(row, example, RowAnnotations::default())
    }

    fn encode_annotated(
        &self,
        row: usize,
        example: Example,
        annotations: RowAnnotations,
    ) -> Result<Encoded, RowError> {
        if let Some(reason) = unusable(&example) {
            return Ok(Encoded::Unusable(reason));
        }
        let draft = match example {
            Example::Text(parts) => self.encode_text(parts)?,
            Example::Conversation(conversation) => self.encode_conversation(&conversation)?,
            Example::Tokens(parts) => Draft::of_tokens(parts),
            Example::Unusable(reason) => return Ok(Encoded::Unusable(reason)),
        };
        self.check_vocabulary(&draft)?;
        self.bound(row, draft, annotations)
    }

    fn tokenizer_for_text(&self) -> Result<&Tokenizer, RowError> {
        self.tokenizer.as_ref().ok_or(RowError::NoTokenizer)
    }

    fn encode_text(&self, parts: Parts<String>) -> Result<Draft, RowError> {
        let tokenizer = self.tokenizer_for_text()?;
        let Parts { prompt, prompt_column, answers } = parts;
        let ids = tokenizer.encode_with_bos(&prompt).map_err(tokenize(&prompt_column))?;
        let prompt_tokens = ids.len();
        let mut special_tokens = self.special_beside(&ids, tokenizer.bos_id(), None);
        let mut whole = Vec::with_capacity(answers.len());
        for Part { role, column, content } in answers {
            let text = [prompt.as_str(), &content].concat();
            let mut ids = tokenizer.encode_with_bos(&text).map_err(tokenize(&column))?;
            self.end(tokenizer, &mut ids)?;
            special_tokens +=
                self.special_beside(&ids[prompt_tokens.min(ids.len())..], None, ids.last().copied());
            let text = self.config.keep_text.then_some(content);
            whole.push(DraftAnswer { role, column, ids, scored: None, text });
        }
        Ok(Draft::split(Some(ids), prompt_column, whole, special_tokens))
    }

    fn encode_conversation(&self, conversation: &Conversation) -> Result<Draft, RowError> {
        let tokenizer = self.tokenizer_for_text()?;
        let plain = self.template.is_none();
        if plain && !conversation.transcript {
            return Err(RowError::NoTemplate);
        }
        let parts = &conversation.parts;
        let rendered = render(conversation, self.template.as_ref())?;
        let prompt = rendered.prompt.as_ref().map(|text| match plain {
            true => tokenizer.encode_with_bos(text),
            false => tokenizer.encode(text),
        });
        let prompt = prompt.transpose().map_err(tokenize(&parts.prompt_column))?;
        let mut whole = Vec::with_capacity(parts.answers.len());
        for (Part { role, column, .. }, ending) in parts.answers.iter().zip(rendered.endings) {
            let (ids, scored) = self.encode_ending(tokenizer, &ending, plain, column)?;
            let shown = || {
                let answer =
                    rendered.prompt.as_ref().and_then(|prompt| ending.text.strip_prefix(prompt.as_str()));
                answer.unwrap_or(&ending.text).to_owned()
            };
            let text = self.config.keep_text.then(shown);
            whole.push(DraftAnswer { role: *role, column: column.clone(), ids, scored, text });
        }
        let messages = parts.prompt.iter().chain(parts.answers.iter().flat_map(|answer| &answer.content));
        let special_tokens = messages.map(|message| tokenizer.special_tokens_in(&message.content())).sum();
        Ok(Draft::split(prompt, parts.prompt_column.clone(), whole, special_tokens))
    }

    /// Tokens of prompt + answer, and which of them are scored.
    fn encode_ending(
        &self,
        tokenizer: &Tokenizer,
        ending: &Ending,
        plain: bool,
        column: &str,
    ) -> Result<(Vec<u32>, Option<Vec<bool>>), RowError> {
        let (mut ids, mut scored) = match &ending.scored {
            None => (tokenizer.encode(&ending.text).map_err(tokenize(column))?, None),
            Some(scored) => {
                let (ids, ranges) = tokenizer.encode_with_ranges(&ending.text).map_err(tokenize(column))?;
                let meets = |token: &std::ops::Range<usize>| {
                    scored.iter().any(|turn| token.start < turn.end && turn.start < token.end)
                };
                (ids, Some(ranges.iter().map(meets).collect::<Vec<_>>()))
            }
        };
        if plain {
            if let Some(bos) = tokenizer.bos_before(&ids) {
                ids.insert(0, bos);
                scored.iter_mut().for_each(|scored| scored.insert(0, false));
            }
            self.end(tokenizer, &mut ids)?;
            scored.iter_mut().for_each(|scored| scored.resize(ids.len(), true));
        }
        Ok((ids, scored))
    }

    /// Ends plain text with EOS, unless it does already.
    fn end(&self, tokenizer: &Tokenizer, ids: &mut Vec<u32>) -> Result<(), RowError> {
        let eos = tokenizer.eos_id().or_else(|| self.config.eos_ids.first().copied());
        let eos = eos.ok_or(RowError::NoEndToken)?;
        if ids.last() != Some(&eos) {
            ids.push(eos);
        }
        Ok(())
    }

    /// Special tokens among these, but for one that is expected at the start and one at the end.
    fn special_beside(&self, ids: &[u32], first: Option<u32>, last: Option<u32>) -> usize {
        let special = |id: &&u32| self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_special(**id));
        let expected = |at: Option<&u32>, expected: Option<u32>| {
            usize::from(expected.is_some() && at.filter(special).copied() == expected)
        };
        ids.iter().filter(special).count() - expected(ids.first(), first) - expected(ids.last(), last)
    }

    fn check_vocabulary(&self, draft: &Draft) -> Result<(), RowError> {
        let vocab_size = self.config.vocab_size;
        let answers = draft.answers.iter().map(|answer| (&answer.column, &answer.ids));
        for (column, ids) in std::iter::once((&draft.prompt_column, &draft.prompt)).chain(answers) {
            if let Some(position) = ids.iter().position(|id| *id as usize >= vocab_size) {
                let (column, id) = (column.clone(), ids[position]);
                return Err(RowError::BeyondVocabulary { column, id, position, vocab_size });
            }
        }
        Ok(())
    }

    /// Applies `max_length` and refuses what has nothing left to score.
    fn bound(&self, row: usize, draft: Draft, annotations: RowAnnotations) -> Result<Encoded, RowError> {
        let Draft { prompt, answers: drafts, moved_split, special_tokens, .. } = draft;
        if prompt.is_empty() {
            return Ok(Encoded::Unusable(Reason::EmptyPrompt));
        }
        let room = match self.config.max_length {
            Some(max_length) if prompt.len() >= max_length => {
                return Ok(Encoded::Unusable(Reason::PromptTooLong));
            }
            Some(max_length) => max_length - prompt.len(),
            None => usize::MAX,
        };
        let mut notes = Notes { moved_split, special_tokens, ..Notes::default() };
        let tokens: Vec<usize> = drafts.iter().map(|draft| draft.ids.len()).collect();
        let mut answers: Vec<Answer> = Vec::with_capacity(drafts.len());
        for DraftAnswer { role, mut ids, mut scored, text, .. } in drafts {
            if ids.len() > room {
                if self.config.truncation == Truncation::Drop {
                    return Ok(Encoded::Unusable(Reason::TooLong(role)));
                }
                notes.truncated += 1;
                let end = ids.iter().rposition(|id| self.ends_answer(*id));
                notes.lost_end += usize::from(end.is_some_and(|end| end >= room));
                ids.truncate(room);
                scored.iter_mut().for_each(|scored| scored.truncate(room));
            }
            let answer = Answer { role, ids, scored: scored.filter(|scored| scored.contains(&false)), text };
            if answer.scored_tokens() == 0 {
                return Ok(Encoded::Unusable(Reason::NoResponseToken(role)));
            }
            answers.push(answer);
        }
        if let [one, other] = &answers[..] {
            notes.identical = one.ids == other.ids && one.scored == other.scored;
        }
        if notes.identical && self.config.drop_identical {
            return Ok(Encoded::Unusable(Reason::Identical));
        }
        let annotations = annotations.fit(&answers, &tokens)?;
        Ok(Encoded::Group(Group { row, prompt, answers, annotations }, notes))
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

impl Draft {
    fn of_tokens(parts: Parts<Vec<u32>>) -> Self {
        let answers = parts.answers.into_iter().map(|Part { role, column, content }| DraftAnswer {
            role,
            column,
            ids: content,
            scored: None,
            text: None,
        });
        let Parts { prompt, prompt_column, .. } = parts;
        Self { prompt, prompt_column, answers: answers.collect(), moved_split: false, special_tokens: 0 }
    }

    /// Cuts prompt + answer where the prompt ends in all of them, at the latest where it ends by itself. Without a prompt
    /// by itself, where they part or the first scored token is.
    fn split(
        prompt: Option<Vec<u32>>,
        prompt_column: String,
        mut whole: Vec<DraftAnswer>,
        special_tokens: usize,
    ) -> Self {
        let first = |answer: &DraftAnswer| {
            let scored = answer.scored.as_ref().and_then(|scored| scored.iter().position(|scored| *scored));
            scored.unwrap_or(answer.ids.len())
        };
        let mut shared =
            prompt.as_deref().or(whole.first().map(|answer| &answer.ids[..])).unwrap_or_default();
        for answer in &whole {
            let same = shared.iter().zip(&answer.ids).take_while(|(a, b)| a == b).count();
            shared = &shared[..same.min(first(answer))];
        }
        let moved_split = prompt.as_ref().is_some_and(|prompt| shared.len() < prompt.len());
        let prompt = shared.to_vec();
        for answer in &mut whole {
            answer.ids.drain(..prompt.len());
            answer.scored.iter_mut().for_each(|scored| drop(scored.drain(..prompt.len())));
        }
        Self { prompt, prompt_column, answers: whole, moved_split, special_tokens }
    }
}

fn tokenize(column: &str) -> impl Fn(String) -> RowError {
    move |message| RowError::Tokenize { column: column.to_owned(), message }
}

/// What is wrong before anything is rendered: templates answer an empty conversation with an error, and an answer
/// without text would still get an end token.
fn unusable(example: &Example) -> Option<Reason> {
    match example {
        // A prompt of no text is a prompt: BOS alone.
        Example::Text(parts) => empty_answer(parts, String::is_empty),
        Example::Tokens(parts) if parts.prompt.is_empty() => Some(Reason::EmptyPrompt),
        Example::Tokens(parts) => empty_answer(parts, Vec::is_empty),
        Example::Conversation(conversation) => {
            let Parts { prompt, answers, .. } = &conversation.parts;
            let begins = |part: &Part<Vec<Message>>| part.content.first().is_some_and(Message::is_answer);
            if prompt.is_empty() && answers.iter().any(begins) {
                return Some(Reason::EmptyPrompt);
            }
            let broken =
                |part: &&Part<Vec<Message>>| part.content.last().is_some_and(|last| !last.is_answer());
            let broken = answers.iter().find(broken).map(|part| Reason::LastTurn(part.role));
            let silent = |messages: &Vec<Message>| messages.last().is_none_or(Message::is_silent);
            broken.or_else(|| empty_answer(&conversation.parts, silent))
        }
        Example::Unusable(reason) => Some(*reason),
    }
}

fn empty_answer<T>(parts: &Parts<T>, is_empty: impl Fn(&T) -> bool) -> Option<Reason> {
    parts.answers.iter().find(|part| is_empty(&part.content)).map(|part| Reason::Empty(part.role))
}
