//! Floating-point operations of the algorithm as this program runs it.
//!
//! Forward: `2 P` for each of T packed tokens (a prompt once for all its answers) and the P matrix elements of the blocks,
//! `2 V H` for each of R scored rows, and two products of `2 N D` in attention for each attended (query, key) pair and layer.
//! The backward pass takes twice as much. Norms, activations and the optimizer do not count, nor do logits that are
//! computed twice because a unit is longer than `--head-rows`, nor attention's scores in its backward pass.

use serde::Serialize;

use super::{LlamaConfig, Recompute};
use crate::data::Work;

/// Operations, by where they are spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Products with the blocks' weights.
    pub blocks: u64,
    /// The head's products.
    pub head: u64,
    /// Products of queries, keys and values.
    pub attention: u64,
}

impl std::iter::Sum for Flops {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            blocks: sum.blocks + part.blocks,
            head: sum.head + part.head,
            attention: sum.attention + part.attention,
        })
    }
}

impl Flops {
    /// The forward pass: what scoring takes.
    pub fn forward(config: &LlamaConfig, work: Work) -> Self {
        Self {
            blocks: 2 * block_elements(config) * work.tokens,
            head: 2 * (config.vocab_size * config.hidden_size) as u64 * work.rows,
            attention: 4 * attention_elements(config) * work.attended_pairs,
        }
    }

    /// Forward and backward pass: what a training step takes. Nothing that is computed again counts.
    pub fn training(config: &LlamaConfig, work: Work) -> Self {
        let Self { blocks, head, attention } = Self::forward(config, work);
        Self { blocks: 3 * blocks, head: 3 * head, attention: 3 * attention }
    }

    /// What the backward pass of a training step computes again: with [`Recompute::Blocks`] every product of a block's forward
    /// pass but the last, whose output nothing needs; nothing that counts at the other levels.
    pub fn recomputed(config: &LlamaConfig, work: Work, level: Recompute) -> Self {
        if level != Recompute::Blocks {
            return Self::default();
        }
        let last = config.num_hidden_layers * config.intermediate_size * config.hidden_size;
        let forward = Self::forward(config, work);
        Self { blocks: forward.blocks - 2 * last as u64 * work.tokens, head: 0, attention: forward.attention }
    }

    /// All of it.
    pub fn total(self) -> u64 {
        self.blocks + self.head + self.attention
    }
}

/// Elements of the matrices of all blocks; norms are no products.
pub fn block_elements(config: &LlamaConfig) -> u64 {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let attention = config.num_attention_heads * config.head_dim;
    (config.num_hidden_layers * (h * config.qkv_width() + attention * h + 3 * h * f)) as u64
}

/// N D of every layer: products per attended pair.
fn attention_elements(config: &LlamaConfig) -> u64 {
    (config.num_attention_heads * config.head_dim * config.num_hidden_layers) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::bench::Shape;

    /// tiny: a block has 256 * (4 + 2 * 2) * 64 = 131,072 (qkv), 256 * 256 = 65,536 (output) and 3 * 256 * 768 = 589,824:
    /// 786,432, four times 3,145,728.
    #[test]
    fn operations_counted_by_hand() {
        let json = Value::Object(Shape::find("tiny").unwrap().config_json(10)).to_string();
        let config = LlamaConfig::from_json(&json, Path::new("tiny")).unwrap();
        assert_eq!(block_elements(&config), 3_145_728);
        let work = Work { tokens: 10, rows: 7, attended_pairs: 26 };
        let flops = Flops::training(&config, work);
        assert_eq!(flops.blocks, 188_743_680);
        assert_eq!(flops.head, 6 * 4096 * 256 * 7);
        assert_eq!(flops.attention, 12 * 26 * 4 * 64 * 4);
        assert_eq!(flops.total(), 188_743_680 + 44_040_192 + 319_488);
        assert_eq!(Flops::training(&config, work + work).total(), 2 * flops.total());
        assert_eq!(3 * Flops::forward(&config, work).total(), flops.total());

        for level in [Recompute::Nothing, Recompute::Norms] {
            assert_eq!(Flops::recomputed(&config, work, level), Flops::default());
        }
        // All but 256 * 768 of a block, twice per token; attention's two forward products.
        let again = Flops::recomputed(&config, work, Recompute::Blocks);
        assert_eq!(again, Flops { blocks: 2 * 4 * (786_432 - 196_608) * 10, head: 0, attention: 106_496 });
    }
}
