//! Softmax attention of segments over up to two key ranges, packed with shared prompts or over a cache, and its
//! gradients.

use std::ops::Range;

use asft::backend::{
    AttentionBackward, AttentionForward, AttentionShape, Backend, Heads as HeadColumns, SEGMENT_WORDS, View,
    key_tiles, query_tiles,
};
use asft::data;

use crate::attention_spread::spread;
use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, on_every_cpu_in_bf16, wide};
use crate::naive;
use crate::reference::attention::{self, Heads, Inputs, KeyRange, Segment};
use crate::tolerance::{
    ATTENTION_BACKWARD, ATTENTION_BACKWARD_BF16, ATTENTION_FORWARD, ATTENTION_FORWARD_BF16, ATTENTION_LSE,
    ATTENTION_LSE_BF16, Comparison, Rule,
};

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

/// Segments as the loader has them; `lone_first` says whether a lone range is the first or the second of the two.
fn loaded(segments: &[Segment], lone_first: bool) -> Vec<data::Segment> {
    let range = |range: KeyRange| data::KeyRange {
        row: range.kv_row as u32,
        len: range.len as u32,
        causal_offset: range.causal_offset as u32,
    };
    let one = |segment: &Segment| {
        let unused = data::KeyRange::default();
        let ranges = match segment.ranges[..] {
            [lone] if lone_first => [range(lone), unused],
            [lone] => [unused, range(lone)],
            [a, b] => [range(a), range(b)],
            _ => panic!("a segment has one or two ranges"),
        };
        data::Segment { start: segment.query_row as u32, len: segment.len as u32, ranges }
    };
    segments.iter().map(one).collect()
}

/// What attention is told of segments.
#[derive(Clone, Copy)]
struct Lists {
    segments: View,
    families: View,
    query_tiles: View,
    key_tiles: View,
}

impl Lists {
    /// Uploads the lists of `rows` rows; families as offsets.
    fn put<B: Backend>(
        device: &mut Device<B>,
        segments: &[data::Segment],
        families: &[u32],
        rows: usize,
    ) -> Self {
        let words: Vec<u32> = segments
            .iter()
            .flat_map(|segment| {
                let ranges = segment.ranges.iter().flat_map(|r| [r.row, r.len, r.causal_offset]);
                [segment.start, segment.len].into_iter().chain(ranges).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(words.len(), segments.len() * SEGMENT_WORDS);
        let runs: Vec<Range<u32>> = families.windows(2).map(|pair| pair[0]..pair[1]).collect();
        Self {
            segments: device.put(&words),
            families: device.put(families),
            query_tiles: device.put(&query_tiles(segments, rows)),
            key_tiles: device.put(&key_tiles(segments, &runs, rows)),
        }
    }
}

/// `columns` of every row of a matrix.
fn columns(matrix: &[f32], stride: usize, columns: Range<usize>) -> Vec<f32> {
    matrix.chunks_exact(stride).flat_map(|row| row[columns.clone()].to_vec()).collect()
}

/// Queries, keys and values side by side, `[rows + padding, (N + 2K) D]`.
struct Input {
    heads: Heads,
    storage: Storage,
    qkv: Vec<f32>,
}

impl Input {
    /// Standard normal, queries times `sharpness`; padding rows are zeros.
    fn new(seed: u64, storage: Storage, heads: Heads, rows: usize, padding: usize, sharpness: f32) -> Self {
        let stride = (heads.query + 2 * heads.key_value) * heads.size;
        let mut qkv = normal(seed, rows * stride);
        for row in qkv.chunks_exact_mut(stride) {
            row[..heads.query * heads.size].iter_mut().for_each(|q| *q *= sharpness);
        }
        qkv.resize((rows + padding) * stride, 0.0);
        Self { heads, storage, qkv: storage.rounded(&qkv) }
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

impl Input {
    fn naive<'a>(&self, segments: &'a [Segment], [q, k, v]: [&'a [f32]; 3]) -> naive::Attention<'a> {
        naive::Attention { storage: self.storage, heads: self.heads, segments, q, k, v }
    }
}

/// `f32` for f32. For bf16 the other one, whose unit, 2^-8 of `spread`, is 2^15 times larger: `scale` and `n` of the f32
/// rule become a small part of it.
fn judge(storage: Storage, [f32, bf16]: [&Rule; 2], spread: &[f64], scale: Vec<f64>, comparison: Comparison) {
    let comparison = Comparison { scale: &scale, ..comparison };
    if storage == Storage::F32 {
        return f32.judge(comparison);
    }
    let chain = (comparison.n as f64).sqrt() / 32768.0;
    let scale: Vec<f64> = spread.iter().zip(&scale).map(|(spread, scale)| spread + chain * scale).collect();
    bf16.judge_stored(storage, Comparison { n: 1, scale: &scale, ..comparison });
}

/// Compares a forward result with the twin; gives the largest size of a score, as it goes into a scale.
fn judge_forward(
    case: &str,
    input: &Input,
    rows: usize,
    segments: &[Segment],
    got: [&[f32]; 2],
    qkv: [&[f32]; 3],
) -> f64 {
    let (heads, storage) = (input.heads, input.storage);
    let [out, lse] = got;
    let [q, k, v] = qkv.map(wide);
    let inputs = Inputs { q: &q, k: &k, v: &v };
    let twin = attention::forward(heads, segments, inputs);
    let sizes: Vec<f64> = v.iter().map(|v| v.abs()).collect();
    let sizes = attention::forward(heads, segments, Inputs { q: &q, k: &k, v: &sizes }).out;
    let (width, count) = (heads.query * heads.size, heads.query);
    // No score is larger than its log-sum-exp, and much smaller ones do not weigh.
    let score = 1.0 + twin.lse[..rows * count].iter().fold(0.0f64, |largest, lse| largest.max(lse.abs()));
    let naive = input.naive(segments, qkv).forward();
    let keys = segments.iter().map(|s| s.ranges.iter().map(|r| r.len).sum::<usize>()).max().unwrap_or(0);
    let n = heads.size + keys;
    let rule = if storage == Storage::F32 { ATTENTION_LSE } else { ATTENTION_LSE_BF16 };
    rule.judge(Comparison {
        case: case.to_owned(),
        n,
        got: &lse[..rows * count],
        exact: &twin.lse[..rows * count],
        scale: &vec![score; rows * count],
        naive: Some(&naive.1[..rows * count]),
    });
    let rounding = spread(heads, segments, inputs, &vec![0.0; q.len()]).out;
    let comparison = Comparison {
        case: case.to_owned(),
        n,
        got: &out[..rows * width],
        exact: &twin.out[..rows * width],
        scale: &[],
        naive: Some(&naive.0[..rows * width]),
    };
    let scale = sizes[..rows * width].iter().map(|size| size * score).collect();
    judge(storage, [&ATTENTION_FORWARD, &ATTENTION_FORWARD_BF16], &rounding, scale, comparison);
    for (name, rest) in [("output", &out[rows * width..]), ("log-sum-exp", &lse[rows * count..])] {
        assert!(rest.iter().all(|&x| x == 0.0), "{case}: {name} after the last segment is not zero");
    }
    score
}

/// Packed groups of one shape.
#[derive(Clone, Copy, Debug)]
struct Case<'a> {
    storage: Storage,
    heads: Heads,
    groups: &'a [(usize, &'a [usize])],
    padding: usize,
    sharpness: f32,
}

/// Forward and backward of packed groups.
fn check_packed<B: Backend>(backend: &mut B, case: Case) -> Vec<u32> {
    let Case { storage, heads, groups, padding, sharpness } = case;
    let packed = pack(groups);
    let name = format!("{case:?}");
    let input = Input::new(1, storage, heads, packed.rows, padding, sharpness);
    let (rows, width) = (input.rows(), heads.query * heads.size);
    let mut device = Device::storing(backend, storage);
    let qkv = device.store(&input.qkv);
    let lists = Lists::put(&mut device, &loaded(&packed.segments, false), &packed.families, rows);
    let Lists { segments, families, query_tiles, key_tiles } = lists;
    let (out, lse) = (device.store_out(rows * width), device.out(rows * heads.query));
    let ([q, k, v], shape) = (input.views(qkv), input.shape());
    device.backend.attention_forward(AttentionForward { q, k, v, segments, query_tiles, out, lse, shape });
    let (got_out, got_lse) = (device.stored(out), device.result::<f32>(lse));
    let parts = input.parts();
    let slices = [0, 1, 2].map(|i| parts[i].as_slice());
    let score = judge_forward(&name, &input, packed.rows, &packed.segments, [&got_out, &got_lse], slices);

    let mut dout = storage.normal(2, packed.rows * width);
    dout.resize(rows * width, 0.0);
    let (dqkv, delta) = (device.store_out(input.qkv.len()), device.out(rows * heads.query));
    device.scratch(delta);
    let arguments = AttentionBackward {
        q,
        k,
        v,
        out,
        lse,
        dout: device.store(&dout),
        dqkv,
        delta,
        segments,
        families,
        query_tiles,
        key_tiles,
        shape,
    };
    device.backend.attention_backward(arguments);
    let got = device.stored(dqkv);
    judge_backward(&name, &input, &packed, [&got, &dout], slices, score);
    device.finish()
}

/// Compares gradients with the twin's.
fn judge_backward(
    case: &str,
    input: &Input,
    packed: &Packed,
    [got, dout]: [&[f32]; 2],
    qkv: [&[f32]; 3],
    score: f64,
) {
    let heads = input.heads;
    let [q, k, v] = qkv.map(wide);
    let inputs = Inputs { q: &q, k: &k, v: &v };
    let twin = attention::backward(heads, &packed.segments, inputs, &wide(dout));
    let naive = input.naive(&packed.segments, qkv).backward(dout);
    let rounding = spread(heads, &packed.segments, inputs, &wide(dout)).gradients;
    let borders = input.borders();
    // What one query with one key adds: of order 1, times the queries' size where these are a factor.
    let sharpness = q.iter().fold(1.0f64, |largest, q| largest.max(q.abs() / 4.0));
    let sizes = [1.0, sharpness, 1.0];
    for (i, exact) in [twin.dq, twin.dk, twin.dv].iter().enumerate() {
        let got = columns(got, input.stride(), borders[i]..borders[i + 1]);
        let scale = exact.iter().map(|x| score * (sizes[i] + x.abs())).collect();
        let comparison = Comparison {
            case: format!("{}: {case}", ["dq", "dk", "dv"][i]),
            n: heads.size + packed.rows,
            got: &got,
            exact,
            scale: &[],
            // With a single key dP - delta is 0, which naive f32 meets by subtracting a number from itself.
            naive: (packed.rows > 1).then_some(naive[i].as_slice()),
        };
        let rules = [&ATTENTION_BACKWARD, &ATTENTION_BACKWARD_BF16];
        judge(input.storage, rules, &rounding[i], scale, comparison);
    }
    let rest = &got[packed.rows * input.stride()..];
    assert!(rest.iter().all(|&x| x == 0.0), "{case}: gradients of rows after the last segment are not zero");
}

const fn heads(query: usize, key_value: usize, size: usize) -> Heads {
    Heads { query, key_value, size }
}

/// Heads, groups, padding, sharpness.
type Row<'a> = (Heads, &'a [(usize, &'a [usize])], usize, f32);

/// Runs every row of a table of cases.
fn check_table<B: Backend>(backend: &mut B, storage: Storage, table: &[Row]) -> Vec<u32> {
    let mut all = Vec::new();
    for &(heads, groups, padding, sharpness) in table {
        all.extend(check_packed(backend, Case { storage, heads, groups, padding, sharpness }));
    }
    all
}

/// Every head size, grouped, single and equal key/value heads; tiles (96 queries, 2 of them a task; 192 keys) that are just
/// full, just not, and just more; one-token prompts and answers; no answer at all; padding.
pub fn check_packed_groups<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    check_table(
        backend,
        storage,
        &[
            (heads(1, 1, 16), &[(1, &[])], 0, 1.0),
            (heads(2, 1, 16), &[(1, &[1, 1])], 3, 1.0),
            (heads(4, 2, 16), &[(5, &[3, 1]), (1, &[7, 2]), (9, &[4])], 0, 1.0),
            (heads(4, 4, 32), &[(47, &[2, 1]), (48, &[49])], 5, 1.0),
            (heads(2, 1, 64), &[(95, &[191, 1]), (192, &[97, 193])], 5, 1.0),
            (heads(6, 2, 64), &[(97, &[67, 1]), (3, &[96, 95])], 1, 1.0),
            (heads(3, 1, 96), &[(37, &[5, 12, 1])], 11, 1.0),
            (heads(2, 1, 128), &[(128, &[33, 130])], 0, 1.0),
            (heads(2, 2, 24), &[(193, &[])], 0, 1.0),
            // Scores up to about 60 and 300: softmax near one-hot, and exponentials that vanish.
            (heads(2, 1, 32), &[(40, &[21, 70])], 0, 15.0),
            (heads(2, 1, 64), &[(40, &[21, 70])], 0, 80.0),
        ],
    )
}

/// A choice of the same, small enough for a device that is only simulated; the ranges still cross 128 keys once. In bf16
/// every head size meets tiles (128 queries, 32 or 64 of them at a time, 32 or 64 keys) that are full, or not quite, and
/// more than one of them.
pub fn check_small_packed_groups<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = check_table(
        backend,
        storage,
        &[
            (heads(1, 1, 16), &[(1, &[])], 0, 1.0),
            (heads(2, 1, 16), &[(1, &[1, 1])], 3, 1.0),
            (heads(4, 2, 16), &[(5, &[3, 1]), (1, &[7, 2]), (9, &[4])], 0, 1.0),
            (heads(3, 3, 32), &[(3, &[2, 1])], 5, 15.0),
            (heads(2, 1, 64), &[(11, &[6, 9])], 1, 1.0),
            (heads(3, 1, 96), &[(7, &[5, 2, 1])], 0, 1.0),
            (heads(1, 1, 128), &[(130, &[1])], 0, 1.0),
        ],
    );
    if storage == Storage::Bf16 {
        let table: &[Row] = &[
            (heads(2, 1, 16), &[(129, &[65, 1])], 0, 1.0),
            (heads(1, 1, 32), &[(31, &[130]), (64, &[33])], 130, 1.0),
            (heads(4, 1, 64), &[(70, &[1, 33])], 0, 1.0),
            (heads(1, 1, 64), &[(257, &[64])], 0, 1.0),
            (heads(2, 2, 96), &[(63, &[66])], 0, 1.0),
            (heads(2, 1, 128), &[(65, &[128, 32])], 2, 1.0),
            (heads(1, 1, 128), &[(40, &[21, 70])], 0, 80.0),
        ];
        all.extend(check_table(backend, storage, table));
    }
    all
}

#[test]
fn packed_groups_equal_the_twin_forward_and_backward() {
    on_every_cpu(Levels::OwnBits, |backend| check_packed_groups(backend, Storage::F32));
}

#[test]
fn products_of_bf16_move_attention_no_further_than_rounding_does() {
    on_every_cpu_in_bf16(|backend| check_packed_groups(backend, Storage::Operands));
}

/// Heads, rows of the cache for each sequence, and (cached before, new) tokens of each.
type CacheCase<'a> = (Heads, usize, &'a [(usize, usize)]);

/// Keys and values in a cache of rows of their own: single new tokens at the end of sequences of different lengths, and
/// runs of new tokens after cached ones (`causal_offset` = how many were there before).
pub fn check_cache<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let cases: [CacheCase; 3] = [
        (heads(4, 2, 16), 40, &[(0, 1), (5, 1), (39, 1)]),
        (heads(3, 1, 64), 400, &[(130, 1), (0, 70), (17, 190), (128, 1), (127, 2), (399, 1)]),
        (heads(2, 2, 128), 140, &[(139, 1), (64, 65)]),
    ];
    check_caches(backend, storage, &cases)
}

/// The same, small enough for a device that is only simulated: the plain f32 kernels get fewer tokens.
pub fn check_small_cache<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    if storage == Storage::Bf16 {
        return check_cache(backend, storage);
    }
    let cases: [CacheCase; 2] = [
        (heads(4, 2, 16), 40, &[(0, 1), (5, 1), (39, 1)]),
        (heads(3, 1, 64), 140, &[(130, 1), (0, 7), (17, 5), (128, 1), (127, 2), (139, 1)]),
    ];
    check_caches(backend, storage, &cases)
}

fn check_caches<B: Backend>(backend: &mut B, storage: Storage, cases: &[CacheCase]) -> Vec<u32> {
    let mut all = Vec::new();
    for &(heads, capacity, steps) in cases {
        let mut segments = Vec::new();
        let mut rows = 0;
        for (slot, &(before, new)) in steps.iter().enumerate() {
            let range = KeyRange { kv_row: slot * capacity, len: before + new, causal_offset: before };
            segments.push(Segment { query_row: rows, len: new, ranges: vec![range] });
            rows += new;
        }
        let case = format!("{steps:?} in a cache of {capacity}, {heads:?}");
        let (padding, width) = (2, heads.query * heads.size);
        let input = Input::new(1, storage, heads, rows, padding, 1.0);
        let cached = heads.key_value * heads.size;
        let cache = storage.normal(2, steps.len() * capacity * 2 * cached);
        let mut device = Device::storing(&mut *backend, storage);
        let (qkv, view) = (device.store(&input.qkv), device.store(&cache));
        let (out, lse) =
            (device.store_out((rows + padding) * width), device.out((rows + padding) * heads.query));
        let lists = Lists::put(&mut device, &loaded(&segments, true), &[0], rows + padding);
        let [k, v] = [0, cached].map(|column| HeadColumns { view, stride: 2 * cached, column });
        let arguments = AttentionForward {
            q: input.views(qkv)[0],
            k,
            v,
            segments: lists.segments,
            query_tiles: lists.query_tiles,
            out,
            lse,
            shape: input.shape(),
        };
        device.backend.attention_forward(arguments);
        let (out, lse) = (device.stored(out), device.result::<f32>(lse));
        let [q, _, _] = input.parts();
        let [k, v] = [0, cached].map(|first| columns(&cache, 2 * cached, first..first + cached));
        judge_forward(&case, &input, rows, &segments, [&out, &lse], [&q, &k, &v]);
        all.extend(device.finish());
    }
    all
}

#[test]
fn a_cache_equals_the_twin() {
    on_every_cpu(Levels::OwnBits, |backend| check_cache(backend, Storage::F32));
}

/// What one group gives, packed behind `before` and in front of `after`: output, log-sum-exp, gradients.
fn packed_bits<B: Backend>(
    backend: &mut B,
    (storage, heads): (Storage, Heads),
    before: &[(usize, &[usize])],
    group: (usize, &[usize]),
    after: &[(usize, &[usize])],
) -> Vec<u32> {
    let packed = pack(&[before, &[group], after].concat());
    let (start, len) = (pack(before).rows, pack(&[group]).rows);
    let mut input = Input::new(3, storage, heads, packed.rows, 0, 1.0);
    let (width, stride) = (heads.query * heads.size, input.stride());
    let mut dout = storage.normal(4, packed.rows * width);
    input.qkv[start * stride..][..len * stride].copy_from_slice(&storage.normal(5, len * stride));
    dout[start * width..][..len * width].copy_from_slice(&storage.normal(6, len * width));
    let mut device = Device::storing(backend, storage);
    let qkv = device.store(&input.qkv);
    let lists = Lists::put(&mut device, &loaded(&packed.segments, false), &packed.families, packed.rows);
    let Lists { segments, families, query_tiles, key_tiles } = lists;
    let (out, lse) = (device.store_out(packed.rows * width), device.out(packed.rows * heads.query));
    let (dout, dqkv) = (device.store(&dout), device.store_out(input.qkv.len()));
    let delta = device.out(packed.rows * heads.query);
    device.scratch(delta);
    let ([q, k, v], shape) = (input.views(qkv), input.shape());
    device.backend.attention_forward(AttentionForward { q, k, v, segments, query_tiles, out, lse, shape });
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
        query_tiles,
        key_tiles,
        shape,
    });
    let lse = device.result::<f32>(lse);
    let mut all = bits(&lse[start * heads.query..][..len * heads.query]);
    for (view, width) in [(out, width), (dqkv, stride)] {
        all.extend(bits(&device.stored(view)[start * width..][..len * width]));
    }
    device.finish();
    all
}

/// A group's output and gradients do not depend on what is packed before or after it.
pub fn check_packing<B: Backend>(backend: &mut B) -> Vec<u32> {
    let format = (Storage::F32, heads(4, 2, 32));
    check_packing_of(backend, format, (131, &[66, 1, 17]), [(7, &[5]), (70, &[1, 64])])
}

/// The same, small enough for a device that is only simulated.
pub fn check_small_packing<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let others: [(usize, &[usize]); 2] = [(7, &[5]), (20, &[1, 18])];
    match storage {
        Storage::F32 | Storage::Operands => {
            check_packing_of(backend, (storage, heads(4, 2, 32)), (37, &[9, 1, 5]), others)
        }
        Storage::Bf16 => {
            let mut all = check_packing_of(backend, (storage, heads(2, 1, 64)), (131, &[9, 66]), others);
            all.extend(check_packing_of(backend, (storage, heads(2, 1, 128)), (70, &[9, 1]), others));
            all
        }
    }
}

fn check_packing_of<B: Backend>(
    backend: &mut B,
    format: (Storage, Heads),
    group: (usize, &[usize]),
    others: [(usize, &[usize]); 2],
) -> Vec<u32> {
    let alone = packed_bits(backend, format, &[], group, &[]);
    for (name, before, after) in [
        ("first", &others[..0], &others[..]),
        ("in the middle", &others[..1], &others[1..]),
        ("last", &others[..], &others[..0]),
    ] {
        let packed = packed_bits(backend, format, before, group, after);
        assert!(alone == packed, "{format:?} packed {name}: other bits than alone");
    }
    alone
}

#[test]
fn a_group_has_the_same_bits_wherever_it_is_packed() {
    on_every_cpu(Levels::OwnBits, check_packing);
}

/// A prompt of whole tiles and an answer of a few rows more than that.
const COUNTED: (usize, &[usize]) = (256, &[140]);
/// Query heads of it.
const COUNTED_HEADS: usize = 2;
/// Pairs of query and key that see each other in it, over all heads.
pub const SEEN_PAIRS: usize = COUNTED_HEADS * (256 * 257 / 2 + 140 * 256 + 140 * 141 / 2);

/// Both directions, for their counters: nothing is compared.
pub fn run_both_ways<B: Backend>(backend: &mut B, storage: Storage, size: usize) {
    packed_bits(backend, (storage, heads(COUNTED_HEADS, 1, size)), &[], COUNTED, &[]);
}
