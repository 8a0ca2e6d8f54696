//! Generation: greedy answers through the same model and the same attention operation, with a key/value cache.

mod greedy;

pub use greedy::{Cache, CacheSize, Greedy};
