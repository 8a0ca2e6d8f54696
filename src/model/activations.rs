//! The places of everything a micro-batch leaves behind or passes on: one struct of views per layer, all from the plan.

use std::ops::Range;

use super::{LlamaConfig, MixedInputs, Precision};
use crate::backend::{
    Backend, Element, EmbeddingMix, RMSNORM_PARTS, SEGMENT_WORDS, SPAN_CHOSEN, SPAN_MIXED, SPAN_OTHER,
    SPAN_PROMPT, SPAN_REJECTED, SPAN_WORDS, Scalar, SecondRows, StatisticsViews, TILE_WORDS, View, key_tiles,
    query_tiles,
};
use crate::data::{Batch, BatchGroup, Role};
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
    /// What sizes are rounded up to on the device.
    pub rungs: Rungs,
    /// Whether response rows may be mixtures of two.
    pub mixed: bool,
}

/// T and R of a micro-batch are padded to multiples of these, so that few sizes of products occur and each is planned
/// once. Padding tokens belong to no segment and padding rows have coefficient 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rungs {
    /// Of T.
    pub tokens: usize,
    /// Of the rows of a chunk of the head.
    pub rows: usize,
}

impl Rungs {
    /// No padding.
    pub const NONE: Self = Self { tokens: 1, rows: 1 };

    /// About eight sizes up to the largest micro-batch, multiples of 512 where that is large.
    pub fn of(tokens: usize, head_rows: usize) -> Self {
        let rung = |largest: usize| match largest.div_ceil(8) {
            small @ ..128 => small.next_multiple_of(16),
            middle @ 128..512 => middle.next_multiple_of(128),
            large => large.next_multiple_of(512),
        };
        Self { tokens: rung(tokens), rows: rung(head_rows) }
    }
}

impl Budget {
    /// Response rows that buffers hold: a chunk padded to its rung may reach beyond the last one.
    pub(super) fn padded_rows(self) -> usize {
        self.rows + self.rungs.rows - 1
    }

    /// Rows of logits that exist at a time: whole rungs, so that only the last part of a chunk is padded.
    pub fn head_capacity(self) -> usize {
        self.head_rows.next_multiple_of(self.rungs.rows)
    }
}

/// What the plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward only: layers share one set of activations.
    Inference,
    /// Forward and backward.
    Training(Recompute),
}

/// What the backward pass computes again instead of finding it in memory. All levels give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Nothing: every layer keeps all its activations.
    #[default]
    Nothing,
    /// The outputs of norms and of the gated activation, which cost no product.
    Norms,
    /// Whole blocks: a layer keeps the stream that enters it.
    Blocks,
}

impl Recompute {
    /// All levels, from the fastest to the smallest.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Norms, Self::Blocks];

    /// The name of the setting.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::Nothing => "none",
            Recompute::Norms => "norms",
            Recompute::Blocks => "blocks",
        }
    }
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
    /// `[logit rows, V]`: logits.
    pub logits: View,
    /// Rows of `logits`; fewer than those of `unit` where logits are f32 beside stored unit gradients.
    pub logit_rows: usize,
    /// `[head rows, V]`: unit gradients; the memory of `logits` where both are stored in one format.
    pub unit: View,
    /// `[head rows, H]`: g * X.
    pub scaled: View,
    /// `[R]`.
    pub target_logits: View,
    /// `[R]`: of the second targets, where rows may be mixtures.
    pub second_logits: View,
    /// `[R]`.
    pub logp: View,
    /// `[R]`.
    pub lse: View,
    /// `[R]` u32.
    pub argmax: View,
    /// `[R]`: g, d loss / d log-prob.
    pub coefficients: View,
    /// `[R]` each: what is known of the distributions, where somebody asks.
    pub statistics: StatisticsViews,
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
    /// `[RMSNORM_PARTS, H]`: partial sums of a norm's weight gradient.
    pub norm_partial: View,
}

/// The batch's lists on the device; T here counts padding tokens.
#[derive(Clone, Copy, Debug)]
pub struct DeviceBatch {
    /// R: response rows, without padding.
    pub rows: usize,
    /// `[T]`.
    pub ids: View,
    /// `[T]`.
    pub positions: View,
    /// `[S, SEGMENT_WORDS]`.
    pub segments: View,
    /// `[families + 1]`.
    pub families: View,
    /// `[.., TILE_WORDS]`: attention's work by queries.
    pub query_tiles: View,
    /// `[.., TILE_WORDS]`: attention's backward work by keys.
    pub key_tiles: View,
    /// `[spans, SPAN_WORDS]`: every span of every group, in order.
    pub spans: View,
    /// `[R + padding]`.
    pub gather: View,
    /// `[R + padding]`.
    pub targets: View,
    /// `[T + 1]`.
    pub scatter_offsets: View,
    /// `[R + mixed rows]`.
    pub scatter_rows: View,
    /// `[U]`.
    pub token_ids: View,
    /// `[U + 1]`.
    pub token_offsets: View,
    /// `[T]`.
    pub token_rows: View,
    /// Of a batch with mixtures.
    pub mixed: Option<DeviceMixture>,
    /// One for each of `token_rows`, where they are mixed.
    pub token_scale: Option<View>,
    /// What is mixed into the inputs ([`Llama::mix_inputs`](super::Llama::mix_inputs)).
    pub mix: Option<EmbeddingMix>,
}

/// What mixed rows read beside ([`crate::data::MixedRows`]).
#[derive(Clone, Copy, Debug)]
pub struct DeviceMixture {
    /// `[R + padding]`.
    pub gather: View,
    /// `[R + padding]`.
    pub targets: View,
    /// `[R + padding]`.
    pub weights: View,
    /// As long as `scatter_rows`.
    pub scatter_weights: View,
}

impl DeviceMixture {
    /// The second hidden rows of some response rows.
    pub fn second_rows(self, rows: Range<usize>) -> SecondRows {
        SecondRows { rows: self.gather.slice(rows.clone()), weights: self.weights.slice(rows) }
    }
}

/// Everything a micro-batch touches.
#[derive(Clone, Debug)]
pub struct Activations {
    /// The budget it was planned for.
    pub budget: Budget,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// One per layer.
    pub layers: Vec<LayerActivations>,
    /// `[T, H]`: output of attention or feed-forward, before it joins the stream.
    pub branch: View,
    /// `[T, H]`: the stream after the last block.
    pub last_stream: View,
    /// `[T]`.
    pub last_rstd: View,
    /// `[T, H]`: the final hidden state.
    pub hidden: View,
    /// The head's.
    pub head: HeadActivations,
    /// The backward pass's; absent for inference.
    pub backward: Option<BackwardActivations>,
    /// For inputs that are mixed with predictions, where an objective wants that.
    pub mixed_inputs: Option<MixedInputs>,
    batch: DeviceBatch,
}

impl Activations {
    /// Adds everything to a plan.
    pub fn plan(
        plan: &mut MemoryPlan,
        config: &LlamaConfig,
        budget: Budget,
        precision: Precision,
        purpose: Purpose,
    ) -> Self {
        let t = budget.tokens.next_multiple_of(budget.rungs.tokens);
        let (h, f, stored) = (config.hidden_size, config.intermediate_size, precision.storage);
        let attention = config.num_attention_heads * config.head_dim;
        let qkv = config.qkv_width();
        let layers = plan_layers(plan, config, t, stored, purpose);
        let mut add = |arena, name, element, shape: &[usize]| plan.add(arena, name, element, shape);
        let last_stream = add(Arena::Saved, "last stream", stored, &[t, h]);
        let last_rstd = add(Arena::Saved, "last norm's rstd", Element::F32, &[t]);
        let hidden = add(Arena::Saved, "final hidden state", stored, &[t, h]);
        let branch = add(Arena::Forward, "branch output", stored, &[t, h]);
        let backward = (purpose != Purpose::Inference).then(|| BackwardActivations {
            dstream: add(Arena::Backward, "d stream", stored, &[t, h]),
            dmiddle: add(Arena::Backward, "d stream after attention", stored, &[t, h]),
            dnormed: add(Arena::Backward, "d norm output", stored, &[t, h]),
            dgate_up: add(Arena::Backward, "d gate and up", stored, &[t, 2 * f]),
            dswiglu: add(Arena::Backward, "d swiglu", stored, &[t, f]),
            dqkv: add(Arena::Backward, "d qkv", stored, &[t, qkv]),
            dattention: add(Arena::Backward, "d attention", stored, &[t, attention]),
            delta: add(
                Arena::Backward,
                "d attention row sums",
                Element::F32,
                &[t, config.num_attention_heads],
            ),
            norm_partial: add(
                Arena::Backward,
                "partial sums of d norm weight",
                Element::F32,
                &[RMSNORM_PARTS, h],
            ),
        });
        let head = plan_head(plan, config, budget, precision, purpose);
        let batch = plan_batch(plan, t, budget);
        let recompute = match purpose {
            Purpose::Inference => Recompute::Nothing,
            Purpose::Training(recompute) => recompute,
        };
        let mixed_inputs = None;
        Self {
            budget,
            recompute,
            layers,
            branch,
            last_stream,
            last_rstd,
            hidden,
            head,
            backward,
            mixed_inputs,
            batch,
        }
    }

    /// Copies a batch's lists to the device and cuts their views to its size.
    ///
    /// # Panics
    /// If the batch is larger than the budget it was packed for.
    pub fn upload<B: Backend>(&self, backend: &mut B, batch: &Batch) -> DeviceBatch {
        let rungs = self.budget.rungs;
        let (tokens, rows) = (batch.ids.len().next_multiple_of(rungs.tokens), batch.gather.len());
        let padded = |values: &[u32], len: usize, padding: u32| {
            let mut values = values.to_vec();
            values.resize(len, padding);
            values
        };
        let (gathered, scatter_end) = (rows + rungs.rows - 1, batch.scatter_rows.len() as u32);
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
        let spans: Vec<u32> = batch.groups.iter().flat_map(encoded_spans).flatten().collect();
        let mixed = batch.mixed.as_ref().map(|mixed| {
            let Some(places) = self.batch.mixed else { panic!("planned without mixtures") };
            let mut weights = mixed.weights.clone();
            weights.resize(gathered, 1.0);
            DeviceMixture {
                gather: put(backend, places.gather, &padded(&mixed.gather, gathered, 0)),
                targets: put(backend, places.targets, &padded(&mixed.targets, gathered, 0)),
                weights: put(backend, places.weights, &weights),
                scatter_weights: put(backend, places.scatter_weights, &mixed.scatter_weights),
            }
        });
        let mut put = |view: View, values: &[u32]| put(backend, view, values);
        DeviceBatch {
            mixed,
            rows,
            ids: put(self.batch.ids, &padded(&batch.ids, tokens, 0)),
            positions: put(self.batch.positions, &padded(&batch.positions, tokens, 0)),
            segments: put(self.batch.segments, &segments),
            families: put(self.batch.families, &families),
            query_tiles: put(self.batch.query_tiles, &query_tiles(&batch.segments, tokens)),
            key_tiles: put(self.batch.key_tiles, &key_tiles(&batch.segments, &batch.families, tokens)),
            spans: put(self.batch.spans, &spans),
            gather: put(self.batch.gather, &padded(&batch.gather, gathered, 0)),
            targets: put(self.batch.targets, &padded(&batch.targets, gathered, 0)),
            scatter_offsets: put(
                self.batch.scatter_offsets,
                &padded(&batch.scatter_offsets, tokens + 1, scatter_end),
            ),
            scatter_rows: put(self.batch.scatter_rows, &batch.scatter_rows),
            token_ids: put(self.batch.token_ids, &batch.token_ids),
            token_offsets: put(self.batch.token_offsets, &batch.token_offsets),
            token_rows: put(self.batch.token_rows, &batch.token_rows),
            token_scale: None,
            mix: None,
        }
    }
}

/// Copies a list to the beginning of its place.
fn put<B: Backend, S: Scalar>(backend: &mut B, view: View, values: &[S]) -> View {
    let view = view.first(values.len());
    backend.write(view, values);
    view
}

/// The spans of a group or of a part of it, in the order in which they lie.
fn encoded_spans(group: &BatchGroup) -> impl Iterator<Item = [u32; SPAN_WORDS]> {
    let prompt = group.prompt.map(|span| (span, SPAN_PROMPT));
    let answers = group.answers.present().map(|(role, &span)| (span, span_word(role)));
    prompt.into_iter().chain(answers).map(|(span, role)| [span.start, span.len, role])
}

/// The word of a role; only pairs and mixtures are evaluated on the device.
fn span_word(role: Role) -> u32 {
    match role {
        Role::Chosen => SPAN_CHOSEN,
        Role::Rejected => SPAN_REJECTED,
        Role::Mixed => SPAN_MIXED,
        Role::Third | Role::Completion | Role::Mismatched => SPAN_OTHER,
    }
}

/// One set of views per layer; what a layer does not keep for itself lies where the others' does.
fn plan_layers(
    plan: &mut MemoryPlan,
    config: &LlamaConfig,
    t: usize,
    stored: Element,
    purpose: Purpose,
) -> Vec<LayerActivations> {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let mut shared = std::collections::BTreeMap::<&str, View>::new();
    let mut layer = |index: usize| {
        let mut add = |name: &'static str, kept: bool, element, shape: &[usize]| {
            if kept {
                return plan.add(Arena::Saved, format!("layer {index} / {name}"), element, shape);
            }
            *shared
                .entry(name)
                .or_insert_with(|| plan.add(Arena::Saved, format!("any layer / {name}"), element, shape))
        };
        let keeps = |least: Recompute| matches!(purpose, Purpose::Training(level) if level <= least);
        // The stream survives every level, the outputs of products all but the last, everything else only the first.
        let (always, products, all) =
            (keeps(Recompute::Blocks), keeps(Recompute::Norms), keeps(Recompute::Nothing));
        let statistic = Element::F32;
        let attention = config.num_attention_heads * config.head_dim;
        LayerActivations {
            stream: add("stream", always, stored, &[t, h]),
            input_rstd: add("input norm's rstd", products, statistic, &[t]),
            input_normed: add("input norm", all, stored, &[t, h]),
            qkv: add("qkv", products, stored, &[t, config.qkv_width()]),
            attention: add("attention", products, stored, &[t, attention]),
            attention_lse: add(
                "attention log-sum-exp",
                products,
                statistic,
                &[t, config.num_attention_heads],
            ),
            middle: add("stream after attention", products, stored, &[t, h]),
            middle_rstd: add("post-attention norm's rstd", products, statistic, &[t]),
            middle_normed: add("post-attention norm", all, stored, &[t, h]),
            gate_up: add("gate and up", products, stored, &[t, 2 * f]),
            swiglu: add("swiglu", all, stored, &[t, f]),
        }
    };
    (0..config.num_hidden_layers).map(&mut layer).collect()
}

/// Rows of f32 logits that exist at a time where unit gradients are stored in another format.
const F32_LOGIT_ROWS: usize = 1024;

fn plan_head(
    plan: &mut MemoryPlan,
    config: &LlamaConfig,
    budget: Budget,
    precision: Precision,
    purpose: Purpose,
) -> HeadActivations {
    let (r, h, v) = (budget.padded_rows(), config.hidden_size, config.vocab_size);
    let head_rows = budget.head_capacity();
    // Without a backward pass the two [.., H] buffers are never written.
    let (gradient_rows, scaled_rows) = match purpose {
        Purpose::Training(_) => (r, head_rows),
        Purpose::Inference => (0, 0),
    };
    let in_place = precision.logits == precision.storage;
    let logit_rows = if in_place { head_rows } else { F32_LOGIT_ROWS.min(head_rows) };
    let stored = precision.storage;
    let mut add = |arena, name, element, shape: &[usize]| plan.add(arena, name, element, shape);
    let logits = add(Arena::Head, "logits, then unit gradients", precision.logits, &[logit_rows, v]);
    let unit = match (in_place, purpose) {
        (true, _) => logits,
        (false, Purpose::Training(_)) => add(Arena::Head, "unit gradients", stored, &[head_rows, v]),
        (false, Purpose::Inference) => add(Arena::Head, "unit gradients", stored, &[0, v]),
    };
    HeadActivations {
        logits,
        logit_rows,
        unit,
        x: add(Arena::Saved, "head input rows", stored, &[r, h]),
        dx: add(Arena::Saved, "d head input rows", stored, &[gradient_rows, h]),
        target_logits: add(Arena::Saved, "target logits", Element::F32, &[r]),
        second_logits: add(
            Arena::Saved,
            "second target logits",
            Element::F32,
            &[if budget.mixed { r } else { 0 }],
        ),
        logp: add(Arena::Saved, "token log-probs", Element::F32, &[r]),
        lse: add(Arena::Saved, "head log-sum-exp", Element::F32, &[r]),
        argmax: add(Arena::Saved, "argmax", Element::U32, &[r]),
        coefficients: add(Arena::Saved, "coefficients", Element::F32, &[r]),
        statistics: StatisticsViews {
            log_sum_squares: add(Arena::Saved, "log of summed squares", Element::F32, &[r]),
            entropy: add(Arena::Saved, "entropy", Element::F32, &[r]),
            mean_logit: add(Arena::Saved, "mean logit", Element::F32, &[r]),
        },
        scaled: add(Arena::Head, "scaled head input rows", stored, &[scaled_rows, h]),
    }
}

/// Room for the lists of any batch within the budget; `t` is its T, padding included.
fn plan_batch(plan: &mut MemoryPlan, t: usize, budget: Budget) -> DeviceBatch {
    let r = budget.padded_rows();
    // A mixed row is read from two hidden rows.
    let reads = if budget.mixed { 2 * r } else { r };
    let mixed = budget.mixed.then(|| DeviceMixture {
        gather: plan.add(Arena::Batch, "second gather list", Element::U32, &[r]),
        targets: plan.add(Arena::Batch, "second targets", Element::U32, &[r]),
        weights: plan.add(Arena::Batch, "weights of mixtures", Element::F32, &[r]),
        scatter_weights: plan.add(Arena::Batch, "scatter weights", Element::F32, &[reads]),
    });
    let mut add = |name, len| plan.add(Arena::Batch, name, Element::U32, &[len]);
    DeviceBatch {
        mixed,
        rows: budget.rows,
        ids: add("token ids", t),
        positions: add("positions", t),
        // A segment has at least one token, and a span belongs to one segment.
        segments: add("segments", t * SEGMENT_WORDS),
        families: add("families", t + 1),
        // A tile has at least one row.
        query_tiles: add("query tiles", t * TILE_WORDS),
        key_tiles: add("key tiles", t * TILE_WORDS),
        spans: add("spans", t * SPAN_WORDS),
        gather: add("gather list", r),
        targets: add("targets", r),
        scatter_offsets: add("scatter offsets", t + 1),
        scatter_rows: add("scatter list", reads),
        token_ids: add("distinct token ids", t),
        token_offsets: add("token offsets", t + 1),
        token_rows: add("token-sorted rows", t),
        token_scale: None,
        mix: None,
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
            recompute: self.recompute,
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
                norm_partial: backward.norm_partial,
            }),
            budget: self.budget,
            head: self.head,
            mixed_inputs: self.mixed_inputs,
            batch: self.batch,
        }
    }
}
