//! Attention's gradients on the CPU: every tile of scores is computed again from the log-sum-exp, and used three times.
//!
//! One task owns the keys of one family and one key/value head, and walks its queries in a fixed order: no two tasks
//! write one element, and the sums have one order. What it adds to keys and values stays in buffers of its own, tile by
//! tile, until all queries have been there.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::attention::{KEY_TILE, QUERY_TILE, Segment, Visible, decode, head, scale};
use super::kernels::Kernel;
use super::memory::{Memory, SharedMatrix};
use super::needed::Needed;
use super::pack::Operand;
use super::product::{Factor, Product, Side, multiply};
use super::simd::{self, Simd, vectorised};
use crate::backend::{AttentionBackward, AttentionShape, Heads};

/// Elements that one task sets to zero.
const ZEROED: usize = 1 << 18;

/// The operation [`AttentionBackward`].
pub fn backward(simd: Simd, kernel: &'static Kernel, memory: &mut Memory, arguments: AttentionBackward) {
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
    dqkv.par_chunks_mut(ZEROED).for_each(|part| part.fill(0.0));
    let delta = access.write::<f32>(arguments.delta);
    let (d, heads) = (shape.head_dim, shape.query_heads);
    let rows = out.par_chunks_exact(heads * d).zip(dout.par_chunks_exact(heads * d));
    delta.par_chunks_exact_mut(heads).zip(rows).for_each(|(delta, (out, dout))| {
        row_dots(simd, out, dout, delta);
    });
    let delta = &*delta;
    let dqkv = SharedMatrix::new(dqkv, q.stride);
    let task = Task { simd, kernel, shape, qkv, dout, lse, delta, q, k, v, dqkv };
    let family_count = families.len() - 1;
    (0..family_count * shape.key_heads).into_par_iter().with_max_len(1).for_each(|index| {
        let (family, key_head) = (index / shape.key_heads, index % shape.key_heads);
        let members = &segments[families[family] as usize..families[family + 1] as usize];
        SCRATCH.with_borrow_mut(|scratch| task.run(scratch, members, key_head));
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one worker thread, as large as the largest family it has met.
#[derive(Default)]
struct Scratch {
    /// Tiles of all ranges, those of one range one after another.
    keys: Vec<KeyTile>,
    /// The same queries of every head that shares the keys.
    queries: Vec<QueryTile>,
    scores: Vec<f32>,
    dscores: Vec<f32>,
    factor: Factor,
}

/// Keys and values of one range, and what has been added to their gradients.
#[derive(Default)]
struct KeyTile {
    row: usize,
    len: usize,
    /// For scores: K as rows.
    keys: Factor,
    /// For the gradient of weights: V as rows.
    values: Factor,
    /// For the gradient of queries: K as columns.
    key_columns: Factor,
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
}

/// Some queries of one head.
#[derive(Default)]
struct QueryTile {
    head: usize,
    /// Counted from the segment's start.
    first: usize,
    count: usize,
    queries: Factor,
    dout: Factor,
    query_columns: Factor,
    dout_columns: Factor,
    dqueries: Vec<f32>,
}

/// A range's first tile.
struct Place {
    row: usize,
    len: usize,
    tile: usize,
}

/// What the tasks share.
struct Task<'a> {
    simd: Simd,
    kernel: &'static Kernel,
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

impl Task<'_> {
    fn run(&self, scratch: &mut Scratch, members: &[Segment], key_head: usize) {
        let group = self.shape.query_heads / self.shape.key_heads;
        scratch.scores.resize(QUERY_TILE * KEY_TILE, 0.0);
        scratch.dscores.resize(QUERY_TILE * KEY_TILE, 0.0);
        let (places, used) = self.pack_keys(&mut scratch.keys, members, key_head);
        scratch.queries.resize_with(group, QueryTile::default);
        for segment in members {
            for first in (0..segment.len).step_by(QUERY_TILE) {
                for (index, tile) in scratch.queries.iter_mut().enumerate() {
                    self.pack_queries(tile, segment, key_head * group + index, first);
                }
                self.query_tiles(scratch, segment, &places);
                for tile in &scratch.queries {
                    self.store_queries(tile, segment);
                }
            }
        }
        for tile in &scratch.keys[..used] {
            self.add_keys(tile, key_head);
        }
    }

    /// Packs the tiles of every range once, whoever sees it; gives where each begins, and how many tiles there are.
    fn pack_keys(
        &self,
        tiles: &mut Vec<KeyTile>,
        members: &[Segment],
        key_head: usize,
    ) -> (Vec<Place>, usize) {
        let d = self.shape.head_dim;
        let mut places: Vec<Place> = Vec::new();
        let mut used = 0;
        for range in members.iter().flat_map(|segment| segment.ranges).filter(|range| range.len > 0) {
            if places.iter().any(|place| (place.row, place.len) == (range.row, range.len)) {
                continue;
            }
            places.push(Place { row: range.row, len: range.len, tile: used });
            for j in (0..range.len).step_by(KEY_TILE) {
                if tiles.len() == used {
                    tiles.push(KeyTile::default());
                }
                let tile = &mut tiles[used];
                used += 1;
                let (row, len) = (range.row + j, KEY_TILE.min(range.len - j));
                (tile.row, tile.len) = (row, len);
                let keys = head(self.qkv, self.k, d, key_head, row);
                let values = head(self.qkv, self.v, d, key_head, row);
                tile.keys.pack(self.kernel, Side::B, Operand::by_rows(keys, self.k.stride), len, d);
                tile.values.pack(self.kernel, Side::B, Operand::by_rows(values, self.v.stride), len, d);
                tile.key_columns.pack(self.kernel, Side::B, Operand::by_columns(keys, self.k.stride), d, len);
                for gradient in [&mut tile.dkeys, &mut tile.dvalues] {
                    gradient.clear();
                    gradient.resize(len * d, 0.0);
                }
            }
        }
        (places, used)
    }

    fn pack_queries(&self, tile: &mut QueryTile, segment: &Segment, head_index: usize, first: usize) {
        let (d, width) = (self.shape.head_dim, self.shape.query_heads * self.shape.head_dim);
        let count = QUERY_TILE.min(segment.len - first);
        (tile.head, tile.first, tile.count) = (head_index, first, count);
        let row = segment.start + first;
        let queries = head(self.qkv, self.q, d, head_index, row);
        let dout = &self.dout[row * width + head_index * d..];
        tile.queries.pack(self.kernel, Side::A, Operand::by_rows(queries, self.q.stride), count, d);
        tile.dout.pack(self.kernel, Side::A, Operand::by_rows(dout, width), count, d);
        tile.query_columns.pack(self.kernel, Side::B, Operand::by_columns(queries, self.q.stride), d, count);
        tile.dout_columns.pack(self.kernel, Side::B, Operand::by_columns(dout, width), d, count);
        tile.dqueries.clear();
        tile.dqueries.resize(count * d, 0.0);
    }

    /// The tiles of some queries, one for each head, against all keys that they see: every tile of keys comes from afar once
    /// for all heads.
    fn query_tiles(&self, scratch: &mut Scratch, segment: &Segment, places: &[Place]) {
        let Scratch { keys, queries, scores, dscores, factor } = scratch;
        let Some(&QueryTile { first, count, .. }) = queries.first() else { return };
        for range in segment.ranges {
            let seen = range.visible(first + count - 1);
            let place = places.iter().find(|place| (place.row, place.len) == (range.row, range.len));
            let Some(place) = place else { continue };
            let tiles = &mut keys[place.tile..place.tile + seen.div_ceil(KEY_TILE)];
            for (index, key) in tiles.iter_mut().enumerate() {
                let j = index * KEY_TILE;
                let visible = Visible { range, first, j, width: key.len.min(seen - j) };
                for tile in &mut *queries {
                    self.pair(tile, key, segment, visible, scores, dscores, factor);
                }
            }
        }
    }

    /// A tile of queries and one of keys.
    #[allow(clippy::too_many_arguments, reason = "the buffers are taken apart by the loop that calls")]
    fn pair(
        &self,
        tile: &mut QueryTile,
        key: &mut KeyTile,
        segment: &Segment,
        visible: Visible,
        scores: &mut [f32],
        dscores: &mut [f32],
        factor: &mut Factor,
    ) {
        let (kernel, d, width) = (self.kernel, self.shape.head_dim, visible.width);
        let seen = visible.seen();
        let scored = |a, b, c| {
            let needed = Needed::Scores { seen };
            multiply(
                kernel,
                Product { a, b, columns: width, c, stride: KEY_TILE, accumulate: false, needed },
            );
        };
        scored(&tile.queries, &key.keys, &mut *scores);
        scored(&tile.dout, &key.values, &mut *dscores);
        let first = (segment.start + tile.first) * self.shape.query_heads + tile.head;
        let statistics = Statistics {
            lse: &self.lse[first..],
            delta: &self.delta[first..],
            stride: self.shape.query_heads,
            count: tile.count,
        };
        score_gradients(self.simd, scores, dscores, visible, statistics, scale(self.shape));
        // dV += P^T dO, dK += dS^T Q, dQ += dS K
        let add = |a: &Factor, b, c, needed| {
            multiply(kernel, Product { a, b, columns: d, c, stride: d, accumulate: true, needed });
        };
        let columns = Needed::WeightColumns { seen };
        factor.pack(kernel, Side::A, Operand::by_columns(scores, KEY_TILE), width, tile.count);
        add(factor, &tile.dout_columns, &mut key.dvalues, columns);
        factor.pack(kernel, Side::A, Operand::by_columns(dscores, KEY_TILE), width, tile.count);
        add(factor, &tile.query_columns, &mut key.dkeys, columns);
        factor.pack(kernel, Side::A, Operand::by_rows(dscores, KEY_TILE), tile.count, width);
        add(factor, &key.key_columns, &mut tile.dqueries, Needed::Weights { seen });
    }

    fn store_queries(&self, tile: &QueryTile, segment: &Segment) {
        let d = self.shape.head_dim;
        let column = self.q.column + tile.head * d;
        for (i, gradient) in tile.dqueries.chunks_exact(d).enumerate() {
            // SAFETY: this task alone writes the rows of its family at these heads.
            let row = unsafe { self.dqkv.row(segment.start + tile.first + i, column..column + d) };
            row.copy_from_slice(gradient);
        }
    }

    /// Adds, because ranges may share keys.
    fn add_keys(&self, tile: &KeyTile, key_head: usize) {
        let d = self.shape.head_dim;
        for (gradients, heads) in [(&tile.dkeys, self.k), (&tile.dvalues, self.v)] {
            let column = heads.column + key_head * d;
            for (i, gradient) in gradients.chunks_exact(d).enumerate() {
                // SAFETY: this task alone writes the rows of its family at this head.
                let row = unsafe { self.dqkv.row(tile.row + i, column..column + d) };
                for (total, &value) in row.iter_mut().zip(gradient) {
                    *total += value;
                }
            }
        }
    }
}

/// What the forward pass left of the queries of a tile.
#[derive(Clone, Copy)]
struct Statistics<'a> {
    lse: &'a [f32],
    delta: &'a [f32],
    /// From one query to the next.
    stride: usize,
    count: usize,
}

vectorised! {
    /// The row sums of `dout * out`, head by head.
    fn row_dots(out: &[f32], dout: &[f32], delta: &mut [f32]) {
        let d = out.len() / delta.len();
        for (delta, (out, dout)) in delta.iter_mut().zip(out.chunks_exact(d).zip(dout.chunks_exact(d))) {
            *delta = simd::dot(out, dout) as f32;
        }
    }

    /// `P = exp(s - lse)` in `scores` and `dS = P * (dP - rowsum(dO * O)) / sqrt(D)` in `dscores`; zero where masked.
    fn score_gradients(
        scores: &mut [f32],
        dscores: &mut [f32],
        visible: Visible,
        statistics: Statistics<'_>,
        scale: f32,
    ) {
        for i in 0..statistics.count {
            let place = i * KEY_TILE..i * KEY_TILE + visible.padded();
            let (columns, keys) = visible.columns(i);
            let [(scores, no_scores), (dscores, no_dscores)] =
                [&mut *scores, &mut *dscores].map(|all| all[place.clone()].split_at_mut(columns));
            no_scores.fill(0.0);
            no_dscores.fill(0.0);
            scores[keys..].fill(f32::NEG_INFINITY);
            dscores[keys..].fill(0.0);
            let (lse, delta) = (statistics.lse[i * statistics.stride], statistics.delta[i * statistics.stride]);
            let (score_scale, shift) = (scale * LOG2_E, lse * LOG2_E);
            simd::exp2_all(scores, |score| score * score_scale - shift);
            for (&weight, dscore) in scores.iter().zip(dscores) {
                *dscore = weight * (*dscore - delta) * scale;
            }
        }
    }
}
