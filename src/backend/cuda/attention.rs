//! Launches of `kernels/attention.cu`.

use super::CudaBackend;
use super::launch::arguments;
use crate::backend::{AttentionBackward, AttentionForward, AttentionShape, SEGMENT_WORDS};

/// Threads of an attention block; also the largest head size, whose elements they own in the second half of a tile.
const THREADS: u32 = 128;

fn check(shape: AttentionShape) {
    assert!(shape.head_dim <= THREADS as usize, "head size {} is above {THREADS}", shape.head_dim);
}

/// The operation [`AttentionForward`].
pub fn forward(backend: &mut CudaBackend, a: AttentionForward) {
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    check(a.shape);
    let rows = a.out.len / (query_heads * head_dim);
    assert_eq!(a.lse.len, rows * query_heads);
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
    let AttentionShape { query_heads, key_heads, head_dim } = a.shape;
    check(a.shape);
    assert!(
        a.q.view == a.k.view && a.q.view == a.v.view,
        "backward attention works on packed keys and values"
    );
    let (rows, stride) = (a.out.len / (query_heads * head_dim), a.q.stride);
    assert_eq!((a.dout.len, a.delta.len, a.dqkv.len), (a.out.len, rows * query_heads, rows * stride));
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
