//! Floating-point operations of the algorithm as this program runs it: what utilisation is counted from.
//!
//! `6 P T` for the P matrix elements of the blocks and T packed tokens (a prompt once for both answers), `6 V H R` for the
//! head on R scored rows, and `12 N D` for each attended (query, key) pair and layer: four products of `2 N D` in attention
//! backwards, two forwards. What is computed again (recompute levels, a unit scored twice, attention's scores in its backward
//! pass) does not count, nor do norms, activations and the optimizer.

use serde::Serialize;

use crate::data::{Batch, Segment};
use crate::model::LlamaConfig;

/// Dense bf16 products of an H100 or H200 (SXM), without sparsity: NVIDIA's data sheet.
pub const PEAK_FLOPS: f64 = 989e12;

/// Operations of one optimizer step, forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepFlops {
    /// Products with the blocks' weights.
    pub blocks: u64,
    /// The head's three products.
    pub head: u64,
    /// Products of queries, keys and values.
    pub attention: u64,
}

impl StepFlops {
    /// Of these micro-batches.
    pub fn of(config: &LlamaConfig, batches: &[Batch]) -> Self {
        let sum = |count: &dyn Fn(&Batch) -> u64| batches.iter().map(count).sum::<u64>();
        let tokens = sum(&|batch| batch.ids.len() as u64);
        let rows = sum(&|batch| batch.gather.len() as u64);
        let pairs = sum(&|batch| attended_pairs(&batch.segments));
        Self {
            blocks: 6 * block_elements(config) * tokens,
            head: 6 * (config.vocab_size * config.hidden_size) as u64 * rows,
            attention: 12
                * pairs
                * (config.num_attention_heads * config.head_dim * config.num_hidden_layers) as u64,
        }
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

/// (query, key) pairs that attention looks at, per head and layer.
pub fn attended_pairs(segments: &[Segment]) -> u64 {
    let visible = |segment: &Segment| {
        let rows = 0..u64::from(segment.len);
        rows.map(|row| {
            let keys = segment
                .ranges
                .iter()
                .map(|range| u64::from(range.len).min(row + u64::from(range.causal_offset) + 1));
            keys.sum::<u64>()
        })
        .sum::<u64>()
    };
    segments.iter().map(visible).sum()
}

/// The share of a device's peak that so many operations in so many seconds are.
pub fn utilisation(flops: u64, seconds: f64) -> f64 {
    flops as f64 / seconds / PEAK_FLOPS
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::bench::Shape;
    use crate::data::{Answer, Group, Role, Roles, Spans, pack};

    fn group(prompt: usize, chosen: usize, rejected: usize) -> Group {
        let answer = |role, len| Answer { role, ids: vec![1; len], scored: None, text: None };
        let answers = vec![answer(Role::Chosen, chosen), answer(Role::Rejected, rejected)];
        Group { row: 0, prompt: vec![2; prompt], answers, annotations: None }
    }

    fn packed(rejected: bool) -> Batch {
        pack(
            &[&group(2, 3, 1), &group(1, 1, 2)],
            Spans { prompt: false, answers: Roles::CHOSEN.with(Role::Rejected, rejected) },
        )
    }

    /// By hand. First pair: the prompt sees 1 + 2 keys; chosen row i sees 2 + (i + 1): 3 + 4 + 5; rejected 3. Second: 1;
    /// 2; 2 + 3.
    #[test]
    fn attended_pairs_counted_by_hand() {
        assert_eq!(attended_pairs(&packed(true).segments), 3 + 12 + 3 + 1 + 2 + 5);
        assert_eq!(attended_pairs(&packed(false).segments), 3 + 12 + 1 + 2);
    }

    /// tiny: a block has 256 * (4 + 2 * 2) * 64 = 131,072 (qkv), 256 * 256 = 65,536 (output) and 3 * 256 * 768 = 589,824:
    /// 786,432, four times 3,145,728. T = 6 + 4 = 10 tokens, R = 4 + 3 = 7 rows, 26 pairs.
    #[test]
    fn operations_of_a_step_counted_by_hand() {
        let json = Value::Object(Shape::find("tiny").unwrap().config_json(10)).to_string();
        let config = LlamaConfig::from_json(&json, Path::new("tiny")).unwrap();
        assert_eq!(block_elements(&config), 3_145_728);
        let flops = StepFlops::of(&config, &[packed(true)]);
        assert_eq!(flops.blocks, 188_743_680);
        assert_eq!(flops.head, 6 * 4096 * 256 * 7);
        assert_eq!(flops.attention, 12 * 26 * 4 * 64 * 4);
        assert_eq!(flops.total(), 188_743_680 + 44_040_192 + 319_488);
        let twice = StepFlops::of(&config, &[packed(true), packed(true)]);
        assert_eq!(twice.total(), 2 * flops.total());
    }

    /// 98.9 TFLOP in a fifth of a second are half of 989 TFLOP/s.
    #[test]
    fn utilisation_is_a_share_of_the_peak() {
        assert!((utilisation(98_900_000_000_000, 0.2) - 0.5).abs() < 1e-12);
    }
}
