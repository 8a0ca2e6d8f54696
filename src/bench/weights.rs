//! Random weights that cost nothing to make: one block of normals, repeated through all matrices; norms are 1.
//!
//! Every tensor begins with the block's first value. Its length is a prime, so that no two rows of one matrix are alike (none
//! has a million rows), but different matrices share their values: time takes no notice, what is learned from such weights would
//! mean nothing.

use half::bf16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::backend::{Backend, Element, View};
use crate::model::Llama;
use crate::model::master::split;

/// The largest prime below 2^20: blocks go through a device's staging buffer in one piece.
const BLOCK: usize = 1_048_573;

/// A block in the formats that weights are stored in.
struct Block {
    values: Vec<f32>,
    stored: Vec<bf16>,
    remainders: Vec<u16>,
}

impl Block {
    fn new(values: Vec<f32>) -> Self {
        let (stored, remainders) = values.iter().map(|&value| split(value)).unzip();
        Self { values, stored, remainders }
    }

    /// Fills elements of a flat arena of weights, and of remainders where there are any.
    fn fill<B: Backend>(&self, backend: &mut B, stored: View, remainders: Option<View>) {
        let mut start = 0;
        while start < stored.len {
            let end = (start + self.values.len()).min(stored.len);
            let (piece, len) = (stored.slice(start..end), end - start);
            match stored.element {
                Element::F32 => backend.write(piece, &self.values[..len]),
                _ => backend.write(piece, &self.stored[..len]),
            }
            if let Some(remainders) = remainders {
                backend.write(remainders.slice(start..end), &self.remainders[..len]);
            }
            start = end;
        }
    }
}

/// Gives a planned model weights of the configuration's `initializer_range`.
pub fn fill<B: Backend>(model: &Llama, backend: &mut B, seed: u64) {
    let deviation = model.config.initializer_range as f32;
    let largest = model.table.iter().map(|parameter| parameter.elements()).max().unwrap_or(0).min(BLOCK);
    let matrices = normals(seed, largest).into_iter().map(|value| deviation * value);
    let matrices = Block::new(matrices.collect());
    let norms = Block::new(vec![1.0; model.config.hidden_size]);
    for parameter in model.table.iter() {
        let block = if parameter.shape.len() > 1 { &matrices } else { &norms };
        let range = parameter.range();
        let remainders = model.remainders.map(|view| view.slice(range.clone()));
        block.fill(backend, model.weights().slice(range), remainders);
    }
}

/// Standard normals.
pub fn normals(seed: u64, len: usize) -> Vec<f32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| StandardNormal.sample(&mut generator)).collect()
}

/// Fills a view of stored values with these, over and over.
pub fn repeat<B: Backend>(backend: &mut B, view: View, values: &[f32]) {
    Block::new(values.to_vec()).fill(backend, view, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::backend::{ArenaId, Backend};

    /// A block of 5 through 13 elements: two whole ones and three more, in both halves of the master weights.
    #[test]
    fn a_block_is_repeated_to_the_end() {
        let values = [0.5f32, -1.0 / 3.0, 3.0, 1e-3, 7.1];
        let mut backend = CpuBackend::new(1).unwrap();
        let view = |arena, element| View { arena: ArenaId(arena), element, offset: 0, len: 13 };
        let (single, stored, rest) = (view(0, Element::F32), view(1, Element::Bf16), view(2, Element::U16));
        for view in [single, stored, rest] {
            backend.allocate(view.arena, view.bytes()).unwrap();
        }
        let block = Block::new(values.to_vec());
        block.fill(&mut backend, single, None);
        block.fill(&mut backend, stored, Some(rest));
        let (mut whole, mut high, mut low) = ([0f32; 13], [bf16::ZERO; 13], [0u16; 13]);
        backend.read(single, &mut whole).unwrap();
        backend.read(stored, &mut high).unwrap();
        backend.read(rest, &mut low).unwrap();
        for index in 0..13 {
            assert_eq!(whole[index], values[index % 5]);
            assert_eq!(crate::model::master::join(high[index], low[index]), values[index % 5]);
        }
    }
}
