//! Launches of `kernels/attention.cu` (f32), `kernels/attention_bf16.cu` and `kernels/attention_backward_bf16.cu`.

use super::CudaBackend;
use super::launch::{arguments, stored};
use crate::backend::{
    AttentionBackward, AttentionForward, AttentionShape, Element, Heads, SEGMENT_WORDS, TILE_WORDS,
};

/// Threads of a block in f32; also the largest head size, whose elements they own in the second half of a tile.
const THREADS: u32 = 128;

/// Threads of a block that owns a query tile in bf16.
const QUERY_THREADS: u32 = 128;
/// Rows that a block in bf16 owns at most: of queries, or of keys.
const OWNED_ROWS: u32 = 128;

/// Bytes of `rows` rows of a head in bf16.
const fn row_bytes(rows: u32, head_dim: usize) -> u32 {
    2 * rows * head_dim as u32
}

/// Dynamic shared memory of the forward kernel: queries, 64 keys, 64 values.
fn forward_shared(head_dim: usize) -> u32 {
    row_bytes(OWNED_ROWS + 64 + 64, head_dim)
}

/// Of the kernel of dq: Q, dO, two stages of K and V.
fn query_shared(head_dim: usize) -> u32 {
    let keys = if head_dim <= 64 { 64 } else { 32 };
    row_bytes(2 * OWNED_ROWS + 4 * keys, head_dim)
}

/// Of the kernel of dk and dv: K, V, two stages of Q and dO with lse and delta.
fn key_shared(head_dim: usize) -> u32 {
    let queries = if head_dim <= 64 { 32 } else { 64 };
    row_bytes(2 * OWNED_ROWS + 4 * queries, head_dim) + 2 * 2 * 4 * queries
}

/// Threads of the kernel of dk and dv: a warp owns 32 keys of short rows, or 16 of long ones.
fn key_threads(head_dim: usize) -> u32 {
    if head_dim <= 64 { 128 } else { 256 }
}

fn check(shape: AttentionShape) {
    assert!(shape.head_dim <= THREADS as usize, "head size {} is above {THREADS}", shape.head_dim);
    assert!(
        shape.query_heads.is_multiple_of(shape.key_heads),
        "{shape:?}: query heads share key heads evenly"
    );
}

fn scale(shape: AttentionShape) -> f32 {
    (1.0 / (shape.head_dim as f64).sqrt()) as f32
}

impl CudaBackend {
    /// The address of the first head, which bf16 kernels copy from in 16-byte pieces.
    fn heads_bf16(&self, heads: Heads) -> u64 {
        let address = self.at(heads.view) + 2 * heads.column as u64;
        assert!(
            address.is_multiple_of(16) && heads.stride.is_multiple_of(8),
            "{heads:?} are not at multiples of 16 bytes"
        );
        address
    }
}

/// The operation [`AttentionForward`].
pub fn forward(backend: &mut CudaBackend, a: AttentionForward) {
    check(a.shape);
    assert_eq!(a.lse.len * a.shape.head_dim, a.out.len);
    match stored([Some(a.q.view), Some(a.k.view), Some(a.v.view), Some(a.out)]) {
        Element::Bf16 => forward_bf16(backend, a),
        _ => forward_f32(backend, a),
    }
}

fn forward_bf16(backend: &mut CudaBackend, a: AttentionForward) {
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    assert_eq!(a.k.stride, a.v.stride, "keys and values lie in rows of one length");
    let [q, k, v] = [a.q, a.k, a.v].map(|heads| backend.heads_bf16(heads));
    let (segments, tiles) = (backend.at(a.segments), backend.at(a.query_tiles));
    let (out, lse) = (backend.at(a.out), backend.at(a.lse));
    // SAFETY: one block per tile and head; tiles cover the rows of `out`, ranges address rows of the key view, as the loader
    // (or the cache) made them.
    unsafe {
        backend.launch_shared(
            |k| k.attention_forward_bf16.of(head_dim),
            (a.query_tiles.len / TILE_WORDS * query_heads, 1),
            (QUERY_THREADS, 1),
            forward_shared(head_dim),
            arguments![
                q,
                a.q.stride,
                k,
                v,
                a.k.stride,
                segments,
                tiles,
                out,
                lse,
                query_heads,
                key_heads,
                scale(a.shape)
            ],
        );
    }
}

fn forward_f32(backend: &mut CudaBackend, a: AttentionForward) {
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    let rows = a.out.len / (query_heads * head_dim);
    let [q, k, v] = [a.q, a.k, a.v].map(|heads| backend.at(heads.view) + 4 * heads.column as u64);
    let (segments, count) = (backend.at(a.segments), a.segments.len / SEGMENT_WORDS);
    let (out, lse) = (backend.at(a.out), backend.at(a.lse));
    // SAFETY: one block per row and head; ranges address rows of the key view, as the loader (or the cache) made them.
    unsafe {
        backend.launch(
            |k| &k.attention_forward_f32,
            (rows, query_heads),
            (THREADS, 1),
            arguments![
                q,
                a.q.stride,
                k,
                a.k.stride,
                v,
                a.v.stride,
                segments,
                count,
                out,
                lse,
                query_heads,
                key_heads,
                head_dim
            ],
        );
    }
}

/// The operation [`AttentionBackward`].
pub fn backward(backend: &mut CudaBackend, a: AttentionBackward) {
    check(a.shape);
    assert!(
        a.q.view == a.k.view && a.q.view == a.v.view,
        "backward attention works on packed keys and values"
    );
    let rows = a.lse.len / a.shape.query_heads;
    assert_eq!(a.lse.len * a.shape.head_dim, a.out.len);
    assert_eq!((a.dout.len, a.delta.len, a.dqkv.len), (a.out.len, a.lse.len, rows * a.q.stride));
    match stored([Some(a.q.view), Some(a.out), Some(a.dout), Some(a.dqkv)]) {
        Element::Bf16 => backward_bf16(backend, a),
        _ => backward_f32(backend, a),
    }
}

fn backward_bf16(backend: &mut CudaBackend, a: AttentionBackward) {
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    for heads in [a.q, a.k, a.v, Heads { view: a.dqkv, ..a.q }] {
        backend.heads_bf16(heads);
    }
    let (qkv, out, lse) = (backend.at(a.q.view), backend.at(a.out), backend.at(a.lse));
    let (dout, dqkv, delta) = (backend.at(a.dout), backend.at(a.dqkv), backend.at(a.delta));
    assert!(out.is_multiple_of(16) && dout.is_multiple_of(16), "rows are not at multiples of 16 bytes");
    let (segments, families) = (backend.at(a.segments), backend.at(a.families));
    let (query_tiles, key_tiles) = (backend.at(a.query_tiles), backend.at(a.key_tiles));
    let [q_column, k_column, v_column] = [a.q.column, a.k.column, a.v.column];
    // Lanes that share a row and head: one per 16-byte piece, or a third of that.
    let lanes = if head_dim == 96 { 4 } else { head_dim / 8 };
    // SAFETY: a group of lanes per row and head, bounded by the kernel.
    unsafe {
        backend.launch(
            |k| k.attention_backward_delta_bf16.of(head_dim),
            ((a.delta.len * lanes).div_ceil(THREADS as usize), 1),
            (THREADS, 1),
            arguments![out, dout, delta, a.delta.len],
        );
    }
    // SAFETY: one block per key tile and head; tiles cover the rows, families and ranges are the loader's.
    unsafe {
        backend.launch_shared(
            |k| k.attention_backward_key_bf16.of(head_dim),
            (a.key_tiles.len / TILE_WORDS * key_heads, 1),
            (key_threads(head_dim), 1),
            key_shared(head_dim),
            arguments![
                qkv,
                dout,
                lse,
                delta,
                dqkv,
                segments,
                families,
                key_tiles,
                a.q.stride,
                q_column,
                k_column,
                v_column,
                query_heads,
                key_heads,
                scale(a.shape)
            ],
        );
    }
    // SAFETY: one block per query tile and head; tiles cover the rows, ranges are the loader's.
    unsafe {
        backend.launch_shared(
            |k| k.attention_backward_query_bf16.of(head_dim),
            (a.query_tiles.len / TILE_WORDS * query_heads, 1),
            (QUERY_THREADS, 1),
            query_shared(head_dim),
            arguments![
                qkv,
                dout,
                lse,
                delta,
                dqkv,
                segments,
                query_tiles,
                a.q.stride,
                q_column,
                k_column,
                v_column,
                query_heads,
                key_heads,
                scale(a.shape)
            ],
        );
    }
}

fn backward_f32(backend: &mut CudaBackend, a: AttentionBackward) {
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    let (rows, stride) = (a.out.len / (query_heads * head_dim), a.q.stride);
    let (qkv, out, lse) = (backend.at(a.q.view), backend.at(a.out), backend.at(a.lse));
    let (dout, dqkv, delta) = (backend.at(a.dout), backend.at(a.dqkv), backend.at(a.delta));
    let (segments, count) = (backend.at(a.segments), a.segments.len / SEGMENT_WORDS);
    let (families, family_count) = (backend.at(a.families), a.families.len - 1);
    let columns = [a.q.column, a.k.column, a.v.column];
    // SAFETY: one thread per row and head, bounded by the kernel.
    unsafe {
        backend.launch(
            |k| &k.attention_backward_delta_f32,
            ((rows * query_heads).div_ceil(THREADS as usize), 1),
            (THREADS, 1),
            arguments![out, dout, delta, rows, query_heads, head_dim],
        );
    }
    // SAFETY: one block per row and query head; ranges are the loader's.
    unsafe {
        backend.launch(
            |k| &k.attention_backward_query_f32,
            (rows, query_heads),
            (THREADS, 1),
            arguments![
                qkv,
                delta,
                lse,
                dout,
                dqkv,
                segments,
                count,
                stride,
                columns[0],
                columns[1],
                columns[2],
                query_heads,
                key_heads,
                head_dim
            ],
        );
    }
    // SAFETY: one block per row and key head; families are the loader's.
    unsafe {
        backend.launch(
            |k| &k.attention_backward_key_f32,
            (rows, key_heads),
            (THREADS, 1),
            arguments![
                qkv,
                delta,
                lse,
                dout,
                dqkv,
                segments,
                count,
                families,
                family_count,
                stride,
                columns[0],
                columns[1],
                columns[2],
                query_heads,
                key_heads,
                head_dim
            ],
        );
    }
}
