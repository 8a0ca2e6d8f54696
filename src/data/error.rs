//! What can go wrong between a data file and a batch, worded for the person who sees it.
//!
//! Boundary: [`DataError`] says where (file, line, row), [`RowError`] what is wrong with the row found there.
//! Rows that are merely unusable (an empty answer) are no errors but [`super::Reason`]s, counted in the report.

use std::path::PathBuf;

use super::place::{Numbering, Place};
use super::shape::Shape;
use super::template_source::Origin;

/// Why data cannot be loaded. All of these are found before the first training step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could be read up to the end of a line and no further.
    #[error("cannot read {} beyond line {line}", path.display())]
    BrokenOff {
        /// The file.
        path: PathBuf,
        /// 1-based line that was the last to be read.
        line: usize,
        /// What the system, or the decompressor, said.
        source: std::io::Error,
    },
    /// A folder where a file must be.
    #[error("{} is a folder; give the data files in it, each with --data FILE", path.display())]
    IsAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file in a form that is not read.
    #[error("{} is {found}; {remedy}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A Parquet file that is damaged, cut off, or packed in a way that is not read.
    #[error("{}{}: Parquet: {problem}", path.display(), row.map(|row| format!(" row {row}")).unwrap_or_default())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// 1-based row that could not be read; `None` where the file could not be opened.
        row: Option<usize>,
        /// What the library said.
        problem: String,
    },
    /// A row that is not what it must be.
    #[error("{place}: {problem}")]
    Row {
        /// Where it is.
        place: Place,
        /// What is wrong with it.
        problem: Box<RowError>,
    },
    /// The data files hold no row at all.
    #[error("no rows in {}", list(paths))]
    Empty {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// There are rows, but none can be used.
    #[error("none of the {rows} rows of {} can be used: {summary}", list(paths))]
    AllDropped {
        /// The files.
        paths: Vec<PathBuf>,
        /// Rows read.
        rows: usize,
        /// Counts by reason with the first lines of each.
        summary: String,
    },
    /// There are rows that cannot be used, where none may be.
    #[error("{dropped} of {rows} rows cannot be used, and --strict allows none: {summary}")]
    Unusable {
        /// Rows that cannot be used.
        dropped: usize,
        /// Rows read.
        rows: usize,
        /// Counts by reason with the first lines of each.
        summary: String,
    },
    /// An evaluation split outside (0, 1).
    #[error("an evaluation split of {fraction} is not a fraction between 0 and 1 (0.02 holds out 2%)")]
    SplitFraction {
        /// What was asked for.
        fraction: f64,
    },
    /// An evaluation split that would leave nothing to train on.
    #[error(
        "cannot hold out {fraction} of {groups} rows with {prompts} distinct prompts and keep any to train on \
         (rows with one prompt stay together); give a separate evaluation file instead"
    )]
    SplitTooSmall {
        /// What was asked for.
        fraction: f64,
        /// Usable rows.
        groups: usize,
        /// Distinct prompts among them.
        prompts: usize,
    },
    /// A JSON file of the model folder that is not JSON, or whose field has an impossible value.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// A tokenizer.json that the tokenizers library does not accept.
    #[error("cannot load {}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the library said.
        message: String,
    },
    /// A chat template that does not parse.
    #[error("{origin}: chat template, line {line}: {message}")]
    Template {
        /// Where the template was found.
        origin: Origin,
        /// 1-based line of the template.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A row that alone exceeds what a micro-batch may hold.
    #[error(
        "row {row} ({location}) needs a micro-batch of {needed} {unit}, the budget is {budget}; \
         {enough} would be enough for every row, or lower the maximum length"
    )]
    GroupTooLarge {
        /// The group's row.
        row: usize,
        /// `file:line`, where known.
        location: String,
        /// What is counted: tokens, or scored rows.
        unit: &'static str,
        /// What the group needs.
        needed: usize,
        /// What a micro-batch may hold.
        budget: usize,
        /// The largest need of any group.
        enough: usize,
    },
    /// A prescribed number of micro-batches that does not keep to the budget.
    #[error(
        "step {step} cut into {parts} parts makes a micro-batch of {needed} {unit}, the budget is {budget}; \
         use more parts, or leave the cutting to the budget"
    )]
    PartTooLarge {
        /// 1-based optimizer step.
        step: usize,
        /// The parts asked for.
        parts: usize,
        /// What is counted: tokens, or scored rows.
        unit: &'static str,
        /// What the part needs.
        needed: usize,
        /// What a micro-batch may hold.
        budget: usize,
    },
    /// Two groups that are mixed and so share a micro-batch, and need more than the budget.
    #[error(
        "rows {} and {} of the data (counted from 0) are mixed and must share a micro-batch, which makes {needed} {unit}; the \
         budget is {budget}; raise it", rows[0], rows[1]
    )]
    PairTooLarge {
        /// [`crate::data::Group::row`] of both.
        rows: [usize; 2],
        /// What is counted: tokens, or scored rows.
        unit: &'static str,
        /// What both need.
        needed: usize,
        /// What a micro-batch may hold.
        budget: usize,
    },
    /// A loader setting that makes no sense.
    #[error("{0}")]
    LoaderSetting(&'static str),
}

/// What is wrong with one row of a data file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// Bytes that are not UTF-8.
    #[error("invalid UTF-8 at byte {byte} of the line; save the file as UTF-8")]
    InvalidUtf8 {
        /// 1-based byte of the line.
        byte: usize,
    },
    /// A line that is not JSON.
    #[error("malformed JSON: {message} (column {column}); each line must hold one whole JSON object")]
    MalformedJson {
        /// What the parser said.
        message: String,
        /// 1-based byte column.
        column: usize,
    },
    /// A file that is one JSON list, but not JSON throughout.
    #[error("malformed JSON: {message} (column {column}); the file begins as one list of JSON objects")]
    MalformedList {
        /// What is wrong.
        message: String,
        /// 1-based byte column.
        column: usize,
    },
    /// An element of a file that is one JSON list, but no object.
    #[error("expected a JSON object, found {found}; the file's list must hold one object per row")]
    ElementNotAnObject {
        /// What was found, with its article.
        found: &'static str,
    },
    /// A row that is longer than any row can be.
    #[error("the row is longer than {} MiB; is this a file of data?", limit >> 20)]
    TooLong {
        /// Bytes that a row may have.
        limit: usize,
    },
    /// JSON, but no object.
    #[error("expected a JSON object, found {found}; each line must hold one whole JSON object")]
    NotAnObject {
        /// What was found, with its article.
        found: &'static str,
    },
    /// Pairs where single answers are asked for.
    #[error("the row holds {shape}, but the objective learns from single answers; give prompt, completion")]
    NotCompletions {
        /// The row's shape.
        shape: Shape,
    },
    /// A list that is not one number per token.
    #[error(
        "column \"{column}\" has {found} numbers for an answer of {tokens} tokens (its end token included)"
    )]
    WrongCount {
        /// The column.
        column: String,
        /// Its numbers.
        found: usize,
        /// The answer's tokens before anything is cut off.
        tokens: usize,
    },
    /// A summed log-prob of tokens that are not all there.
    #[error(
        "the row brings a summed reference log-prob, but the {answer} answer is cut or partly unscored; give a list of one \
         log-prob per token, or a larger --max-length"
    )]
    CutSum {
        /// Which answer.
        answer: &'static str,
    },
    /// A column that is not there.
    #[error("column \"{column}\" is missing; the row has {found}")]
    MissingColumn {
        /// The column.
        column: String,
        /// The columns that are there.
        found: String,
    },
    /// A column that was to be added.
    #[error("column \"{column}\" is there already; take it out, or give it another name")]
    ColumnTaken {
        /// The column.
        column: String,
    },
    /// A column that `--map` names is not there.
    #[error("--map {canonical}={actual}: there is no column \"{actual}\"; the row has {found}")]
    MappedColumn {
        /// The name that it was to have.
        canonical: &'static str,
        /// The column.
        actual: String,
        /// The columns that are there.
        found: String,
    },
    /// Columns that are none of the known shapes.
    #[error(
        "no column to train on: the row has {found}; expected prompt, chosen, rejected; or chosen, rejected; or, for \
         --objective sft, messages or prompt, completion (--map prompt=NAME names a column)"
    )]
    NoShape {
        /// The columns that are there.
        found: String,
    },
    /// Another shape than the file's first row.
    #[error(
        "the row holds {shape}, but {} {first_line} holds {first}; a file has one shape: split it in two", numbering.word(false)
    )]
    OtherShape {
        /// The row's.
        shape: Shape,
        /// The file's.
        first: Shape,
        /// How places in the file are counted.
        numbering: Numbering,
        /// 1-based line of the row that decided it.
        first_line: usize,
    },
    /// One answer where two are compared.
    #[error(
        "the row holds {shape}, but the objective compares a chosen with a rejected answer; give prompt, chosen, \
         rejected, or train on one answer: --objective sft"
    )]
    NotAPair {
        /// The row's shape.
        shape: Shape,
    },
    /// A string prompt beside message lists that begin with the answer.
    #[error(
        "column \"{prompt}\" holds a string, but the message list in column \"{list}\" begins with the answer; make the \
         prompt a message list too: [{{\"role\": \"user\", \"content\": ...}}]"
    )]
    PromptNotInLists {
        /// The prompt's column.
        prompt: String,
        /// The answer's.
        list: String,
    },
    /// A column, or part of one, of the wrong type.
    #[error("column \"{column}\"{place} holds {found}; expected {expected}")]
    MistypedColumn {
        /// The column.
        column: String,
        /// Where in the column: empty, or `, message 2, "content"`.
        place: String,
        /// What was found, with its article.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Columns of different kinds in one row.
    #[error(
        "column \"{first}\" holds {first_kind}, but column \"{second}\" holds {second_kind}; \
         prompt and answers must all be strings or all be lists of messages"
    )]
    MixedColumns {
        /// One column.
        first: String,
        /// What it holds.
        first_kind: &'static str,
        /// The column that differs.
        second: String,
        /// What it holds.
        second_kind: &'static str,
    },
    /// A line that is no question of MT-Bench.
    #[error("{message}; a question has \"question_id\", \"category\" and \"turns\", a list of strings")]
    NotAQuestion {
        /// What the parser said.
        message: String,
    },
    /// A line that is no answer in FastChat's format.
    #[error(
        "{message}; this is no file of FastChat's model_answer: move it away, or write to another folder"
    )]
    NotAnAnswer {
        /// What the parser said.
        message: String,
    },
    /// A line that is no prompt of a judge.
    #[error(
        "{message}; a judge's prompt has \"name\", \"type\", \"system_prompt\", \"prompt_template\" and \"output_format\""
    )]
    NotAJudgePrompt {
        /// What the parser said.
        message: String,
    },
    /// Text without a tokenizer.
    #[error("the row holds text, but the model folder has no tokenizer.json (rows of *_input_ids need none)")]
    NoTokenizer,
    /// A conversation without a chat template.
    #[error(
        "the row holds a conversation, but the model folder has no chat template (chat_template.jinja, or chat_template in \
         tokenizer_config.json); give one with --chat-template: llama3, chatml or a file"
    )]
    NoTemplate,
    /// A plain-text answer and no token to end it with.
    #[error(
        "the row holds plain text, but neither the tokenizer nor the model names an end token (eos_token)"
    )]
    NoEndToken,
    /// The chat template called `raise_exception`.
    #[error("the chat template refuses column \"{column}\": {message} (line {line} of the template)")]
    TemplateRaised {
        /// The column that was being rendered.
        column: String,
        /// The template's words.
        message: String,
        /// 1-based line of the template, 0 where unknown.
        line: usize,
    },
    /// The chat template failed in another way.
    #[error("the chat template cannot render column \"{column}\": {message} (line {line} of the template)")]
    TemplateFailed {
        /// The column that was being rendered.
        column: String,
        /// What the engine said.
        message: String,
        /// 1-based line of the template, 0 where unknown.
        line: usize,
    },
    /// The chat template shows the beginning of a conversation otherwise once it goes on.
    #[error(
        "column \"{column}\": the chat template changes what stands before turn {turn} once the conversation goes on, so \
         the answers in the middle of it cannot be told apart; give single answers instead (prompt, chosen, rejected or \
         prompt, completion)"
    )]
    NotPrefix {
        /// The column.
        column: String,
        /// 1-based message of the whole conversation.
        turn: usize,
    },
    /// The tokenizer failed.
    #[error("the tokenizer cannot encode column \"{column}\": {message}")]
    Tokenize {
        /// The column.
        column: String,
        /// What the library said.
        message: String,
    },
    /// A token id beyond the model's vocabulary.
    #[error(
        "column \"{column}\" has token id {id} at position {position}, but the model's vocabulary has \
         {vocab_size} tokens (0 to {})", vocab_size.saturating_sub(1)
    )]
    BeyondVocabulary {
        /// The column.
        column: String,
        /// The id.
        id: u32,
        /// Its 0-based position in the column's tokens.
        position: usize,
        /// The model's vocabulary.
        vocab_size: usize,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
