//! What becomes of rows of data before anything is trained: the tokens of single rows and what each is for, and figures
//! about whole files.
//!
//! Boundary: facts, by the encoder that training uses; how they are shown is the command's.
//!
//! - [`row`]: one row as tokens with their text and use;
//! - [`stats`]: lengths, drops, cuts and savings of all rows.

pub mod row;
pub mod stats;

pub use row::{Part, RowTokens, Token, Use};
pub use stats::{Histogram, Lengths, Stats};
