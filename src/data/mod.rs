//! Rows of a data file become packed batches, in the order of this list:
//!
//! - [`rows`]: JSONL lines -> rows of named columns, each with its line number;
//! - [`columns`]: a row -> a typed preference row (text, conversation or token ids);
//! - [`template`] (with [`mod@tojson`]): a conversation -> text, by the model folder's chat template;
//! - [`tokenizer`]: text -> token ids, by the folder's tokenizer;
//! - [`encode`]: a typed row -> a [`Group`], or the [`Reason`] why it is unusable;
//! - [`dataset`]: files -> a [`Dataset`] with its [`LoadReport`], or every row in order for scoring;
//! - [`annotations`], [`role`]: what is known of a row beside its tokens, and what an answer is to its prompt;
//! - [`group`]: what one row is after encoding: a prompt and its answers;
//! - [`batch`]: groups -> one packed micro-batch, the prompt computed once for all its answers;
//! - [`order`]: the permutations everything random here is drawn from;
//! - [`loader`]: a dataset -> optimizer steps of micro-batches, packed ahead on a thread;
//! - [`error`]: what can go wrong, with file, line and remedy.
//!
//! Boundary: files, text and integers. Nothing here knows a model, a device or an objective; of a model it is
//! told the vocabulary size and the end tokens, of an objective which [`Spans`] it scores.

pub mod annotations;
pub mod batch;
pub mod columns;
pub mod dataset;
pub mod encode;
pub mod error;
pub mod group;
pub mod loader;
pub mod order;
pub mod role;
pub mod rows;
pub mod template;
pub mod tojson;
pub mod tokenizer;

pub use annotations::{Annotation, Annotations, AnswerAnnotations, Reference};
pub use batch::{Batch, BatchGroup, KeyRange, Segment, Span, Spans, Step, StepTotals, pack};
pub use columns::{Message, PreferenceRow};
pub use dataset::{Dataset, LoadReport, Skipped, load, load_rows};
pub use encode::{EncodeConfig, Encoded, Encoder, Notes, Reason};
pub use error::{DataError, RowError};
pub use group::{Answer, Group};
pub use loader::{Extent, Loader, LoaderConfig};
pub use role::{ByRole, Role, Roles};
pub use rows::{JsonlReader, Row};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
