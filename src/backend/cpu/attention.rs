//! Attention on the CPU: tiles of queries against tiles of keys with an online softmax (Dao et al., FlashAttention-2,
//! arXiv 2307.08691), so that no score matrix larger than a tile exists. Here the segments and the forward pass;
//! `attention_backward.rs` has the gradients.
//!
//! Tiles start at segment starts and at range starts, so a row's result does not depend on where its group is packed.
//! One task owns some queries of a segment for all query heads that share a key/value head, and packs every tile of keys
//! and values once for all of them.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::kernels::Kernel;
use super::memory::{Memory, SharedMatrix};
use super::needed::Needed;
use super::pack::Operand;
use super::product::{Factor, Product, Side, multiply};
use super::simd::{self, LANES, Simd, vectorised};
use crate::backend::{AttentionForward, AttentionShape, Heads, SEGMENT_WORDS};

/// Queries of one tile: whole register tiles, and few, because half of a tile on the diagonal is computed for nothing.
pub(super) const QUERY_TILE: usize = 96;
/// Keys of one tile: whole register tiles whichever factor of a product they are.
pub(super) const KEY_TILE: usize = 192;
/// Queries of one task.
const TASK_QUERIES: usize = 2 * QUERY_TILE;

/// A decoded segment.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub start: usize,
    pub len: usize,
    pub ranges: [Range; 2],
}

/// Keys that a segment sees.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub row: usize,
    pub len: usize,
    pub causal_offset: usize,
}

impl Segment {
    fn decode(words: &[u32]) -> Self {
        let word = |i: usize| words[i] as usize;
        let range = |i: usize| Range { row: word(i), len: word(i + 1), causal_offset: word(i + 2) };
        Self { start: word(0), len: word(1), ranges: [range(2), range(5)] }
    }
}

impl Range {
    /// How many of its keys row `query` of the segment sees.
    pub fn visible(&self, query: usize) -> usize {
        self.len.min(query + self.causal_offset + 1)
    }
}

pub(super) fn decode(words: &[u32]) -> Vec<Segment> {
    words.chunks_exact(SEGMENT_WORDS).map(Segment::decode).collect()
}

/// One head of a matrix of heads, from `row` on.
pub(super) fn head(data: &[f32], heads: Heads, head_dim: usize, index: usize, row: usize) -> &[f32] {
    &data[row * heads.stride + heads.column + index * head_dim..]
}

/// The scale of scores.
pub(super) fn scale(shape: AttentionShape) -> f32 {
    1.0 / (shape.head_dim as f32).sqrt()
}

/// The operation [`AttentionForward`].
pub fn forward(simd: Simd, kernel: &'static Kernel, memory: &mut Memory, arguments: AttentionForward) {
    let AttentionForward { q, k, v, shape, .. } = arguments;
    let mut access = memory.access();
    let (queries, keys, values) =
        (access.read::<f32>(q.view), access.read::<f32>(k.view), access.read::<f32>(v.view));
    let segments = decode(access.read::<u32>(arguments.segments));
    let (out, lse) = (access.write::<f32>(arguments.out), access.write::<f32>(arguments.lse));
    let width = shape.query_heads * shape.head_dim;
    let end = segments.iter().map(|segment| segment.start + segment.len).max().unwrap_or(0);
    out[end * width..].fill(0.0);
    lse[end * shape.query_heads..].fill(0.0);
    let (out, lse) = (SharedMatrix::new(out, width), SharedMatrix::new(lse, shape.query_heads));
    // Last queries first: they see the most keys, and no long task should begin when the others end.
    let tasks: Vec<(Segment, usize, usize)> = segments
        .iter()
        .flat_map(|&segment| (0..segment.len).step_by(TASK_QUERIES).rev().map(move |first| (segment, first)))
        .flat_map(|(segment, first)| (0..shape.key_heads).map(move |head| (segment, first, head)))
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(segment, first, key_head)| {
        let task = Task { simd, kernel, shape, queries, keys, values, q, k, v, segment, first, key_head };
        SCRATCH.with_borrow_mut(|scratch| task.run(scratch, out, lse));
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one worker thread, as large as the largest task it has met.
#[derive(Default)]
struct Scratch {
    tiles: Vec<QueryTile>,
    keys: Factor,
    values: Factor,
    weights: Factor,
    scores: Vec<f32>,
    /// For every query of a tile.
    here: Vec<f32>,
}

/// Some queries of one head, and what has been summed for them.
#[derive(Default)]
struct QueryTile {
    head: usize,
    /// Counted from the segment's start.
    first: usize,
    count: usize,
    queries: Factor,
    /// `[count, D]`: weighted values, relative to the largest score so far.
    accumulator: Vec<f32>,
    largest: Vec<f32>,
    total: Vec<f32>,
}

/// Queries of a segment from `first` on, for all query heads of one key/value head.
struct Task<'a> {
    simd: Simd,
    kernel: &'static Kernel,
    shape: AttentionShape,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    q: Heads,
    k: Heads,
    v: Heads,
    segment: Segment,
    first: usize,
    key_head: usize,
}

impl Task<'_> {
    fn run(&self, scratch: &mut Scratch, out: SharedMatrix<'_>, lse: SharedMatrix<'_>) {
        let d = self.shape.head_dim;
        let end = self.segment.len.min(self.first + TASK_QUERIES);
        let used = self.begin(&mut scratch.tiles, end);
        let Scratch { tiles, keys, values, weights, scores, here } = scratch;
        let tiles = &mut tiles[..used];
        scores.resize(QUERY_TILE * KEY_TILE, 0.0);
        for range in self.segment.ranges {
            let seen = range.visible(end - 1);
            for j in (0..seen).step_by(KEY_TILE) {
                let width = KEY_TILE.min(seen - j);
                let row = range.row + j;
                let key_rows = head(self.keys, self.k, d, self.key_head, row);
                let value_rows = head(self.values, self.v, d, self.key_head, row);
                keys.pack(self.kernel, Side::B, Operand::by_rows(key_rows, self.k.stride), width, d);
                values.pack(self.kernel, Side::B, Operand::by_columns(value_rows, self.v.stride), d, width);
                for tile in tiles.iter_mut() {
                    let width = width.min(range.visible(tile.first + tile.count - 1).saturating_sub(j));
                    if width == 0 {
                        continue;
                    }
                    let visible = Visible { range, first: tile.first, j, width };
                    let seen = visible.seen();
                    let product = Product {
                        a: &tile.queries,
                        b: keys,
                        columns: width,
                        c: scores,
                        stride: KEY_TILE,
                        accumulate: false,
                        needed: Needed::Scores { seen },
                    };
                    multiply(self.kernel, product);
                    let scale = scale(self.shape);
                    // In three loops, without a branch on what is found in a row.
                    let QueryTile { count, largest, total, accumulator, .. } = &mut *tile;
                    here.resize(*count, 0.0);
                    largest_scores(self.simd, scores, visible, scale, here);
                    raise(self.simd, largest, here);
                    weigh(self.simd, scores, visible, scale, largest, here, total, accumulator);
                    let scores = Operand::by_rows(scores, KEY_TILE);
                    weights.pack(self.kernel, Side::A, scores, tile.count, width);
                    let product = Product {
                        a: weights,
                        b: values,
                        columns: d,
                        c: &mut tile.accumulator,
                        stride: d,
                        accumulate: true,
                        needed: Needed::Weights { seen },
                    };
                    multiply(self.kernel, product);
                }
            }
        }
        for tile in tiles {
            self.finish(tile, out, lse);
        }
    }

    /// Packs the queries; gives how many tiles they are.
    fn begin(&self, tiles: &mut Vec<QueryTile>, end: usize) -> usize {
        let d = self.shape.head_dim;
        let group = self.shape.query_heads / self.shape.key_heads;
        let firsts = (self.first..end).step_by(QUERY_TILE);
        let places = (self.key_head * group..(self.key_head + 1) * group)
            .flat_map(|head| firsts.clone().map(move |first| (head, first)));
        let mut used = 0;
        for (head_index, first) in places {
            if tiles.len() == used {
                tiles.push(QueryTile::default());
            }
            let tile = &mut tiles[used];
            used += 1;
            let count = QUERY_TILE.min(end - first);
            (tile.head, tile.first, tile.count) = (head_index, first, count);
            let rows = head(self.queries, self.q, d, head_index, self.segment.start + first);
            tile.queries.pack(self.kernel, Side::A, Operand::by_rows(rows, self.q.stride), count, d);
            for (buffer, len, value) in [
                (&mut tile.accumulator, count * d, 0.0),
                (&mut tile.largest, count, f32::NEG_INFINITY),
                (&mut tile.total, count, 0.0),
            ] {
                buffer.clear();
                buffer.resize(len, value);
            }
        }
        used
    }

    fn finish(&self, tile: &QueryTile, out: SharedMatrix<'_>, lse: SharedMatrix<'_>) {
        let d = self.shape.head_dim;
        for i in 0..tile.count {
            let row = self.segment.start + tile.first + i;
            // SAFETY: this task alone writes this head of this row.
            let out = unsafe { out.row(row, tile.head * d..(tile.head + 1) * d) };
            scaled(self.simd, &tile.accumulator[i * d..(i + 1) * d], 1.0 / tile.total[i], out);
            // SAFETY: as above.
            let lse = unsafe { lse.row(row, tile.head..tile.head + 1) };
            lse[0] = tile.largest[i] + tile.total[i].ln();
        }
    }
}

/// What the rows of a tile of scores see.
#[derive(Clone, Copy)]
pub(super) struct Visible {
    /// The range.
    pub range: Range,
    /// First query, counted from the segment's start.
    pub first: usize,
    /// First key, counted from the range's start.
    pub j: usize,
    /// Keys of the tile.
    pub width: usize,
}

impl Visible {
    /// Keys of the tile that its query i sees.
    #[inline(always)]
    pub fn keys(self, i: usize) -> usize {
        self.range.visible(self.first + i).saturating_sub(self.j).min(self.width)
    }

    /// Keys that its query 0 would see if the tile had no end.
    pub fn seen(self) -> isize {
        (self.first + self.range.causal_offset + 1) as isize - self.j as isize
    }

    /// The tile's columns that are computed with: whole vectors.
    #[inline(always)]
    pub fn padded(self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Columns of query i that are computed with, those it sees and what their last vector has besides; and the columns it sees.
    /// The rest of [`padded`](Self::padded) is nothing.
    #[inline(always)]
    pub fn columns(self, i: usize) -> (usize, usize) {
        let keys = self.keys(i);
        (keys.next_multiple_of(LANES), keys)
    }
}

vectorised! {
    fn scaled(values: &[f32], factor: f32, out: &mut [f32]) {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = value * factor;
        }
    }

    /// The largest visible score of every query, scaled; what is not visible becomes negative infinity.
    fn largest_scores(scores: &mut [f32], visible: Visible, scale: f32, largest: &mut [f32]) {
        for (i, largest) in largest.iter_mut().enumerate() {
            let (columns, keys) = visible.columns(i);
            let row = &mut scores[i * KEY_TILE..][..columns];
            row[keys..].fill(f32::NEG_INFINITY);
            *largest = simd::maximum(row) * scale;
        }
    }

    /// Raises the running maxima to those that are `here`, and leaves in `here` what the sums so far are multiplied by.
    fn raise(largest: &mut [f32], here: &mut [f32]) {
        for (largest, here) in largest.iter_mut().zip(here) {
            let (before, now) = (*largest, *here);
            let correction = simd::exp(before - now);
            *largest = if now > before { now } else { before };
            *here = if now > before { correction } else { 1.0 };
        }
    }

    /// Turns scores into weights relative to the running maxima, and adds them to sums that are corrected first. What is not
    /// visible weighs nothing.
    fn weigh(
        scores: &mut [f32],
        visible: Visible,
        scale: f32,
        largest: &[f32],
        corrections: &[f32],
        total: &mut [f32],
        accumulator: &mut [f32],
    ) {
        let d = accumulator.len() / largest.len();
        let statistics = largest.iter().zip(corrections).zip(total).zip(accumulator.chunks_exact_mut(d));
        for (i, (((&largest, &correction), total), sums)) in statistics.enumerate() {
            let (columns, keys) = visible.columns(i);
            let (row, rest) = scores[i * KEY_TILE..][..visible.padded()].split_at_mut(columns);
            rest.fill(0.0);
            if keys == 0 {
                continue;
            }
            sums.iter_mut().for_each(|sum| *sum *= correction);
            let [scale, largest] = [scale, largest].map(|natural| natural * LOG2_E);
            *total = *total * correction + simd::scaled_powers(row, scale, largest);
        }
    }
}
