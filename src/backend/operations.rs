//! The operations' argument structs: what each one reads, writes and computes. One operation has one name here, in
//! `backend/cpu/` and in `tests/ops/`. Views hold exactly the shape given.
//!
//! Elements: ids, lists and offsets are u32. Weights, activations and gradients of activations are *stored* values: f32
//! or bf16, all of one operation in the same format. Statistics, coefficients, log-probs, rotary tables and gradients of
//! weights are f32 whatever is stored. Arithmetic is f32 or better; a stored result is rounded once.

use super::View;
use crate::data::{BatchGroup, StepTotals};
use crate::objective::Objective;

/// `out[t] = table[ids[t]]`; with a mix `(1 - weight) table[ids[t]] + weight table[mix.ids[t]]`, a plain copy of the row
/// where both ids are one.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingForward {
    /// `[T]` u32, below V.
    pub ids: View,
    /// The second ids, if rows are mixed.
    pub mix: Option<EmbeddingMix>,
    /// `[V, H]`.
    pub table: View,
    /// `[T, H]`.
    pub out: View,
    /// H.
    pub hidden: usize,
}

/// What [`EmbeddingForward`] mixes into its rows.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingMix {
    /// `[T]` u32, below V.
    pub ids: View,
    /// Share of these ids' rows, from 0 to 1.
    pub weight: f32,
}

/// `dtable[id] += sum of scale[i] * dout[token_rows[i]] over the entries i of that id`, in their order. Always accumulates.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward {
    /// `[U]` u32: the distinct ids, ascending.
    pub token_ids: View,
    /// `[U + 1]` u32: where each id's entries begin in `token_rows`.
    pub token_offsets: View,
    /// u32: packed rows by id, ascending within one id; a mixed row is there under both of its ids.
    pub token_rows: View,
    /// f32, one for each of `token_rows`; 1 where absent.
    pub scale: Option<View>,
    /// `[T, H]`.
    pub dout: View,
    /// `[V, H]`.
    pub dtable: View,
    /// H.
    pub hidden: usize,
}

/// `sum = x + residual`, `rstd = 1/sqrt(mean(sum^2) + eps)`, `out = sum * rstd * weight`, row by row.
#[derive(Clone, Copy, Debug)]
pub struct RmsnormForward {
    /// `[T, H]`.
    pub x: View,
    /// `[T, H]`, added to `x` first.
    pub residual: Option<View>,
    /// `[T, H]`: where the sum goes; needed if and only if there is a residual.
    pub sum: Option<View>,
    /// `[H]`.
    pub weight: View,
    /// `[T, H]`.
    pub out: View,
    /// `[T]`, kept for the backward pass.
    pub rstd: View,
    /// H.
    pub hidden: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Partial sums that a device may form of a norm's weight gradient; fixed, so that the sum has one order.
pub const RMSNORM_PARTS: usize = 256;

/// With `xhat = x * rstd` and `w = dout * weight`:
/// `dx = dresidual + rstd * (w - xhat * mean(w * xhat))`, `dweight (+)= sum over rows of dout * xhat`.
#[derive(Clone, Copy, Debug)]
pub struct RmsnormBackward {
    /// `[T, H]`: gradient of the normalised output.
    pub dout: View,
    /// `[T, H]`: what was normalised (the sum, where there was a residual).
    pub x: View,
    /// `[H]`.
    pub weight: View,
    /// `[T]`.
    pub rstd: View,
    /// `[T, H]`: gradient that reaches the sum directly; may be absent at the last norm.
    pub dresidual: Option<View>,
    /// `[T, H]`.
    pub dx: View,
    /// `[H]` f32; absent for a frozen weight.
    pub dweight: Option<View>,
    /// `[RMSNORM_PARTS, H]` f32: room for partial sums of `dweight`.
    pub partial: View,
    /// Add to `dweight` instead of replacing it.
    pub accumulate: bool,
    /// H.
    pub hidden: usize,
}

/// Which way [`Rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// By the position's angle.
    Forward,
    /// Back: the gradient of the forward rotation.
    Backward,
}

/// Rotates the first `heads` heads of each row in place, Hugging Face's layout: element d of a head is paired with d + D/2.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// `[T, stride]`: the heads lie at columns 0..heads*D.
    pub x: View,
    /// Columns of `x`.
    pub stride: usize,
    /// How many heads turn (queries and keys: N + K).
    pub heads: usize,
    /// D.
    pub head_dim: usize,
    /// `[T]` u32.
    pub positions: View,
    /// `[P, D/2]`: cosines by position.
    pub cos: View,
    /// `[P, D/2]`: sines by position.
    pub sin: View,
    /// Which way.
    pub rotation: Rotation,
}

/// Heads that lie side by side in the rows of a matrix: head h, element d of row t at `t*stride + column + h*D + d`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The matrix.
    pub view: View,
    /// Its columns.
    pub stride: usize,
    /// Where the first head begins.
    pub column: usize,
}

/// The u32 words of one encoded [`crate::data::Segment`]: start, len, then row, len, causal offset of both key ranges.
pub const SEGMENT_WORDS: usize = 8;

/// The shape shared by both directions of attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// N; query head n reads key/value head `n / (N / K)`.
    pub query_heads: usize,
    /// K.
    pub key_heads: usize,
    /// D; scores are scaled by 1/sqrt(D).
    pub head_dim: usize,
}

/// For query row i of a segment: softmax over the keys j of its ranges with `j < len` and `j <= i + causal_offset`.
/// Rows of `out` after the last segment are set to zero.
#[derive(Clone, Copy, Debug)]
pub struct AttentionForward {
    /// `[T]` rows of queries.
    pub q: Heads,
    /// Key rows, addressed by the ranges; need not be the packed ones.
    pub k: Heads,
    /// Value rows, as `k`.
    pub v: Heads,
    /// `[S, SEGMENT_WORDS]` u32.
    pub segments: View,
    /// `[.., TILE_WORDS]` u32: [`query_tiles`](super::query_tiles) of the segments and T; not every device reads it.
    pub query_tiles: View,
    /// `[T, N*D]`.
    pub out: View,
    /// `[T, N]`: log-sum-exp of the scaled scores.
    pub lse: View,
    /// Heads.
    pub shape: AttentionShape,
}

/// Gradients of [`AttentionForward`] where keys and values are the packed rows themselves.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward {
    /// Queries, rotated.
    pub q: Heads,
    /// Keys, rotated.
    pub k: Heads,
    /// Values.
    pub v: Heads,
    /// `[T, N*D]`: the forward result.
    pub out: View,
    /// `[T, N]`.
    pub lse: View,
    /// `[T, N*D]`.
    pub dout: View,
    /// `[T, stride]`: written whole, gradients at the columns of `q`, `k` and `v`.
    pub dqkv: View,
    /// `[T, N]`: room for the row sums of `dout * out`.
    pub delta: View,
    /// `[S, SEGMENT_WORDS]` u32.
    pub segments: View,
    /// `[families + 1]` u32: runs of segments that share keys with nobody else.
    pub families: View,
    /// `[.., TILE_WORDS]` u32: [`query_tiles`](super::query_tiles) of the segments and T; not every device reads it.
    pub query_tiles: View,
    /// `[.., TILE_WORDS]` u32: [`key_tiles`](super::key_tiles) of the same and of the families.
    pub key_tiles: View,
    /// Heads.
    pub shape: AttentionShape,
}

/// `out = silu(gate) * up`, gate in the first F columns, up in the last F.
#[derive(Clone, Copy, Debug)]
pub struct SwigluForward {
    /// `[T, 2F]`.
    pub gate_up: View,
    /// `[T, F]`.
    pub out: View,
    /// F.
    pub feed_forward: usize,
}

/// Gradient of [`SwigluForward`].
#[derive(Clone, Copy, Debug)]
pub struct SwigluBackward {
    /// `[T, 2F]`.
    pub gate_up: View,
    /// `[T, F]`.
    pub dout: View,
    /// `[T, 2F]`.
    pub dgate_up: View,
    /// F.
    pub feed_forward: usize,
}

/// How the operands of a [`Matmul`] lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `C[m,n] = A[m,k] B[n,k]^T`: activations times weights.
    Nt,
    /// `C[m,n] = A[m,k] B[k,n]`: gradients of activations.
    Nn,
    /// `C[m,n] = A[k,m]^T B[k,n]`: gradients of weights.
    Tn,
}

/// `C = A B` or `C += A B`. The order along k is fixed, so a row of C has the same bits whatever m is. A and B are stored
/// values of one format; C is one too, or f32.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// Layout of A and B.
    pub layout: Layout,
    /// A, from its first element to its last.
    pub a: View,
    /// Elements from one row of A to the next, as A lies in memory: its columns, or more where it is some columns of a wider
    /// matrix.
    pub a_stride: usize,
    /// B.
    pub b: View,
    /// C, `[m, n]`.
    pub c: View,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the reduction.
    pub k: usize,
    /// Add to C instead of replacing it.
    pub accumulate: bool,
}

impl Matmul {
    /// A, B and C as they must be.
    pub(super) fn check(&self) {
        let Self { layout, a, a_stride, b, c, m, n, k, .. } = *self;
        let [rows, columns] = if layout == Layout::Tn { [k, m] } else { [m, k] };
        assert!(a_stride >= columns, "matmul {layout:?} {m}x{n}x{k}: rows of A {a_stride} apart");
        let length = if rows * columns == 0 { 0 } else { (rows - 1) * a_stride + columns };
        assert_eq!((a.len, b.len, c.len), (length, n * k, m * n), "matmul {layout:?} {m}x{n}x{k}");
    }
}

/// The second rows of a [`GatherRows`] whose outputs are made of two.
#[derive(Clone, Copy, Debug)]
pub struct SecondRows {
    /// `[R]` u32; the first row again where an output is made of one only.
    pub rows: View,
    /// `[R]`: k, what the first row counts; 1 where there is one only. The second has 1 - k.
    pub weights: View,
}

/// `out[r] = scale[r] * source[rows[r]]`; with second rows, `scale[r] * (k[r] source[rows[r]] + (1 - k[r]) source[second[r]])`.
#[derive(Clone, Copy, Debug)]
pub struct GatherRows {
    /// `[T, H]`.
    pub source: View,
    /// `[R]` u32.
    pub rows: View,
    /// Where outputs may be made of two rows.
    pub second: Option<SecondRows>,
    /// `[R]`; 1 where absent.
    pub scale: Option<View>,
    /// `[R, H]`.
    pub out: View,
    /// H.
    pub hidden: usize,
}

/// `out[t] = sum over i in offsets[t]..offsets[t+1] of weights[i] * scale[rows[i]] * source[rows[i]]`, zero where there is none.
#[derive(Clone, Copy, Debug)]
pub struct ScatterRows {
    /// `[R, H]`.
    pub source: View,
    /// `[T + 1]` u32.
    pub offsets: View,
    /// `[entries]` u32: R, and more where outputs were made of two rows.
    pub rows: View,
    /// `[entries]`: the adjoint of [`SecondRows::weights`]; 1 where absent.
    pub weights: Option<View>,
    /// `[R]`; 1 where absent.
    pub scale: Option<View>,
    /// `[T, H]`.
    pub out: View,
    /// H.
    pub hidden: usize,
}

/// `out[rows[r], out_column..] = source[r, source_column..]`, `width` elements of each row. Bits move: u32 may be copied as
/// f32 ([`View::as_f32`]).
#[derive(Clone, Copy, Debug)]
pub struct CopyRows {
    /// `[R, source_stride]`.
    pub source: View,
    /// Columns of `source`.
    pub source_stride: usize,
    /// First column read.
    pub source_column: usize,
    /// `[R]` u32: distinct rows of `out`.
    pub rows: View,
    /// A matrix of `out_stride` columns.
    pub out: View,
    /// Columns of `out`.
    pub out_stride: usize,
    /// First column written.
    pub out_column: usize,
    /// Elements copied of each row.
    pub width: usize,
}

/// `out[r] = x[r] . weight[targets[r]]`, accumulated in f32 or better and kept in f32.
#[derive(Clone, Copy, Debug)]
pub struct TargetLogits {
    /// `[R, H]`.
    pub x: View,
    /// `[V, H]`.
    pub weight: View,
    /// `[R]` u32.
    pub targets: View,
    /// `[R]`.
    pub out: View,
    /// H.
    pub hidden: usize,
}

/// The second targets of the rows of a [`HeadRows`] that have two.
#[derive(Clone, Copy, Debug)]
pub struct SecondTargets {
    /// `[R]` u32; the first target again where a row has one only.
    pub targets: View,
    /// `[R]`, from [`TargetLogits`].
    pub logits: View,
    /// `[R]`: k, what the first target counts. The second has 1 - k. Not looked at where both are the same.
    pub weights: View,
}

/// Per row, with target y and `z_y` from [`TargetLogits`]: `m = max(z_y, max over v != y of z_v)`,
/// `S = sum over v != y of exp(z_v - m)`, `e = exp(z_y - m)`; `logp = -log1p(S)` if `z_y = m`, else
/// `(z_y - m) - log(S + e)`. The unit gradient, if asked for: `U_y = S/(S+e)`, `U_v = -exp(z_v - m)/(S+e)`. The target
/// stays out of the sum, so the log-prob is exact as p -> 1. An infinite target logit gives NaN. The logits are scratch
/// afterwards.
///
/// With a second target x of weight 1 - k: `m = max(z_y, z_x, max of the others)`, `S` over the others, `D = S + e_y + e_x`;
/// `log p_y = -log1p(S + e_x)` if `z_y = m`, else `(z_y - m) - log D`, x alike; `logp = k log p_y + (1 - k) log p_x`;
/// `U_y = (k (S + e_x) - (1 - k) e_y) / D`, x alike, `U_v = -exp(z_v - m) / D`. Where x = y, the row has one target.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows {
    /// `[R, V]`: stored, or f32.
    pub logits: View,
    /// `[R, V]` stored: where the unit gradient goes, if it is wanted; may be `logits` itself.
    pub unit: Option<View>,
    /// `[R]`.
    pub target_logits: View,
    /// `[R]` u32.
    pub targets: View,
    /// Where rows may have two targets.
    pub second: Option<SecondTargets>,
    /// `[R]`: log-prob of the target.
    pub logp: View,
    /// `[R]`: log-sum-exp of the row.
    pub lse: View,
    /// `[R]` u32: the most probable token; the lowest id among equals.
    pub argmax: View,
    /// V.
    pub vocabulary: usize,
}

/// Where [`HeadStatistics`] leaves its numbers, `[R]` each.
#[derive(Clone, Copy, Debug)]
pub struct StatisticsViews {
    /// `log(sum over v of p_v^2)`.
    pub log_sum_squares: View,
    /// Entropy in nats.
    pub entropy: View,
    /// Mean logit.
    pub mean_logit: View,
}

impl StatisticsViews {
    /// Every view, changed alike.
    pub fn map(self, change: impl Fn(View) -> View) -> Self {
        Self {
            log_sum_squares: change(self.log_sum_squares),
            entropy: change(self.entropy),
            mean_logit: change(self.mean_logit),
        }
    }
}

/// Per row, with `m` the largest logit and `d_v = z_v - m`: `log_sum_squares = log sum e^(2 d_v) - 2 log sum e^(d_v)`,
/// `entropy = log sum e^(d_v) - (sum d_v e^(d_v)) / sum e^(d_v)`, `mean_logit = sum z_v / V`. The logits stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct HeadStatistics {
    /// `[R, V]`: stored, or f32.
    pub logits: View,
    /// Where the results go.
    pub out: StatisticsViews,
    /// V.
    pub vocabulary: usize,
}

/// The u32 words of one encoded span of response rows: start, len, role ([`SPAN_PROMPT`], [`SPAN_CHOSEN`],
/// [`SPAN_REJECTED`], [`SPAN_OTHER`], [`SPAN_MIXED`]).
pub const SPAN_WORDS: usize = 3;
/// The prompt's tokens.
pub const SPAN_PROMPT: u32 = 0;
/// The chosen answer's.
pub const SPAN_CHOSEN: u32 = 1;
/// The rejected answer's.
pub const SPAN_REJECTED: u32 = 2;
/// Another answer's, which no objective evaluates on the device.
pub const SPAN_OTHER: u32 = 3;
/// Tokens of a mixture.
pub const SPAN_MIXED: u32 = 4;

/// Evaluates an objective on the units (groups, or single sequences) whose rows are complete.
#[derive(Clone, Copy, Debug)]
pub struct ObjectiveCoefficients<'a> {
    /// The objective.
    pub objective: &'a dyn Objective,
    /// The units; spans address rows of `logp` and `coefficients`. A unit may hold some of its group's spans only if
    /// the objective's coupling allows it.
    pub units: &'a [BatchGroup],
    /// `[spans, SPAN_WORDS]`: the spans of the units, in their order, as a device reads them.
    pub spans: View,
    /// What the step counts, for the final 1/N.
    pub totals: StepTotals,
    /// `[R]`: log-probs of the whole micro-batch.
    pub logp: View,
    /// `[R]` each: statistics of its rows, where the objective asks for them.
    pub statistics: Option<StatisticsViews>,
    /// `[R]`: written for the rows of the units.
    pub coefficients: View,
    /// [`STEP_STATE_LEN`] f64: `BAD` is set if a unit's loss is not finite.
    pub state: View,
}

/// Numbers of a step that live on the device, as f64: indices into its state view.
pub const STEP_STATE_LEN: usize = 4;
/// Global norm of the step's gradients before clipping.
pub const GRADIENT_NORM: usize = 0;
/// What every gradient is multiplied with: `min(1, max_norm / (norm + 1e-6))`.
pub const CLIP_FACTOR: usize = 1;
/// Not zero from the first loss or gradient on that is not finite; updates do nothing while it is set.
pub const BAD: usize = 2;

/// Writes `GRADIENT_NORM` and `CLIP_FACTOR`; sets `BAD` if the norm is not finite.
#[derive(Clone, Copy, Debug)]
pub struct GradientNorm {
    /// All gradients: the flat arena.
    pub gradients: View,
    /// Largest norm allowed; no clipping where absent.
    pub max_norm: Option<f64>,
    /// f64, one for each [`NORM_BLOCK`] elements begun: room for partial sums.
    pub partial: View,
    /// [`STEP_STATE_LEN`] f64.
    pub state: View,
}

/// Elements that one partial sum of [`GradientNorm`] covers; fixed, so that the sum has one order.
pub const NORM_BLOCK: usize = 1 << 16;

/// Elements that share a scale in 8-bit optimizer state. Runs of parameters start at multiples of it.
pub const MOMENT_BLOCK: usize = 256;

/// PyTorch's AdamW on one run of parameters: `p *= 1 - lr*wd; m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2;`
/// `p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps)`, g clipped by the state's factor.
///
/// p in f32 is the parameters where they are f32; the parameters with their remainder ([`crate::model::master`]) where
/// they are bf16 and there is one; else the bf16 parameters, to which the result is rounded stochastically.
#[derive(Clone, Copy, Debug)]
pub struct Adamw {
    /// Parameters, stored.
    pub parameters: View,
    /// u16: what the master weights have beyond `parameters`.
    pub remainder: Option<View>,
    /// Their gradients, f32.
    pub gradients: View,
    /// First moments: f32, bf16 (rounded stochastically) or u8 codes ([`crate::optim::codes`]).
    pub first_moment: View,
    /// Second moments, as the first.
    pub second_moment: View,
    /// f32, of both moments, one for each [`MOMENT_BLOCK`] elements begun: the scales of u8 codes.
    pub scales: Option<[View; 2]>,
    /// [`STEP_STATE_LEN`] f64, written by [`GradientNorm`] before.
    pub state: View,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// b1.
    pub beta1: f64,
    /// b2.
    pub beta2: f64,
    /// eps.
    pub epsilon: f64,
    /// wd; 0 for one-dimensional tensors.
    pub weight_decay: f64,
    /// t, from 1.
    pub step: u64,
    /// Key of stochastic rounding, together with t and an element's place in its arena.
    pub seed: u64,
}

/// What [`Adamw`] multiplies with, formed in f64 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwFactors {
    /// b1.
    pub beta1: f32,
    /// 1 - b1.
    pub rest1: f32,
    /// b2.
    pub beta2: f32,
    /// 1 - b2.
    pub rest2: f32,
    /// lr / (1 - b1^t).
    pub step_size: f32,
    /// sqrt(1 - b2^t).
    pub correction: f32,
    /// 1 - lr * wd.
    pub keep: f32,
    /// eps.
    pub epsilon: f32,
}

impl Adamw {
    /// The factors of this step.
    pub fn factors(&self) -> AdamwFactors {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        AdamwFactors {
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            step_size: (self.learning_rate / (1.0 - self.beta1.powi(step))) as f32,
            correction: (1.0 - self.beta2.powi(step)).sqrt() as f32,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}
