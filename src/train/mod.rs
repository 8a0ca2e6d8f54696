//! What a run writes about itself: metrics, curves, model card.

pub mod card;
pub mod curves;
pub mod log;
