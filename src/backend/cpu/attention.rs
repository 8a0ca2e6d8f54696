//! Attention on the CPU: tiles of queries against tiles of keys with an online softmax (Dao et al., FlashAttention-2,
//! arXiv 2307.08691), so that no score matrix larger than a tile exists.
//!
//! Tiles start at segment starts and at range starts, so a row's result does not depend on where its group is packed.
//! Backward, one task owns the keys of one family and one key/value head, and walks its queries in a fixed order: no
//! two tasks write one element, and the sums have one order.

use std::cell::RefCell;

use rayon::prelude::*;

use super::kernels::Kernel;
use super::memory::{Memory, SharedMatrix};
use super::pack::Operand;
use super::product::{self, Target};
use super::simd::{self, Simd};
use crate::backend::{AttentionBackward, AttentionForward, AttentionShape, Heads, SEGMENT_WORDS};

/// Queries of one tile.
const QUERY_TILE: usize = 64;
/// Keys of one tile.
const KEY_TILE: usize = 128;

/// A decoded segment.
#[derive(Clone, Copy)]
struct Segment {
    start: usize,
    len: usize,
    ranges: [Range; 2],
}

/// Keys that a segment sees.
#[derive(Clone, Copy)]
struct Range {
    row: usize,
    len: usize,
    causal_offset: usize,
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
    fn visible(&self, query: usize) -> usize {
        self.len.min(query + self.causal_offset + 1)
    }
}

fn decode(words: &[u32]) -> Vec<Segment> {
    words.chunks_exact(SEGMENT_WORDS).map(Segment::decode).collect()
}

/// One head of a matrix of heads, from `row` on.
fn head(data: &[f32], heads: Heads, head_dim: usize, index: usize, row: usize) -> &[f32] {
    &data[row * heads.stride + heads.column + index * head_dim..]
}

/// Buffers of one worker thread, as large as the largest tile it has met.
#[derive(Default)]
struct Tiles {
    scores: Vec<f32>,
    dscores: Vec<f32>,
    accumulator: Vec<f32>,
    largest: Vec<f32>,
    total: Vec<f32>,
}

thread_local! {
    static TILES: RefCell<Tiles> = RefCell::default();
}

/// `c (+)= a b` into a tile buffer.
fn product(
    kernel: &Kernel,
    a: Operand<'_>,
    b: Operand<'_>,
    c: &mut [f32],
    stride: usize,
    size: [usize; 3],
    accumulate: bool,
) {
    let [m, n, _] = size;
    assert!(m == 0 || (m - 1) * stride + n <= c.len());
    let target = Target { pointer: c.as_mut_ptr(), stride, accumulate };
    // SAFETY: `c` is borrowed exclusively and holds m rows, as asserted.
    unsafe { product::block(kernel, a, b, target, size) };
}

/// The operation [`AttentionForward`].
pub fn forward(simd: Simd, kernel: &Kernel, memory: &mut Memory, arguments: AttentionForward) {
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
    let out = SharedMatrix::new(out, width);
    let lse = SharedMatrix::new(lse, shape.query_heads);
    let tasks: Vec<(Segment, usize, usize)> = segments
        .iter()
        .flat_map(|&segment| (0..segment.len).step_by(QUERY_TILE).map(move |first| (segment, first)))
        .flat_map(|(segment, first)| (0..shape.query_heads).map(move |head| (segment, first, head)))
        .collect();
    tasks.into_par_iter().for_each(|(segment, first, query_head)| {
        let tile = ForwardTile { simd, kernel, shape, queries, keys, values, q, k, v };
        TILES.with_borrow_mut(|tiles| tile.run(tiles, segment, first, query_head, out, lse));
    });
}

/// What the forward tasks share.
struct ForwardTile<'a> {
    simd: Simd,
    kernel: &'a Kernel,
    shape: AttentionShape,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    q: Heads,
    k: Heads,
    v: Heads,
}

impl ForwardTile<'_> {
    fn run(
        &self,
        tiles: &mut Tiles,
        segment: Segment,
        first: usize,
        query_head: usize,
        out: SharedMatrix<'_>,
        lse: SharedMatrix<'_>,
    ) {
        let d = self.shape.head_dim;
        let key_head = query_head / (self.shape.query_heads / self.shape.key_heads);
        let count = QUERY_TILE.min(segment.len - first);
        let scale = 1.0 / (d as f32).sqrt();
        let queries =
            Operand::by_rows(head(self.queries, self.q, d, query_head, segment.start + first), self.q.stride);
        tiles.scores.resize(QUERY_TILE * KEY_TILE, 0.0);
        for (buffer, len, value) in [
            (&mut tiles.accumulator, QUERY_TILE * d, 0.0),
            (&mut tiles.largest, QUERY_TILE, f32::NEG_INFINITY),
            (&mut tiles.total, QUERY_TILE, 0.0),
        ] {
            buffer.clear();
            buffer.resize(len, value);
        }
        for range in segment.ranges {
            let seen = range.visible(first + count - 1);
            for j in (0..seen).step_by(KEY_TILE) {
                let width = KEY_TILE.min(seen - j);
                let keys =
                    Operand::by_rows(head(self.keys, self.k, d, key_head, range.row + j), self.k.stride);
                let values =
                    Operand::by_columns(head(self.values, self.v, d, key_head, range.row + j), self.v.stride);
                product(self.kernel, queries, keys, &mut tiles.scores, KEY_TILE, [count, width, d], false);
                self.simd.run(|| softmax_update(tiles, range, first, count, j, width, d, scale));
                let scores = Operand::by_rows(&tiles.scores, KEY_TILE);
                product(self.kernel, scores, values, &mut tiles.accumulator, d, [count, d, width], true);
            }
        }
        for i in 0..count {
            let row = segment.start + first + i;
            // SAFETY: this task alone writes this head of this row.
            let out = unsafe { out.row(row, query_head * d..(query_head + 1) * d) };
            let inverse = 1.0 / tiles.total[i];
            for (out, &sum) in out.iter_mut().zip(&tiles.accumulator[i * d..]) {
                *out = sum * inverse;
            }
            // SAFETY: as above.
            let lse = unsafe { lse.row(row, query_head..query_head + 1) };
            lse[0] = tiles.largest[i] + tiles.total[i].ln();
        }
    }
}

/// Turns a tile of raw scores into weights relative to the running maximum, and rescales what was summed before.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one tile's coordinates")]
fn softmax_update(
    tiles: &mut Tiles,
    range: Range,
    first: usize,
    count: usize,
    j: usize,
    width: usize,
    d: usize,
    scale: f32,
) {
    for i in 0..count {
        let row = &mut tiles.scores[i * KEY_TILE..i * KEY_TILE + width];
        let visible = range.visible(first + i).saturating_sub(j).min(width);
        row[visible..].fill(0.0);
        let row = &mut row[..visible];
        if row.is_empty() {
            continue;
        }
        for score in row.iter_mut() {
            *score *= scale;
        }
        let largest = simd::maximum(row).max(tiles.largest[i]);
        for score in row.iter_mut() {
            *score = simd::exp(*score - largest);
        }
        let sum = simd::sum(row.len(), |k| row[k]) as f32;
        let correction = simd::exp(tiles.largest[i] - largest);
        tiles.largest[i] = largest;
        tiles.total[i] = tiles.total[i] * correction + sum;
        if correction != 1.0 {
            for value in &mut tiles.accumulator[i * d..(i + 1) * d] {
                *value *= correction;
            }
        }
    }
}

/// The operation [`AttentionBackward`].
pub fn backward(simd: Simd, kernel: &Kernel, memory: &mut Memory, arguments: AttentionBackward) {
    let AttentionBackward { q, k, v, shape, .. } = arguments;
    let mut access = memory.access();
    assert_eq!(q.view, k.view, "backward attention works on packed keys");
    assert_eq!(q.view, v.view, "backward attention works on packed values");
    let qkv = access.read::<f32>(q.view);
    let (out, dout) = (access.read::<f32>(arguments.out), access.read::<f32>(arguments.dout));
    let lse = access.read::<f32>(arguments.lse);
    let segments = decode(access.read::<u32>(arguments.segments));
    let families = access.read::<u32>(arguments.families);
    let dqkv = access.write::<f32>(arguments.dqkv);
    dqkv.fill(0.0);
    let delta = access.write::<f32>(arguments.delta);
    let rows = out.par_chunks_exact(shape.head_dim).zip(dout.par_chunks_exact(shape.head_dim));
    delta.par_iter_mut().zip(rows).for_each(|(delta, (out, dout))| *delta = simd::dot(out, dout) as f32);
    let delta = &*delta;
    let dqkv = SharedMatrix::new(dqkv, q.stride);
    let task = BackwardTask { simd, kernel, shape, qkv, dout, lse, delta, q, k, v, dqkv };
    let family_count = families.len() - 1;
    (0..family_count * shape.key_heads).into_par_iter().for_each(|index| {
        let (family, key_head) = (index / shape.key_heads, index % shape.key_heads);
        let members = &segments[families[family] as usize..families[family + 1] as usize];
        TILES.with_borrow_mut(|tiles| task.run(tiles, members, key_head));
    });
}

/// What the backward tasks share.
struct BackwardTask<'a> {
    simd: Simd,
    kernel: &'a Kernel,
    shape: AttentionShape,
    qkv: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
    delta: &'a [f32],
    q: Heads,
    k: Heads,
    v: Heads,
    dqkv: SharedMatrix<'a>,
}

impl BackwardTask<'_> {
    fn run(&self, tiles: &mut Tiles, members: &[Segment], key_head: usize) {
        let group = self.shape.query_heads / self.shape.key_heads;
        tiles.scores.resize(QUERY_TILE * KEY_TILE, 0.0);
        tiles.dscores.resize(QUERY_TILE * KEY_TILE, 0.0);
        for segment in members {
            for query_head in key_head * group..(key_head + 1) * group {
                for first in (0..segment.len).step_by(QUERY_TILE) {
                    self.query_tile(tiles, segment, query_head, key_head, first);
                }
            }
        }
    }

    fn query_tile(
        &self,
        tiles: &mut Tiles,
        segment: &Segment,
        query_head: usize,
        key_head: usize,
        first: usize,
    ) {
        let (d, width) = (self.shape.head_dim, self.shape.query_heads * self.shape.head_dim);
        let count = QUERY_TILE.min(segment.len - first);
        let row = segment.start + first;
        let dout = &self.dout[row * width + query_head * d..];
        let queries = head(self.qkv, self.q, d, query_head, row);
        for range in segment.ranges {
            let seen = range.visible(first + count - 1);
            for j in (0..seen).step_by(KEY_TILE) {
                let keys_here = KEY_TILE.min(seen - j);
                let key_row = range.row + j;
                let keys = head(self.qkv, self.k, d, key_head, key_row);
                let values = head(self.qkv, self.v, d, key_head, key_row);
                let size = [count, keys_here, d];
                product(
                    self.kernel,
                    Operand::by_rows(queries, self.q.stride),
                    Operand::by_rows(keys, self.k.stride),
                    &mut tiles.scores,
                    KEY_TILE,
                    size,
                    false,
                );
                product(
                    self.kernel,
                    Operand::by_rows(dout, width),
                    Operand::by_rows(values, self.v.stride),
                    &mut tiles.dscores,
                    KEY_TILE,
                    size,
                    false,
                );
                self.simd
                    .run(|| self.score_gradients(tiles, range, row, first, count, j, keys_here, query_head));
                let (weights, dscores) = (&tiles.scores, &tiles.dscores);
                // dV += P^T dO, dK += dS^T Q, dQ += dS K
                let dv = self.target(key_row, self.v.column + key_head * d);
                let dk = self.target(key_row, self.k.column + key_head * d);
                let dq = self.target(row, self.q.column + query_head * d);
                // SAFETY: this task owns its family's rows at these heads, and the three blocks are disjoint columns.
                unsafe {
                    product::block(
                        self.kernel,
                        Operand::by_columns(weights, KEY_TILE),
                        Operand::by_columns(dout, width),
                        dv,
                        [keys_here, d, count],
                    );
                    product::block(
                        self.kernel,
                        Operand::by_columns(dscores, KEY_TILE),
                        Operand::by_columns(queries, self.q.stride),
                        dk,
                        [keys_here, d, count],
                    );
                    product::block(
                        self.kernel,
                        Operand::by_rows(dscores, KEY_TILE),
                        Operand::by_columns(keys, self.k.stride),
                        dq,
                        [count, d, keys_here],
                    );
                }
            }
        }
    }

    fn target(&self, row: usize, column: usize) -> Target {
        Target { pointer: self.dqkv.pointer(row, column), stride: self.dqkv.stride(), accumulate: true }
    }

    /// `P = exp(s - lse)` in `scores` and `dS = P * (dP - rowsum(dO * O)) / sqrt(D)` in `dscores`; zero where masked.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one tile's coordinates")]
    fn score_gradients(
        &self,
        tiles: &mut Tiles,
        range: Range,
        row: usize,
        first: usize,
        count: usize,
        j: usize,
        width: usize,
        query_head: usize,
    ) {
        let scale = 1.0 / (self.shape.head_dim as f32).sqrt();
        for i in 0..count {
            let visible = range.visible(first + i).saturating_sub(j).min(width);
            let at = (row + i) * self.shape.query_heads + query_head;
            let (lse, delta) = (self.lse[at], self.delta[at]);
            let scores = &mut tiles.scores[i * KEY_TILE..][..width];
            let dscores = &mut tiles.dscores[i * KEY_TILE..][..width];
            for (score, dscore) in scores[..visible].iter_mut().zip(&mut dscores[..visible]) {
                let weight = simd::exp(*score * scale - lse);
                *score = weight;
                *dscore = weight * (*dscore - delta) * scale;
            }
            scores[visible..].fill(0.0);
            dscores[visible..].fill(0.0);
        }
    }
}
