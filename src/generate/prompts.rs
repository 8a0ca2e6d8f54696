//! Prompts: text, conversations or token ids, typed or from a file, to the tokens that an answer begins after.
//!
//! A file of prompts that is named `.txt` holds one prompt per line, any other the rows of a data file. A row is an object
//! with `prompt` (a string or a list of messages), or `messages`, or `prompt_input_ids`; a file of preference pairs will do.
//! A string is what the user says, in the chat template; with `raw`, and where the folder has no template, it is the text to
//! be continued. A file of ids holds one JSON list per line, or objects with `ids` or `prompt_input_ids`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::GenerateError;
use crate::data::columns::{ColumnMap, Columns, Content};
use crate::data::template::RenderError;
use crate::data::{
    DataError, EncodeConfig, Encoder, Message, Numbering, Place, RowError, Rows, TemplateConfig, Tokenizer,
};

/// What an answer follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// 0-based place among the prompts.
    pub index: usize,
    /// Where it stands, for messages.
    pub place: String,
    /// Its tokens, a forced prefix included.
    pub ids: Vec<u32>,
    /// As it was given, for display: a string, a list of messages, or ids.
    pub shown: Value,
}

/// Turns prompts into tokens.
#[derive(Debug)]
pub struct PromptEncoder {
    folder: PathBuf,
    encoder: Encoder,
    /// What the system says first, where a conversation does not say it itself.
    pub system: Option<String>,
    /// Text that every answer begins with.
    pub prefix: String,
    /// Strings are continued as they are.
    pub raw: bool,
}

impl PromptEncoder {
    /// An encoder with the tokenizer of a model folder and the chat template: the one that `template` asks for, else the
    /// folder's.
    ///
    /// # Errors
    /// Files that are there but cannot be read or make no sense.
    pub fn from_folder(
        folder: &Path,
        vocab_size: usize,
        template: TemplateConfig,
    ) -> Result<Self, GenerateError> {
        let config = EncodeConfig { vocab_size, template, ..EncodeConfig::default() };
        let encoder = Encoder::from_folder(folder, config)?;
        Ok(Self { folder: folder.to_owned(), encoder, system: None, prefix: String::new(), raw: false })
    }

    /// The folder's tokenizer.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.encoder.tokenizer()
    }

    /// Whether strings are put into a chat template.
    pub fn is_chat(&self) -> bool {
        self.encoder.template().is_some() && !self.raw
    }

    /// A prompt that was typed.
    ///
    /// # Errors
    /// A folder without a tokenizer, or a template that refuses the conversation.
    pub fn text(&self, text: &str) -> Result<Prompt, GenerateError> {
        let ids = self.encode(Content::Text(text.to_owned())).map_err(|problem| self.named(problem))?;
        Ok(Prompt { index: 0, place: "the prompt".to_owned(), ids, shown: Value::from(text) })
    }

    /// A conversation that the assistant answers next.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<u32>, GenerateError> {
        self.encode(Content::Messages(messages.to_vec())).map_err(|problem| self.named(problem))
    }

    /// The prompts of a file: rows of a data file, or lines of text.
    ///
    /// # Errors
    /// The first line that is not what it must be.
    pub fn file(&self, path: &Path) -> Result<Vec<Prompt>, GenerateError> {
        let mut prompts = Vec::new();
        if path.extension().is_none_or(|extension| extension != "txt") {
            let rows = Rows::open(path)?;
            let numbering = rows.numbering();
            for row in rows {
                let row = row?;
                let place = Place::new(path, numbering, row.line);
                let (ids, shown) = self
                    .row(&row.columns)
                    .map_err(|problem| DataError::Row { place: place.clone(), problem: Box::new(problem) })?;
                prompts.push(Prompt { index: row.index, place: place.to_string(), ids, shown });
            }
        } else {
            for (line, text) in lines(path)? {
                let ids =
                    self.encode(Content::Text(text.clone())).map_err(|problem| at(path, line, problem))?;
                let index = prompts.len();
                prompts.push(Prompt { index, place: place(path, line), ids, shown: Value::from(text) });
            }
        }
        not_empty(path, prompts)
    }

    /// The prompts of a file of token ids.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn ids_file(&self, path: &Path) -> Result<Vec<Prompt>, GenerateError> {
        let mut prompts = Vec::new();
        for (line, text) in lines(path)? {
            let ids = self.ids_line(&text).map_err(|problem| at(path, line, problem))?;
            let shown = Value::from(ids.clone());
            prompts.push(Prompt { index: prompts.len(), place: place(path, line), ids, shown });
        }
        not_empty(path, prompts)
    }

    fn ids_line(&self, text: &str) -> Result<Vec<u32>, RowError> {
        let value: Value = serde_json::from_str(text).map_err(|error| RowError::MalformedJson {
            message: error.to_string(),
            column: error.column(),
        })?;
        let columns = match value {
            Value::Object(columns) => columns,
            list => Map::from_iter([("ids".to_owned(), list)]),
        };
        let name = if columns.contains_key("prompt_input_ids") { "prompt_input_ids" } else { "ids" };
        let mut ids = Columns::new(&columns, &ColumnMap::default()).token_ids(name)?;
        self.in_vocabulary(name, &ids)?;
        if !self.prefix.is_empty() {
            let tokenizer = self.tokenizer().ok_or(RowError::NoTokenizer)?;
            ids.extend(encoded(tokenizer.encode(&self.prefix))?);
        }
        Ok(ids)
    }

    fn row(&self, columns: &Map<String, Value>) -> Result<(Vec<u32>, Value), RowError> {
        let ids = "prompt_input_ids";
        if columns.contains_key(ids) {
            let line = Value::from_iter([(ids, columns[ids].clone())]).to_string();
            return Ok((self.ids_line(&line)?, columns[ids].clone()));
        }
        let has_messages = columns.contains_key("messages") && !columns.contains_key("prompt");
        let name = if has_messages { "messages" } else { "prompt" };
        let ids = self.encode(Columns::new(columns, &ColumnMap::default()).content(name)?)?;
        Ok((ids, columns[name].clone()))
    }

    /// The tokens of a prompt and of the forced prefix. The two are encoded together, as the model has seen them.
    fn encode(&self, content: Content) -> Result<Vec<u32>, RowError> {
        let ids = self.encode_any(content)?;
        self.in_vocabulary("prompt", &ids)?;
        Ok(ids)
    }

    fn encode_any(&self, content: Content) -> Result<Vec<u32>, RowError> {
        let tokenizer = self.tokenizer().ok_or(RowError::NoTokenizer)?;
        let messages = match content {
            Content::Text(text) if !self.is_chat() => {
                return encoded(tokenizer.encode_with_bos(&(text + &self.prefix)));
            }
            Content::Text(text) => vec![Message::new("user", &text)],
            Content::Messages(messages) => messages,
        };
        let template = self.encoder.template().ok_or(RowError::NoTemplate)?;
        let silent = messages.first().is_none_or(|message| message.role() != "system");
        let system = self.system.as_ref().filter(|_| silent).map(|text| Message::new("system", text));
        let messages: Vec<&Message> = system.iter().chain(&messages).collect();
        let text = template.render(&messages, true).map_err(|error| match error {
            RenderError::Raised { message, line } => {
                RowError::TemplateRaised { column: "prompt".to_owned(), message, line }
            }
            RenderError::Failed { message, line } => {
                RowError::TemplateFailed { column: "prompt".to_owned(), message, line }
            }
        })?;
        encoded(tokenizer.encode(&(text + &self.prefix)))
    }

    fn in_vocabulary(&self, column: &'static str, ids: &[u32]) -> Result<(), RowError> {
        let vocab_size = self.encoder.config().vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => Err(RowError::BeyondVocabulary {
                column: column.to_owned(),
                id: ids[position],
                position,
                vocab_size,
            }),
        }
    }

    fn named(&self, problem: RowError) -> GenerateError {
        match problem {
            RowError::NoTokenizer => GenerateError::NoTokenizer { path: self.folder.clone() },
            problem => GenerateError::Prompt(problem),
        }
    }
}

/// Refuses prompts that cannot be answered: without tokens, or as long as the model's positions.
///
/// # Errors
/// The first such prompt.
pub fn check(prompts: &[Prompt], positions: usize) -> Result<(), GenerateError> {
    for Prompt { place, ids, .. } in prompts {
        let (place, tokens) = (place.clone(), ids.len());
        if tokens == 0 {
            return Err(GenerateError::EmptyPrompt { place });
        }
        if tokens >= positions {
            return Err(GenerateError::PromptTooLong { place, tokens, positions });
        }
    }
    Ok(())
}

fn encoded(ids: Result<Vec<u32>, String>) -> Result<Vec<u32>, RowError> {
    ids.map_err(|message| RowError::Tokenize { column: "prompt".to_owned(), message })
}

fn at(path: &Path, line: usize, problem: RowError) -> GenerateError {
    DataError::Row { place: Place::new(path, Numbering::Lines, line), problem: Box::new(problem) }.into()
}

fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

fn not_empty(path: &Path, prompts: Vec<Prompt>) -> Result<Vec<Prompt>, GenerateError> {
    if prompts.is_empty() {
        return Err(DataError::Empty { paths: vec![path.to_owned()] }.into());
    }
    Ok(prompts)
}

/// The lines of a text file that are not blank, with their numbers from 1.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, GenerateError> {
    let failed = |source| GenerateError::from(DataError::Read { path: path.to_owned(), source });
    let mut input = BufReader::new(fs_err::File::open(path).map_err(failed)?);
    let (mut found, mut bytes, mut number) = (Vec::new(), Vec::new(), 0);
    while input.read_until(b'\n', &mut bytes).map_err(failed)? > 0 {
        number += 1;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| at(path, number, RowError::InvalidUtf8 { byte: error.valid_up_to() + 1 }))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            found.push((number, text.to_owned()));
        }
        bytes.clear();
    }
    Ok(found)
}
