//! Rows of a data file become packed batches, in the order of this list:
//!
//! - [`rows`]: JSONL lines -> rows of named columns, each with its line number;
//! - [`columns`]: a row -> a typed preference row (text, conversation or token ids);
//! - [`template_source`]: which chat template: the one asked for, built in or a file, else the model folder's;
//! - [`template`] (with [`mod@tojson`], [`template_date`]): a conversation -> text, by that template;
//! - [`tokenizer`]: text -> token ids, by the folder's tokenizer;
//! - [`encode`]: a typed row -> a [`Group`], or the [`Reason`] why it is unusable;
//! - [`dataset`]: files -> a [`Dataset`] with its [`LoadReport`], or every row in order for scoring;
//! - [`group`]: what one row is after encoding: a prompt and its answers;
//! - [`batch`]: groups -> one packed micro-batch, the prompt computed once for all its answers;
//! - [`order`]: the permutations everything random here is drawn from;
//! - [`work`]: how much of what is in a group or a batch, for counting operations;
//! - [`loader`]: a dataset -> optimizer steps of micro-batches, packed ahead on a thread;
//! - [`error`]: what can go wrong, with file, line and remedy.
//!
//! Boundary: files, text and integers. Nothing here knows a model, a device or an objective; of a model it is
//! told the vocabulary size and the end tokens, of an objective which [`Spans`] it scores.

pub mod batch;
pub mod columns;
pub mod dataset;
pub mod encode;
pub mod error;
pub mod group;
pub mod loader;
pub mod order;
pub mod rows;
pub mod template;
pub mod template_date;
pub mod template_source;
pub mod tojson;
pub mod tokenizer;
pub mod work;

pub use batch::{Batch, BatchGroup, KeyRange, Segment, Span, Spans, Step, StepTotals, pack};
pub use columns::{Message, PreferenceRow};
pub use dataset::{Dataset, LoadReport, Skipped, load, load_rows};
pub use encode::{EncodeConfig, Encoded, Encoder, Notes, Reason, TemplateConfig};
pub use error::{DataError, RowError};
pub use group::{Answer, Group, Reference, Role};
pub use loader::{Extent, Loader, LoaderConfig};
pub use rows::{JsonlReader, Row};
pub use template::{ChatTemplate, GivenTemplate};
pub use template_date::TemplateDate;
pub use template_source::{BuiltIn, TemplateChoice, TemplateText};
pub use tokenizer::Tokenizer;
pub use work::Work;
