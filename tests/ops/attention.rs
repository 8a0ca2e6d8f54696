//! Softmax attention of segments over up to two key ranges, packed with shared prompts or over a cache, and its
//! gradients.

use std::ops::Range;

use asft::backend::{
    AttentionBackward, AttentionForward, AttentionShape, Backend, Heads as HeadColumns, SEGMENT_WORDS, View,
};

use crate::device::{Device, Levels, bits, normal, on_every_cpu, wide};
use crate::naive;
use crate::reference::attention::{self, Heads, Inputs, KeyRange, Segment};
use crate::tolerance::{ATTENTION_BACKWARD, ATTENTION_FORWARD, ATTENTION_LSE, Comparison};

/// What is attended to what: segments in families that share keys.
#[derive(Clone, Debug)]
struct Packed {
    segments: Vec<Segment>,
    families: Vec<u32>,
    /// Rows in segments.
    rows: usize,
}

/// Groups of a prompt and answers, one after the other, as the loader packs them.
fn pack(groups: &[(usize, &[usize])]) -> Packed {
    let mut packed = Packed { segments: Vec::new(), families: vec![0], rows: 0 };
    for &(prompt, answers) in groups {
        let shared = KeyRange { kv_row: packed.rows, len: prompt, causal_offset: prompt };
        for (index, &len) in std::iter::once(&prompt).chain(answers).enumerate() {
            let own = KeyRange { kv_row: packed.rows, len, causal_offset: 0 };
            let ranges = if index == 0 { vec![own] } else { vec![shared, own] };
            packed.segments.push(Segment { query_row: packed.rows, len, ranges });
            packed.rows += len;
        }
        packed.families.push(packed.segments.len() as u32);
    }
    packed
}

/// The u32 words of segments; `first` says whether a lone range is the first or the second of the two.
fn words(segments: &[Segment], lone_first: bool) -> Vec<u32> {
    let mut words = Vec::new();
    for segment in segments {
        let unused = KeyRange { kv_row: 0, len: 0, causal_offset: 0 };
        let ranges = match segment.ranges[..] {
            [lone] if lone_first => [lone, unused],
            [lone] => [unused, lone],
            [a, b] => [a, b],
            _ => panic!("a segment has one or two ranges"),
        };
        words.extend([segment.query_row, segment.len].map(|word| word as u32));
        words.extend(ranges.iter().flat_map(|r| [r.kv_row, r.len, r.causal_offset]).map(|word| word as u32));
    }
    assert_eq!(words.len(), segments.len() * SEGMENT_WORDS);
    words
}

/// `columns` of every row of a matrix.
fn columns(matrix: &[f32], stride: usize, columns: Range<usize>) -> Vec<f32> {
    matrix.chunks_exact(stride).flat_map(|row| row[columns.clone()].to_vec()).collect()
}

/// Queries, keys and values side by side, `[rows + padding, (N + 2K) D]`.
struct Input {
    heads: Heads,
    qkv: Vec<f32>,
}

impl Input {
    /// Standard normal, queries times `sharpness`; padding rows are zeros.
    fn new(seed: u64, heads: Heads, rows: usize, padding: usize, sharpness: f32) -> Self {
        let stride = (heads.query + 2 * heads.key_value) * heads.size;
        let mut qkv = normal(seed, rows * stride);
        for row in qkv.chunks_exact_mut(stride) {
            row[..heads.query * heads.size].iter_mut().for_each(|q| *q *= sharpness);
        }
        qkv.resize((rows + padding) * stride, 0.0);
        Self { heads, qkv }
    }

    fn stride(&self) -> usize {
        (self.heads.query + 2 * self.heads.key_value) * self.heads.size
    }

    /// First columns of q, k and v, and the end.
    fn borders(&self) -> [usize; 4] {
        let Heads { query, key_value, size } = self.heads;
        [0, query * size, (query + key_value) * size, (query + 2 * key_value) * size]
    }

    fn rows(&self) -> usize {
        self.qkv.len() / self.stride()
    }

    /// q, k and v apart.
    fn parts(&self) -> [Vec<f32>; 3] {
        let borders = self.borders();
        [0, 1, 2].map(|i| columns(&self.qkv, self.stride(), borders[i]..borders[i + 1]))
    }

    fn shape(&self) -> AttentionShape {
        let Heads { query, key_value, size } = self.heads;
        AttentionShape { query_heads: query, key_heads: key_value, head_dim: size }
    }

    /// As heads of an uploaded matrix.
    fn views(&self, view: View) -> [HeadColumns; 3] {
        let borders = self.borders();
        [0, 1, 2].map(|i| HeadColumns { view, stride: self.stride(), column: borders[i] })
    }
}

/// Compares a forward result with the twin; gives the largest size of a score, as it goes into a scale.
fn judge_forward(
    case: &str,
    heads: Heads,
    rows: usize,
    segments: &[Segment],
    got: [&[f32]; 2],
    qkv: [&[f32]; 3],
) -> f64 {
    let [out, lse] = got;
    let [q, k, v] = qkv.map(wide);
    let twin = attention::forward(heads, segments, Inputs { q: &q, k: &k, v: &v });
    let sizes: Vec<f64> = v.iter().map(|v| v.abs()).collect();
    let sizes = attention::forward(heads, segments, Inputs { q: &q, k: &k, v: &sizes }).out;
    let (width, count) = (heads.query * heads.size, heads.query);
    // No score is larger than its log-sum-exp, and much smaller ones do not weigh.
    let score = 1.0 + twin.lse[..rows * count].iter().fold(0.0f64, |largest, lse| largest.max(lse.abs()));
    let naive = naive::Attention { heads, segments, q: qkv[0], k: qkv[1], v: qkv[2] }.forward();
    let keys = segments.iter().map(|s| s.ranges.iter().map(|r| r.len).sum::<usize>()).max().unwrap_or(0);
    let n = heads.size + keys;
    ATTENTION_LSE.judge(Comparison {
        case: case.to_owned(),
        n,
        got: &lse[..rows * count],
        exact: &twin.lse[..rows * count],
        scale: &vec![score; rows * count],
        naive: Some(&naive.1[..rows * count]),
    });
    ATTENTION_FORWARD.judge(Comparison {
        case: case.to_owned(),
        n,
        got: &out[..rows * width],
        exact: &twin.out[..rows * width],
        scale: &sizes[..rows * width].iter().map(|size| size * score).collect::<Vec<_>>(),
        naive: Some(&naive.0[..rows * width]),
    });
    assert!(
        out[rows * width..].iter().all(|&x| x == 0.0),
        "{case}: rows after the last segment are not zero"
    );
    score
}

/// Forward and backward of packed groups.
fn check_packed<B: Backend>(
    backend: &mut B,
    heads: Heads,
    groups: &[(usize, &[usize])],
    padding: usize,
    sharpness: f32,
) -> Vec<u32> {
    let packed = pack(groups);
    let case = format!("{groups:?} + {padding} rows, {heads:?}, sharpness {sharpness}");
    let input = Input::new(1, heads, packed.rows, padding, sharpness);
    let (rows, width) = (input.rows(), heads.query * heads.size);
    let mut device = Device::new(backend);
    let qkv = device.put(&input.qkv);
    let segments = device.put(&words(&packed.segments, false));
    let (out, lse) = (device.out(rows * width), device.out(rows * heads.query));
    let ([q, k, v], shape) = (input.views(qkv), input.shape());
    device.backend.attention_forward(AttentionForward { q, k, v, segments, out, lse, shape });
    let (got_out, got_lse) = (device.result::<f32>(out), device.result::<f32>(lse));
    let parts = input.parts();
    let slices = [0, 1, 2].map(|i| parts[i].as_slice());
    let score = judge_forward(&case, heads, packed.rows, &packed.segments, [&got_out, &got_lse], slices);

    let mut dout = normal(2, packed.rows * width);
    dout.resize(rows * width, 0.0);
    let (dqkv, delta) = (device.out(input.qkv.len()), device.out(rows * heads.query));
    device.scratch(delta);
    let arguments = AttentionBackward {
        q,
        k,
        v,
        out,
        lse,
        dout: device.put(&dout),
        dqkv,
        delta,
        segments,
        families: device.put(&packed.families),
        shape,
    };
    device.backend.attention_backward(arguments);
    let got: Vec<f32> = device.result(dqkv);
    let [q, k, v] = slices.map(wide);
    let twin = attention::backward(heads, &packed.segments, Inputs { q: &q, k: &k, v: &v }, &wide(&dout));
    let [q, k, v] = slices;
    let naive = naive::Attention { heads, segments: &packed.segments, q, k, v }.backward(&dout);
    let borders = input.borders();
    // What one query with one key adds: of order 1, times the queries' size where these are a factor.
    let sizes = [1.0, f64::from(sharpness), 1.0];
    for (i, exact) in [twin.dq, twin.dk, twin.dv].iter().enumerate() {
        let got = columns(&got, input.stride(), borders[i]..borders[i + 1]);
        ATTENTION_BACKWARD.judge(Comparison {
            case: format!("{}: {case}", ["dq", "dk", "dv"][i]),
            n: heads.size + packed.rows,
            got: &got,
            exact,
            scale: &exact.iter().map(|x| score * (sizes[i] + x.abs())).collect::<Vec<_>>(),
            // With a single key dP - delta is 0, which naive f32 meets by subtracting a number from itself.
            naive: (packed.rows > 1).then_some(naive[i].as_slice()),
        });
    }
    let rest = &got[packed.rows * input.stride()..];
    assert!(rest.iter().all(|&x| x == 0.0), "{case}: gradients of rows after the last segment are not zero");
    device.finish()
}

const fn heads(query: usize, key_value: usize, size: usize) -> Heads {
    Heads { query, key_value, size }
}

/// Every head size, grouped, single and equal key/value heads; tiles (64 queries, 128 keys) that are just full, just
/// not, and just more; one-token prompts and answers; no answer at all; padding.
pub fn check_packed_groups<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    let mut run = |heads, groups: &[(usize, &[usize])], padding, sharpness| {
        all.extend(check_packed(backend, heads, groups, padding, sharpness));
    };
    run(heads(1, 1, 16), &[(1, &[])], 0, 1.0);
    run(heads(2, 1, 16), &[(1, &[1, 1])], 3, 1.0);
    run(heads(4, 2, 16), &[(5, &[3, 1]), (1, &[7, 2]), (9, &[4])], 0, 1.0);
    run(heads(4, 4, 32), &[(63, &[2, 1]), (64, &[65])], 5, 1.0);
    run(heads(6, 2, 64), &[(129, &[67, 1]), (3, &[64, 63])], 1, 1.0);
    run(heads(3, 1, 96), &[(37, &[5, 12, 1])], 11, 1.0);
    run(heads(2, 1, 128), &[(128, &[33, 130])], 0, 1.0);
    run(heads(2, 2, 24), &[(261, &[])], 0, 1.0);
    // Scores up to about 60 and 300: softmax near one-hot, and exponentials that vanish.
    run(heads(2, 1, 32), &[(40, &[21, 70])], 0, 15.0);
    run(heads(2, 1, 64), &[(40, &[21, 70])], 0, 80.0);
    all
}

/// A choice of the same, small enough for a device that is only simulated; the ranges still cross 128 keys once.
pub fn check_small_packed_groups<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    let mut run = |heads, groups: &[(usize, &[usize])], padding, sharpness| {
        all.extend(check_packed(backend, heads, groups, padding, sharpness));
    };
    run(heads(2, 1, 16), &[(1, &[1, 1])], 3, 1.0);
    run(heads(4, 2, 16), &[(5, &[3, 1]), (1, &[7, 2]), (9, &[4])], 0, 1.0);
    run(heads(3, 3, 32), &[(3, &[2, 1])], 5, 15.0);
    run(heads(2, 1, 64), &[(11, &[6, 9])], 1, 1.0);
    run(heads(3, 1, 96), &[(7, &[5, 2, 1])], 0, 1.0);
    run(heads(1, 1, 128), &[(130, &[1])], 0, 1.0);
    all
}

#[test]
fn packed_groups_equal_the_twin_forward_and_backward() {
    on_every_cpu(Levels::OwnBits, check_packed_groups);
}

/// Keys and values in a cache of rows of their own: single new tokens at the end of sequences of different lengths, and
/// runs of new tokens after cached ones (`causal_offset` = how many were there before).
pub fn check_cache<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    for (heads, capacity, steps) in [
        (heads(4, 2, 16), 40, vec![(0, 1), (5, 1), (39, 1)]),
        (heads(3, 1, 64), 400, vec![(130, 1), (0, 70), (17, 190), (128, 1), (127, 2), (399, 1)]),
        (heads(2, 2, 128), 140, vec![(139, 1), (64, 65)]),
    ] {
        let mut segments = Vec::new();
        let mut rows = 0;
        for (slot, &(before, new)) in steps.iter().enumerate() {
            let range = KeyRange { kv_row: slot * capacity, len: before + new, causal_offset: before };
            segments.push(Segment { query_row: rows, len: new, ranges: vec![range] });
            rows += new;
        }
        let case = format!("{steps:?} in a cache of {capacity}, {heads:?}");
        let (padding, width) = (2, heads.query * heads.size);
        let input = Input::new(1, heads, rows, padding, 1.0);
        let cached = heads.key_value * heads.size;
        let cache = normal(2, steps.len() * capacity * 2 * cached);
        let mut device = Device::new(&mut *backend);
        let (qkv, view) = (device.put(&input.qkv), device.put(&cache));
        let (out, lse) = (device.out((rows + padding) * width), device.out((rows + padding) * heads.query));
        let [k, v] = [0, cached].map(|column| HeadColumns { view, stride: 2 * cached, column });
        let arguments = AttentionForward {
            q: input.views(qkv)[0],
            k,
            v,
            segments: device.put(&words(&segments, true)),
            out,
            lse,
            shape: input.shape(),
        };
        device.backend.attention_forward(arguments);
        let (out, lse) = (device.result::<f32>(out), device.result::<f32>(lse));
        let [q, _, _] = input.parts();
        let [k, v] = [0, cached].map(|first| columns(&cache, 2 * cached, first..first + cached));
        judge_forward(&case, heads, rows, &segments, [&out, &lse], [&q, &k, &v]);
        all.extend(device.finish());
    }
    all
}

#[test]
fn a_cache_equals_the_twin() {
    on_every_cpu(Levels::OwnBits, check_cache);
}

/// What one group gives, packed behind `before` and in front of `after`: output, log-sum-exp, gradients.
fn packed_bits<B: Backend>(
    backend: &mut B,
    before: &[(usize, &[usize])],
    group: (usize, &[usize]),
    after: &[(usize, &[usize])],
) -> Vec<u32> {
    let heads = heads(4, 2, 32);
    let packed = pack(&[before, &[group], after].concat());
    let (start, len) = (pack(before).rows, pack(&[group]).rows);
    let mut input = Input::new(3, heads, packed.rows, 0, 1.0);
    let (width, stride) = (heads.query * heads.size, input.stride());
    let mut dout = normal(4, packed.rows * width);
    input.qkv[start * stride..][..len * stride].copy_from_slice(&normal(5, len * stride));
    dout[start * width..][..len * width].copy_from_slice(&normal(6, len * width));
    let mut device = Device::new(backend);
    let qkv = device.put(&input.qkv);
    let segments = device.put(&words(&packed.segments, false));
    let families = device.put(&packed.families);
    let (out, lse) = (device.out(packed.rows * width), device.out(packed.rows * heads.query));
    let (dout, dqkv) = (device.put(&dout), device.out(input.qkv.len()));
    let delta = device.out(packed.rows * heads.query);
    device.scratch(delta);
    let ([q, k, v], shape) = (input.views(qkv), input.shape());
    device.backend.attention_forward(AttentionForward { q, k, v, segments, out, lse, shape });
    device.backend.attention_backward(AttentionBackward {
        q,
        k,
        v,
        out,
        lse,
        dout,
        dqkv,
        delta,
        segments,
        families,
        shape,
    });
    let mut all = Vec::new();
    for (view, width) in [(out, width), (lse, heads.query), (dqkv, stride)] {
        all.extend(bits(&device.result::<f32>(view)[start * width..][..len * width]));
    }
    device.finish();
    all
}

/// A group's output and gradients do not depend on what is packed before or after it.
pub fn check_packing<B: Backend>(backend: &mut B) -> Vec<u32> {
    check_packing_of(backend, (131, &[66, 1, 17]), [(7, &[5]), (70, &[1, 64])])
}

/// The same, small enough for a device that is only simulated.
pub fn check_small_packing<B: Backend>(backend: &mut B) -> Vec<u32> {
    check_packing_of(backend, (37, &[9, 1, 5]), [(7, &[5]), (20, &[1, 18])])
}

fn check_packing_of<B: Backend>(
    backend: &mut B,
    group: (usize, &[usize]),
    others: [(usize, &[usize]); 2],
) -> Vec<u32> {
    let alone = packed_bits(backend, &[], group, &[]);
    for (name, before, after) in [
        ("first", &others[..0], &others[..]),
        ("in the middle", &others[..1], &others[1..]),
        ("last", &others[..], &others[..0]),
    ] {
        assert!(alone == packed_bits(backend, before, group, after), "packed {name}: other bits than alone");
    }
    alone
}

#[test]
fn a_group_has_the_same_bits_wherever_it_is_packed() {
    on_every_cpu(Levels::OwnBits, check_packing);
}
