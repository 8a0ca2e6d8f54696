//! Training, in the order in which it happens: [`Prepared`] checks and plans everything, [`mod@reference`] fills in
//! reference log-probs, [`run()`] loops over [`Trainer::step`] from where [`start`] says, and what a run writes about itself is
//! [`log`] (also to a [`log_command`]), [`curves`], [`card`] and the samples.

mod begin;
mod best;
pub mod card;
pub mod curves;
pub mod disk;
mod error;
mod estimate;
pub mod facts;
mod fit;
pub mod half;
mod history;
mod inspect;
mod interrupt;
mod layout;
pub mod log;
pub mod log_command;
mod prepare;
pub mod record;
pub mod reference;
pub(crate) mod resident;
mod resume;
mod run;
mod sample;
mod save;
mod shortfall;
mod step;
mod target;
mod token_metrics;

pub use disk::{DiskNeed, FolderBytes};
pub use error::TrainError;
pub use estimate::Estimate;
pub use history::BeforeAndAfter;
pub use inspect::{Figures, InspectedRow, Inspection};
pub use interrupt::{Interrupts, Uninterrupted};
pub use layout::{InferenceLayout, Layout, LayoutSettings};
pub use prepare::{Outline, Prepared, plan_without_data};
pub use resume::{Start, start};
pub use run::{Ended, METRICS_FILE, Outcome, Stopped, run};
pub use sample::{FILE as SAMPLES_FILE, Sample};
pub use shortfall::{Remedy, Shortfall, gibibytes};
pub use step::{Evaluation, PendingStep, StepOutcome, Trainer, score, score_in_detail};
pub use target::Target;
