//! Rows of a data file become packed batches, in the order of this list:
//!
//! - [`source`]: a file of whatever form -> rows of named columns, each with its place ([`mod@place`]);
//! - [`rows`], [`json_list`], `parquet`: the readers it chooses from;
//! - [`columns`]: the names that columns have, and their types;
//! - [`shape`]: the columns of a file -> how its rows are read, and a row -> an [`Example`]; with [`hh`] for transcripts and
//!   [`prompt`] for pairs that hold their prompt;
//! - [`example`]: what a row says, as text, as [`message`]s or as token ids;
//! - [`template_source`]: which chat template: the one asked for, built in or a file, else the model folder's;
//! - [`template`] (with [`mod@tojson`], [`template_date`]): a conversation -> text, by that template;
//! - [`conversation`]: a conversation and its endings -> text, and which of it is the assistant's;
//! - [`tokenizer`]: text -> token ids, by the folder's tokenizer;
//! - [`bpe`]: texts -> a tokenizer, for models that start from nothing;
//! - [`encode`]: an example -> a [`Group`], or the [`Reason`] why it is unusable;
//! - [`files`]: files -> a [`Dataset`] with its [`LoadReport`], or every row in order for scoring;
//! - [`cache`]: token ids of a file kept from run to run, under what decides them ([`mod@fingerprint`]);
//! - [`dataset`]: groups with their report; the evaluation split;
//! - [`report`]: what became of the rows, in numbers and in words;
//! - [`needs`]: what an objective needs of every row beside;
//! - [`annotations`], [`role`]: what is known of a row beside its tokens, and what an answer is to its prompt;
//! - [`group`]: what one row is after encoding: a prompt and its answers;
//! - [`mismatch`]: every prompt with another row's completion, for KTO;
//! - [`mixture`]: which two rows are mixed in their hidden states, and how much of each, for SFTMix;
//! - [`batch`]: groups -> one packed micro-batch, the prompt computed once for all its answers;
//! - [`order`]: the permutations everything random here is drawn from;
//! - [`work`]: how much of what is in a group or a batch, for counting operations;
//! - [`loader`]: a dataset -> optimizer steps of micro-batches, packed ahead on a thread;
//! - [`error`]: what can go wrong, with file, line and remedy.
//!
//! Boundary: files, text and integers. Nothing here knows a model, a device or an objective; of a model it is
//! told the vocabulary size and the end tokens, of an objective which [`Spans`] it scores and whether it compares answers.

pub mod annotations;
pub mod batch;
pub mod bpe;
pub mod cache;
pub mod columns;
pub mod conversation;
pub mod dataset;
pub mod encode;
pub mod error;
pub mod example;
pub mod files;
pub mod fingerprint;
pub mod group;
pub mod hh;
pub mod json_list;
pub mod loader;
pub mod message;
pub mod mismatch;
pub mod mixture;
pub mod needs;
pub mod order;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod place;
pub mod prompt;
pub mod report;
pub mod role;
pub mod rows;
pub mod shape;
pub mod source;
pub mod template;
pub mod template_date;
pub mod template_source;
pub mod tojson;
pub mod tokenizer;
pub mod work;

pub use annotations::{Annotation, Annotations, AnswerAnnotations, Reference};
pub use batch::{
    Batch, BatchGroup, KeyRange, MixedRows, Segment, Span, Spans, Step, StepTotals, pack, pack_mixed,
};
pub use columns::{ColumnMap, ColumnMapError};
pub use dataset::Dataset;
pub use encode::{EncodeConfig, Encoded, Encoder, Notes, Reason, TemplateConfig, Truncation};
pub use error::{DataError, RowError};
pub use example::{Conversation, Example, Part, Parts};
pub use files::{LoadConfig, load, load_rows};
pub use group::{Answer, Group};
pub use json_list::JsonListReader;
pub use loader::{Extent, Loader, LoaderConfig};
pub use message::Message;
pub use mismatch::add_mismatched;
pub use mixture::{Halves, Mixing, Mixture};
pub use needs::{Needs, RowAnnotations};
pub use place::{Numbering, Place};
pub use report::{FileRows, LoadReport, Skipped};
pub use role::{ByRole, Role, Roles};
pub use rows::{JsonlReader, Row};
pub use shape::{FileShape, RowKind, Shape};
pub use source::{Rows, WeightedFile};
pub use template::{ChatTemplate, GivenTemplate, Variables};
pub use template_date::TemplateDate;
pub use template_source::{BuiltIn, TemplateChoice, TemplateText};
pub use tokenizer::Tokenizer;
pub use work::Work;
