//! Training, in the order in which it happens: [`Prepared`] checks and plans everything, [`mod@reference`] fills in
//! reference log-probs, [`run()`] loops over [`Trainer::step`], and what a run writes about itself is [`log`], [`curves`],
//! [`card`] and the samples.

pub mod card;
pub mod curves;
mod error;
mod inspect;
mod interrupt;
mod layout;
pub mod log;
mod prepare;
pub mod reference;
mod resume;
mod run;
mod sample;
mod step;
mod target;

pub use error::TrainError;
pub use inspect::{Figures, InspectedRow, Inspection};
pub use interrupt::{Interrupts, Uninterrupted};
pub use layout::{InferenceLayout, Layout, LayoutSettings};
pub use prepare::{Prepared, plan_without_data};
pub use resume::adopt;
pub use run::{Ended, Outcome, Stopped, run};
pub use sample::Sample;
pub use step::{Evaluation, PendingStep, StepOutcome, Trainer, score};
pub use target::Target;
