//! The places of everything a micro-batch leaves behind or passes on: one struct of views per layer, all from the plan.

use super::LlamaConfig;
use crate::backend::Backend;
use crate::backend::{Element, SEGMENT_WORDS, View};
use crate::data::Batch;
use crate::plan::{Arena, MemoryPlan};

/// Upper bounds of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// T: packed tokens.
    pub tokens: usize,
    /// R: response rows.
    pub rows: usize,
    /// Rows of logits that exist at a time.
    pub head_rows: usize,
    /// P: positions of the rotary tables; no sequence is longer.
    pub positions: usize,
}

/// What the plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward only: layers share one set of activations.
    Inference,
    /// Forward and backward: every layer keeps its own.
    Training,
}

/// What one layer keeps, `[T, ...]` each.
#[derive(Clone, Copy, Debug)]
pub struct LayerActivations {
    /// `[T, H]`: the residual stream that enters the layer.
    pub stream: View,
    /// `[T]`.
    pub input_rstd: View,
    /// `[T, H]`.
    pub input_normed: View,
    /// `[T, (N + 2K) D]`: queries and keys rotated, values.
    pub qkv: View,
    /// `[T, N D]`.
    pub attention: View,
    /// `[T, N]`.
    pub attention_lse: View,
    /// `[T, H]`: the stream after attention.
    pub middle: View,
    /// `[T]`.
    pub middle_rstd: View,
    /// `[T, H]`.
    pub middle_normed: View,
    /// `[T, 2F]`.
    pub gate_up: View,
    /// `[T, F]`.
    pub swiglu: View,
}

/// What the head reads and leaves, `[R, ...]` each unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct HeadActivations {
    /// `[R, H]`: the hidden rows that predict a scored token.
    pub x: View,
    /// `[R, H]`: their gradient before the coefficients, U W.
    pub dx: View,
    /// `[head rows, V]`: logits, then unit gradients.
    pub logits: View,
    /// `[head rows, H]`: g * X.
    pub scaled: View,
    /// `[R]`.
    pub target_logits: View,
    /// `[R]`.
    pub logp: View,
    /// `[R]`.
    pub lse: View,
    /// `[R]` u32.
    pub argmax: View,
    /// `[R]`: g, d loss / d log-prob.
    pub coefficients: View,
}

/// What only the backward pass uses.
#[derive(Clone, Copy, Debug)]
pub struct BackwardActivations {
    /// `[T, H]`: gradient of the stream, and of the stream after attention, in turn.
    pub dstream: View,
    /// `[T, H]`.
    pub dmiddle: View,
    /// `[T, H]`: gradient of a norm's output.
    pub dnormed: View,
    /// `[T, 2F]`.
    pub dgate_up: View,
    /// `[T, F]`.
    pub dswiglu: View,
    /// `[T, (N + 2K) D]`.
    pub dqkv: View,
    /// `[T, N D]`.
    pub dattention: View,
    /// `[T, N]`: row sums of the attention output and its gradient.
    pub delta: View,
}

/// The batch's lists on the device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceBatch {
    /// `[T]`.
    pub ids: View,
    /// `[T]`.
    pub positions: View,
    /// `[S, SEGMENT_WORDS]`.
    pub segments: View,
    /// `[families + 1]`.
    pub families: View,
    /// `[R]`.
    pub gather: View,
    /// `[R]`.
    pub targets: View,
    /// `[T + 1]`.
    pub scatter_offsets: View,
    /// `[R]`.
    pub scatter_rows: View,
    /// `[U]`.
    pub token_ids: View,
    /// `[U + 1]`.
    pub token_offsets: View,
    /// `[T]`.
    pub token_rows: View,
}

/// Everything a micro-batch touches.
#[derive(Clone, Debug)]
pub struct Activations {
    /// The budget it was planned for.
    pub budget: Budget,
    /// One per layer.
    pub layers: Vec<LayerActivations>,
    /// `[T, H]`: output of attention or feed-forward, before it joins the stream.
    pub branch: View,
    /// `[T, H]`: the stream after the last layer.
    pub last_stream: View,
    /// `[T]`.
    pub last_rstd: View,
    /// `[T, H]`: the final hidden state.
    pub hidden: View,
    /// The head's.
    pub head: HeadActivations,
    /// The backward pass's; absent for inference.
    pub backward: Option<BackwardActivations>,
    batch: DeviceBatch,
}

impl Activations {
    /// Adds everything to a plan.
    pub fn plan(plan: &mut MemoryPlan, config: &LlamaConfig, budget: Budget, purpose: Purpose) -> Self {
        let t = budget.tokens;
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let attention = config.num_attention_heads * config.head_dim;
        let qkv = config.qkv_width();
        let kept = match purpose {
            Purpose::Training => config.num_hidden_layers,
            Purpose::Inference => 1,
        };
        let mut layers: Vec<_> = (0..kept).map(|index| plan_layer(plan, config, t, index)).collect();
        layers.resize(config.num_hidden_layers, layers[0]);
        let mut add = |arena, name, shape: &[usize]| plan.add(arena, name, Element::F32, shape);
        let last_stream = add(Arena::Saved, "last stream", &[t, h]);
        let last_rstd = add(Arena::Saved, "last norm's rstd", &[t]);
        let hidden = add(Arena::Saved, "final hidden state", &[t, h]);
        let branch = add(Arena::Forward, "branch output", &[t, h]);
        let backward = (purpose == Purpose::Training).then(|| BackwardActivations {
            dstream: add(Arena::Backward, "d stream", &[t, h]),
            dmiddle: add(Arena::Backward, "d stream after attention", &[t, h]),
            dnormed: add(Arena::Backward, "d norm output", &[t, h]),
            dgate_up: add(Arena::Backward, "d gate and up", &[t, 2 * f]),
            dswiglu: add(Arena::Backward, "d swiglu", &[t, f]),
            dqkv: add(Arena::Backward, "d qkv", &[t, qkv]),
            dattention: add(Arena::Backward, "d attention", &[t, attention]),
            delta: add(Arena::Backward, "d attention row sums", &[t, config.num_attention_heads]),
        });
        let head = plan_head(plan, config, budget, purpose);
        let batch = plan_batch(plan, budget);
        Self { budget, layers, branch, last_stream, last_rstd, hidden, head, backward, batch }
    }

    /// Copies a batch's lists to the device and cuts their views to its size.
    ///
    /// # Panics
    /// If the batch is larger than the budget it was packed for.
    pub fn upload<B: Backend>(&self, backend: &mut B, batch: &Batch) -> DeviceBatch {
        let mut put = |view: View, values: &[u32]| {
            let view = view.first(values.len());
            backend.write(view, values);
            view
        };
        let segments: Vec<u32> = batch
            .segments
            .iter()
            .flat_map(|segment| {
                let [a, b] = segment.ranges;
                [segment.start, segment.len, a.row, a.len, a.causal_offset, b.row, b.len, b.causal_offset]
            })
            .collect();
        let ends = batch.families.iter().map(|family| family.end);
        let families: Vec<u32> = std::iter::once(0).chain(ends).collect();
        DeviceBatch {
            ids: put(self.batch.ids, &batch.ids),
            positions: put(self.batch.positions, &batch.positions),
            segments: put(self.batch.segments, &segments),
            families: put(self.batch.families, &families),
            gather: put(self.batch.gather, &batch.gather),
            targets: put(self.batch.targets, &batch.targets),
            scatter_offsets: put(self.batch.scatter_offsets, &batch.scatter_offsets),
            scatter_rows: put(self.batch.scatter_rows, &batch.scatter_rows),
            token_ids: put(self.batch.token_ids, &batch.token_ids),
            token_offsets: put(self.batch.token_offsets, &batch.token_offsets),
            token_rows: put(self.batch.token_rows, &batch.token_rows),
        }
    }
}

fn plan_layer(plan: &mut MemoryPlan, config: &LlamaConfig, t: usize, index: usize) -> LayerActivations {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let mut add = |name: &str, shape: &[usize]| {
        plan.add(Arena::Saved, format!("layer {index} / {name}"), Element::F32, shape)
    };
    LayerActivations {
        stream: add("stream", &[t, h]),
        input_rstd: add("input norm's rstd", &[t]),
        input_normed: add("input norm", &[t, h]),
        qkv: add("qkv", &[t, config.qkv_width()]),
        attention: add("attention", &[t, config.num_attention_heads * config.head_dim]),
        attention_lse: add("attention log-sum-exp", &[t, config.num_attention_heads]),
        middle: add("stream after attention", &[t, h]),
        middle_rstd: add("post-attention norm's rstd", &[t]),
        middle_normed: add("post-attention norm", &[t, h]),
        gate_up: add("gate and up", &[t, 2 * f]),
        swiglu: add("swiglu", &[t, f]),
    }
}

fn plan_head(
    plan: &mut MemoryPlan,
    config: &LlamaConfig,
    budget: Budget,
    purpose: Purpose,
) -> HeadActivations {
    let (r, h, v) = (budget.rows, config.hidden_size, config.vocab_size);
    // Without a backward pass the two [.., H] buffers are never written.
    let (gradient_rows, scaled_rows) = match purpose {
        Purpose::Training => (r, budget.head_rows),
        Purpose::Inference => (0, 0),
    };
    let mut add = |arena, name, element, shape: &[usize]| plan.add(arena, name, element, shape);
    HeadActivations {
        x: add(Arena::Saved, "head input rows", Element::F32, &[r, h]),
        dx: add(Arena::Saved, "d head input rows", Element::F32, &[gradient_rows, h]),
        target_logits: add(Arena::Saved, "target logits", Element::F32, &[r]),
        logp: add(Arena::Saved, "token log-probs", Element::F32, &[r]),
        lse: add(Arena::Saved, "head log-sum-exp", Element::F32, &[r]),
        argmax: add(Arena::Saved, "argmax", Element::U32, &[r]),
        coefficients: add(Arena::Saved, "coefficients", Element::F32, &[r]),
        logits: add(Arena::Head, "logits, then unit gradients", Element::F32, &[budget.head_rows, v]),
        scaled: add(Arena::Head, "scaled head input rows", Element::F32, &[scaled_rows, h]),
    }
}

fn plan_batch(plan: &mut MemoryPlan, budget: Budget) -> DeviceBatch {
    let (t, r) = (budget.tokens, budget.rows);
    let mut add = |name, len| plan.add(Arena::Batch, name, Element::U32, &[len]);
    DeviceBatch {
        ids: add("token ids", t),
        positions: add("positions", t),
        // A segment has at least one token.
        segments: add("segments", t * SEGMENT_WORDS),
        families: add("families", t + 1),
        gather: add("gather list", r),
        targets: add("targets", r),
        scatter_offsets: add("scatter offsets", t + 1),
        scatter_rows: add("scatter list", r),
        token_ids: add("distinct token ids", t),
        token_offsets: add("token offsets", t + 1),
        token_rows: add("token-sorted rows", t),
    }
}

impl Activations {
    /// The same places cut to a batch of `tokens` tokens.
    pub fn cut(&self, config: &LlamaConfig, tokens: usize) -> Activations {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads;
        let (attention, qkv) = (heads * config.head_dim, config.qkv_width());
        let cut = |view: View, width: usize| view.first(tokens * width);
        let layer = |layer: &LayerActivations| LayerActivations {
            stream: cut(layer.stream, h),
            input_rstd: cut(layer.input_rstd, 1),
            input_normed: cut(layer.input_normed, h),
            qkv: cut(layer.qkv, qkv),
            attention: cut(layer.attention, attention),
            attention_lse: cut(layer.attention_lse, heads),
            middle: cut(layer.middle, h),
            middle_rstd: cut(layer.middle_rstd, 1),
            middle_normed: cut(layer.middle_normed, h),
            gate_up: cut(layer.gate_up, 2 * f),
            swiglu: cut(layer.swiglu, f),
        };
        Activations {
            layers: self.layers.iter().map(layer).collect(),
            branch: cut(self.branch, h),
            last_stream: cut(self.last_stream, h),
            last_rstd: cut(self.last_rstd, 1),
            hidden: cut(self.hidden, h),
            backward: self.backward.map(|backward| BackwardActivations {
                dstream: cut(backward.dstream, h),
                dmiddle: cut(backward.dmiddle, h),
                dnormed: cut(backward.dnormed, h),
                dgate_up: cut(backward.dgate_up, 2 * f),
                dswiglu: cut(backward.dswiglu, f),
                dqkv: cut(backward.dqkv, qkv),
                dattention: cut(backward.dattention, attention),
                delta: cut(backward.delta, heads),
            }),
            budget: self.budget,
            head: self.head,
            batch: self.batch,
        }
    }
}
