//! The permutations that shuffling and splitting are drawn from: a pure function of (seed, stream).
//!
//! Boundary: written out (ChaCha8 keyed by the seed's bytes, Fisher-Yates) rather than taken from a library's
//! `shuffle`, whose result may change with the library: a resumed run must find the order it left.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of the evaluation split; epochs use the streams 0, 1, 2, ...
pub const SPLIT_STREAM: u64 = u64::MAX;
/// The stream of the rows that a file's weight takes.
pub const MIX_STREAM: u64 = u64::MAX - 1;
/// The first stream of half fine-tuning's draws; it has a quarter of all.
pub const HALF_STREAM: u64 = 1 << 62;

/// The first of the streams of partners in mixtures, one for each epoch.
pub const PARTNER_STREAMS: u64 = 1 << 62;
/// The first of the streams of weights in mixtures, one for each step.
pub const WEIGHT_STREAMS: u64 = 1 << 63;

/// A stream of random numbers; different streams of one seed are independent.
pub fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(stream);
    rng
}

/// A permutation of `0..len`; different streams of one seed are independent.
pub fn permutation(len: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = self::stream(seed, stream);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        // The high word of a 64-bit product is uniform over 0..=last up to a bias of len / 2^64.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, pick as usize);
    }
    order
}
