//! The key/value cache: one matrix per layer, whose rows are dealt out in runs.
//!
//! A run holds consecutive tokens of one prompt or one answer, so that a segment of attention sees it as one key range.
//! Boundary: places and owners; which token lies in which row is the decoder's business.

use std::ops::Range;

use crate::backend::{AttentionForward, Backend, CopyRows, Element, Heads, View};
use crate::model::{DeviceBatch, LayerActivations, Llama, LlamaConfig};
use crate::plan::{Arena, MemoryPlan};

/// Sequences that are answered side by side, and how long they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
}

impl CacheSize {
    /// Tokens of all.
    pub fn rows(self) -> usize {
        self.sequences * self.length
    }
}

/// Keys and values of every layer, `[rows, 2 K D]`: keys in the first half of a row, values in the second.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<View>,
    /// `[T]` u32: the rows that a batch's tokens go to.
    destinations: View,
    rows: usize,
}

impl Cache {
    /// Adds a cache of `rows` tokens to a plan; `batch_tokens` is the budget's T.
    pub fn plan(
        plan: &mut MemoryPlan,
        config: &LlamaConfig,
        rows: usize,
        batch_tokens: usize,
        stored: Element,
    ) -> Self {
        let shape = [rows, 2 * config.num_key_value_heads * config.head_dim];
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                plan.add(Arena::Constants, format!("layer {layer} / key-value cache"), stored, &shape)
            })
            .collect();
        let destinations = plan.add(Arena::Constants, "cache rows", Element::U32, &[batch_tokens]);
        Self { layers, destinations, rows }
    }

    /// Tokens that it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that one token's keys and values take in all layers.
    pub fn token_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes()).sum::<usize>() / self.rows.max(1)
    }

    /// Says where the keys and values of the next batch's tokens go, in their order.
    pub(super) fn aim<B: Backend>(&self, backend: &mut B, rows: &[u32]) -> View {
        let destinations = self.destinations.first(rows.len());
        backend.write(destinations, rows);
        destinations
    }

    /// Attention of one layer: the batch's keys and values go to `destinations`, its segments' key ranges are rows of the
    /// cache.
    pub(super) fn attend<B: Backend>(
        &self,
        backend: &mut B,
        model: &Llama,
        batch: &DeviceBatch,
        destinations: View,
        index: usize,
        keep: &LayerActivations,
    ) {
        let shape = model.attention_shape();
        let width = shape.key_heads * shape.head_dim;
        let [q, k, v] = model.split_qkv(keep.qkv);
        let out = self.layers[index];
        for (heads, out_column) in [(k, 0), (v, width)] {
            backend.copy_rows(CopyRows {
                source: heads.view,
                source_stride: heads.stride,
                source_column: heads.column,
                rows: destinations,
                out,
                out_stride: 2 * width,
                out_column,
                width,
            });
        }
        let cached = |column| Heads { view: out, stride: 2 * width, column };
        backend.attention_forward(AttentionForward {
            q,
            k: cached(0),
            v: cached(width),
            segments: batch.segments,
            query_tiles: batch.query_tiles,
            out: keep.attention,
            lse: keep.attention_lse,
            shape,
        });
    }
}

/// Rows that nobody owns, as runs in ascending order that do not touch each other.
#[derive(Clone, Debug)]
pub(super) struct FreeRows(Vec<Range<usize>>);

impl FreeRows {
    pub fn new(rows: usize) -> Self {
        Self(std::iter::once(0..rows).filter(|run| !run.is_empty()).collect())
    }

    /// The first run of `len` rows, if there is one.
    pub fn take(&mut self, len: usize) -> Option<Range<usize>> {
        if len == 0 {
            return Some(0..0);
        }
        let at = self.0.iter().position(|run| run.len() >= len)?;
        let taken = self.0[at].start..self.0[at].start + len;
        self.0[at].start = taken.end;
        if self.0[at].is_empty() {
            self.0.remove(at);
        }
        Some(taken)
    }

    /// Gives a run back.
    pub fn give(&mut self, run: Range<usize>) {
        if run.is_empty() {
            return;
        }
        let at = self.0.partition_point(|free| free.start < run.start);
        self.0.insert(at, run);
        if at + 1 < self.0.len() && self.0[at].end == self.0[at + 1].start {
            self.0[at].end = self.0.remove(at + 1).end;
        }
        if at > 0 && self.0[at - 1].end == self.0[at].start {
            self.0[at - 1].end = self.0.remove(at).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_again_in_whatever_order_they_come_back() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let mut free = FreeRows::new(10);
            let runs = [3, 4, 3].map(|len| free.take(len).unwrap());
            assert_eq!(runs, [0..3, 3..7, 7..10]);
            assert_eq!((free.take(1), free.take(0)), (None, Some(0..0)));
            for index in order {
                free.give(runs[index].clone());
            }
            assert_eq!((free.0.len(), &free.0[0]), (1, &(0..10)));
        }
    }

    #[test]
    fn a_gap_is_used_again() {
        let mut free = FreeRows::new(10);
        let runs = [2, 3, 5].map(|len| free.take(len).unwrap());
        free.give(runs[1].clone());
        assert_eq!(
            (free.take(4), free.take(2), free.take(1), free.take(1)),
            (None, Some(2..4), Some(4..5), None)
        );
    }
}
