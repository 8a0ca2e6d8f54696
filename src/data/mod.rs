//! Rows of a data file become packed batches, in the order of this list:
//!
//! - [`source`]: a file of whatever form -> rows of named columns, each with its place ([`mod@place`]);
//! - [`rows`], [`json_list`], `parquet`: the readers it chooses from;
//! - [`columns`]: a row -> a typed preference row (text, conversation or token ids);
//! - [`template_source`]: which chat template: the one asked for, built in or a file, else the model folder's;
//! - [`template`] (with [`mod@tojson`], [`template_date`]): a conversation -> text, by that template;
//! - [`tokenizer`]: text -> token ids, by the folder's tokenizer;
//! - [`encode`]: a typed row -> a [`Group`], or the [`Reason`] why it is unusable;
//! - [`files`]: files -> a [`Dataset`] with its [`LoadReport`], or every row in order for scoring;
//! - [`cache`]: token ids of a file kept from run to run, under what decides them ([`mod@fingerprint`]);
//! - [`dataset`]: groups with their report; the evaluation split;
//! - [`report`]: what became of the rows, in numbers and in words;
//! - [`annotations`], [`role`]: what is known of a row beside its tokens, and what an answer is to its prompt;
//! - [`group`]: what one row is after encoding: a prompt and its answers;
//! - [`batch`]: groups -> one packed micro-batch, the prompt computed once for all its answers;
//! - [`order`]: the permutations everything random here is drawn from;
//! - [`work`]: how much of what is in a group or a batch, for counting operations;
//! - [`loader`]: a dataset -> optimizer steps of micro-batches, packed ahead on a thread;
//! - [`error`]: what can go wrong, with file, line and remedy.
//!
//! Boundary: files, text and integers. Nothing here knows a model, a device or an objective; of a model it is
//! told the vocabulary size and the end tokens, of an objective which [`Spans`] it scores.

pub mod annotations;
pub mod batch;
pub mod cache;
pub mod columns;
pub mod dataset;
pub mod encode;
pub mod error;
pub mod files;
pub mod fingerprint;
pub mod group;
pub mod json_list;
pub mod loader;
pub mod order;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod place;
pub mod report;
pub mod role;
pub mod rows;
pub mod source;
pub mod template;
pub mod template_date;
pub mod template_source;
pub mod tojson;
pub mod tokenizer;
pub mod work;

pub use annotations::{Annotation, Annotations, AnswerAnnotations, Reference};
pub use batch::{Batch, BatchGroup, KeyRange, Segment, Span, Spans, Step, StepTotals, pack};
pub use columns::{Message, PreferenceRow};
pub use dataset::Dataset;
pub use encode::{EncodeConfig, Encoded, Encoder, Notes, Reason, TemplateConfig};
pub use error::{DataError, RowError};
pub use files::{LoadConfig, load, load_rows};
pub use group::{Answer, Group};
pub use json_list::JsonListReader;
pub use loader::{Extent, Loader, LoaderConfig};
pub use place::{Numbering, Place};
pub use report::{FileRows, LoadReport, Skipped};
pub use role::{ByRole, Role, Roles};
pub use rows::{JsonlReader, Row};
pub use source::{Rows, WeightedFile};
pub use template::{ChatTemplate, GivenTemplate};
pub use template_date::TemplateDate;
pub use template_source::{BuiltIn, TemplateChoice, TemplateText};
pub use tokenizer::Tokenizer;
pub use work::Work;
