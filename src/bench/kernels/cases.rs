//! The operations of a training step, each with its operands in place and what it must cost.

use crate::backend::{
    AttentionBackward, AttentionForward, Backend, CLIP_FACTOR, CopyRows, EmbeddingBackward, EmbeddingForward,
    GradientNorm, RmsnormBackward, RmsnormForward, Rotation, STEP_STATE_LEN, SwigluBackward, SwigluForward,
    View,
};
use crate::bench::{BenchError, Setup};
use crate::data::{Batch, StepTotals, Work};
use crate::model::{
    Activations, BackwardActivations, DeviceBatch, LayerActivations, Linear, Llama, OptimizerState, Precision,
};
use crate::objective::Objective;
use crate::optim::AdamwOptimizer;
use crate::train::Trainer;

use super::cost::Cost;
use super::head::head_cases;

/// One operation, ready to run as often as wanted.
pub struct Case<'a, B: Backend> {
    /// The operation's name, with what distinguishes its uses.
    pub name: &'static str,
    /// Its sizes.
    pub detail: String,
    /// What it must cost.
    pub cost: Cost,
    /// Enqueues it once.
    pub run: Box<dyn Fn(&mut B) + 'a>,
}

/// A micro-batch whose activations are on the device.
pub struct FilledBatch {
    /// As packed.
    pub host: Batch,
    /// On the device.
    pub device: DeviceBatch,
    /// Of the step it is.
    pub totals: StepTotals,
}

/// What the cases work on.
pub struct Context<'a> {
    /// One layer.
    pub model: &'a Llama,
    /// Filled by [`micro_batch`].
    pub activations: &'a Activations,
    /// For the head.
    pub objective: &'a dyn Objective,
    /// AdamW.
    pub optimizer: &'a AdamwOptimizer,
    /// Number formats.
    pub precision: Precision,
    /// The step's state.
    pub state: View,
    /// Room for the gradient norm's partial sums.
    pub norm_partial: View,
    /// The micro-batch.
    pub batch: &'a FilledBatch,
}

impl<'a> Context<'a> {
    /// The cases' views of a trainer, and its backend to run them on.
    pub fn of<B: Backend>(
        trainer: &'a mut Trainer<B>,
        precision: Precision,
        batch: &'a FilledBatch,
    ) -> (&'a mut B, Self) {
        let Trainer { backend, model, activations, optimizer, objective, state, norm_partial, .. } = trainer;
        let objective: &'a dyn Objective = &**objective;
        let (state, norm_partial) = (*state, *norm_partial);
        (backend, Self { model, activations, objective, optimizer, precision, state, norm_partial, batch })
    }

    /// A state without findings and with a clip factor of 1. What an operation leaves in memory that others share may be no
    /// number to another one, and an update does nothing once the state says so.
    pub fn clear_state<B: Backend>(&self, backend: &mut B) {
        let mut state = [0.0; STEP_STATE_LEN];
        state[CLIP_FACTOR] = 1.0;
        backend.write(self.state, &state);
    }
}

/// Takes one optimizer step, so that every view holds what a step leaves there, and says on which micro-batch.
///
/// # Errors
/// As [`crate::bench::step::timed_step`].
pub fn micro_batch<B: Backend>(setup: &mut Setup<B>) -> Result<FilledBatch, BenchError> {
    let Some(mut step) = setup.loader()?.next() else { unreachable!("a run has at least one step") };
    crate::bench::step::timed_step(setup, &step)?;
    let host = step.batches.swap_remove(0);
    let device = setup.trainer.activations.upload(&mut setup.trainer.backend, &host);
    Ok(FilledBatch { host, device, totals: step.totals })
}

/// All cases, in the order of a step.
pub fn cases<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let places = Places::new(context);
    let mut cases = memory_cases(context, &places);
    cases.extend(embedding_cases(context, &places));
    cases.extend(norm_cases(context, &places));
    cases.extend(attention_cases(context, &places));
    cases.extend(swiglu_cases(context, &places));
    cases.extend(projection_cases(context, &places));
    cases.extend(head_cases(context));
    cases.extend(optimizer_cases(context));
    cases
}

/// Sizes and views that several cases share.
struct Places {
    /// T, padding included.
    t: usize,
    h: usize,
    /// Bytes of a stored element.
    s: usize,
    cut: Activations,
    layer: LayerActivations,
    backward: BackwardActivations,
}

impl Places {
    fn new(context: &Context<'_>) -> Self {
        let cut = context.activations.cut(&context.model.config, context.batch.device.ids.len);
        let Some(backward) = cut.backward else { unreachable!("planned for training") };
        Self {
            t: context.batch.device.ids.len,
            h: context.model.config.hidden_size,
            s: context.precision.storage.bytes(),
            layer: cut.layers[0],
            backward,
            cut,
        }
    }

    /// Bytes of `[T, width]` stored elements.
    fn rows(&self, width: usize) -> usize {
        self.t * width * self.s
    }
}

pub(super) fn case<'a, B: Backend>(
    name: &'static str,
    detail: String,
    cost: Cost,
    run: impl Fn(&mut B) + 'a,
) -> Case<'a, B> {
    Case { name, detail, cost, run: Box::new(run) }
}

/// Operations that only move.
fn memory_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let (t, h) = (places.t, places.h);
    let (zeroed, out) = (places.layer.gate_up, places.cut.branch);
    let copy = CopyRows {
        source: places.cut.last_stream,
        source_stride: h,
        source_column: 0,
        rows: context.batch.device.token_rows,
        out,
        out_stride: h,
        out_column: 0,
        width: h,
    };
    // Padding has no place in the list of rows.
    let rows = copy.rows.len;
    let copy = CopyRows { source: copy.source.first(rows * h), ..copy };
    vec![
        case(
            "zero",
            format!("[{t}, {}]", zeroed.len / t),
            Cost::bytes(zeroed.bytes()),
            move |backend: &mut B| {
                backend.zero(zeroed);
            },
        ),
        case(
            "copy_rows",
            format!("[{rows}, {h}]"),
            Cost::bytes(2 * rows * h * places.s),
            move |backend: &mut B| {
                backend.copy_rows(copy);
            },
        ),
    ]
}

fn embedding_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let (h, batch) = (places.h, context.batch.device);
    let distinct = batch.token_ids.len;
    let forward = EmbeddingForward {
        ids: batch.ids,
        mix: batch.mix,
        table: context.model.embedding,
        out: places.layer.stream,
        hidden: h,
    };
    let detail = format!("[{}, {h}], {distinct} ids", places.t);
    let cost = Cost::bytes(places.rows(h) + distinct * h * places.s + batch.ids.bytes());
    let mut cases = vec![case("embedding_forward", detail.clone(), cost, move |backend: &mut B| {
        backend.embedding_forward(forward);
    })];
    if let Some(dtable) = context.model.embedding_gradient {
        let backward = EmbeddingBackward {
            token_ids: batch.token_ids,
            token_offsets: batch.token_offsets,
            token_rows: batch.token_rows,
            scale: batch.token_scale,
            dout: places.backward.dstream,
            dtable,
            hidden: h,
        };
        let cost = Cost::bytes(batch.token_rows.len * (h * places.s + 4) + 2 * distinct * h * 4);
        cases.push(case("embedding_backward", detail, cost, move |backend: &mut B| {
            backend.embedding_backward(backward);
        }));
    }
    cases
}

fn norm_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let (h, norm) = (places.h, context.model.layers[0].post_norm);
    let forward = RmsnormForward {
        x: places.cut.branch,
        residual: Some(places.layer.stream),
        sum: Some(places.layer.middle),
        weight: norm.weight,
        out: places.layer.middle_normed,
        rstd: places.layer.middle_rstd,
        hidden: h,
        epsilon: context.model.config.rms_norm_eps as f32,
    };
    let backward = RmsnormBackward {
        dout: places.backward.dnormed,
        x: places.layer.middle,
        weight: norm.weight,
        rstd: places.layer.middle_rstd,
        dresidual: Some(places.backward.dstream),
        dx: places.backward.dmiddle,
        dweight: norm.gradient,
        partial: places.backward.norm_partial,
        accumulate: false,
        hidden: h,
    };
    let detail = format!("[{}, {h}], residual", places.t);
    let cost = Cost::bytes(4 * places.rows(h) + 4 * places.t + h * places.s);
    vec![
        case("rmsnorm_forward", detail.clone(), cost, move |backend: &mut B| {
            backend.rmsnorm_forward(forward)
        }),
        case("rmsnorm_backward", detail, cost, move |backend: &mut B| backend.rmsnorm_backward(backward)),
    ]
}

fn attention_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let (model, batch, t) = (context.model, context.batch.device, places.t);
    let shape = model.attention_shape();
    let (n, k, d) = (shape.query_heads, shape.key_heads, shape.head_dim);
    let qkv = places.layer.qkv;
    let [q, keys, v] = model.split_qkv(qkv);
    let (out, lse) = (places.layer.attention, places.layer.attention_lse);
    let (segments, query_tiles, key_tiles) = (batch.segments, batch.query_tiles, batch.key_tiles);
    let forward = AttentionForward { q, k: keys, v, segments, query_tiles, out, lse, shape };
    let backward = AttentionBackward {
        q,
        k: keys,
        v,
        out,
        lse,
        dout: places.backward.dattention,
        dqkv: places.backward.dqkv,
        delta: places.backward.delta,
        segments,
        query_tiles,
        key_tiles,
        families: batch.families,
        shape,
    };
    let pairs = Work::of_batch(&context.batch.host).attended_pairs;
    let (wide, heads) = (places.rows(model.config.qkv_width()), places.rows(n * d));
    let detail = format!("[{t}, {n}+2*{k}, {d}], {pairs} pairs");
    let operations = pairs * (n * d) as u64;
    let forward_cost = Cost { bytes: (wide + heads + 4 * t * n) as u64, flops: 4 * operations };
    let backward_cost = Cost { bytes: (2 * wide + 2 * heads + 4 * t * n) as u64, flops: 8 * operations };
    // The gradients turn: what they hold does not matter, and keys and queries stay as they are.
    let turned = places.backward.dqkv;
    let turning = Cost::bytes(2 * places.rows((n + k) * d) + 4 * t);
    vec![
        case("rope", format!("[{t}, {n}+{k}, {d}]"), turning, move |backend: &mut B| {
            model.rotate(backend, turned, batch.positions, Rotation::Backward);
        }),
        case("attention_forward", detail.clone(), forward_cost, move |backend: &mut B| {
            backend.attention_forward(forward);
        }),
        case("attention_backward", detail, backward_cost, move |backend: &mut B| {
            backend.attention_backward(backward);
        }),
    ]
}

fn swiglu_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let f = context.model.config.intermediate_size;
    let gate_up = places.layer.gate_up;
    let forward = SwigluForward { gate_up, out: places.layer.swiglu, feed_forward: f };
    let (dout, dgate_up) = (places.backward.dswiglu, places.backward.dgate_up);
    let backward = SwigluBackward { gate_up, dout, dgate_up, feed_forward: f };
    let detail = format!("[{}, {f}]", places.t);
    let cost = |times: usize| Cost::bytes(times * places.rows(f));
    vec![
        case("swiglu_forward", detail.clone(), cost(3), move |backend: &mut B| {
            backend.swiglu_forward(forward)
        }),
        case("swiglu_backward", detail, cost(5), move |backend: &mut B| backend.swiglu_backward(backward)),
    ]
}

/// A projection with its operands in the three layouts.
struct Projection {
    names: [&'static str; 3],
    linear: Linear,
    x: View,
    out: View,
    dout: View,
    dx: View,
}

fn projection_cases<'a, B: Backend>(context: &Context<'a>, places: &Places) -> Vec<Case<'a, B>> {
    let layer = context.model.layers[0];
    let (keep, back) = (places.layer, places.backward);
    let projections = [
        Projection {
            names: ["qkv_forward", "qkv_backward_input", "qkv_backward_weight"],
            linear: layer.qkv,
            x: keep.input_normed,
            out: keep.qkv,
            dout: back.dqkv,
            dx: back.dnormed,
        },
        Projection {
            names: ["output_forward", "output_backward_input", "output_backward_weight"],
            linear: layer.output,
            x: keep.attention,
            out: places.cut.branch,
            dout: back.dmiddle,
            dx: back.dattention,
        },
        Projection {
            names: ["gate_up_forward", "gate_up_backward_input", "gate_up_backward_weight"],
            linear: layer.gate_up,
            x: keep.middle_normed,
            out: keep.gate_up,
            dout: back.dgate_up,
            dx: back.dnormed,
        },
        Projection {
            names: ["down_forward", "down_backward_input", "down_backward_weight"],
            linear: layer.down,
            x: keep.swiglu,
            out: places.cut.branch,
            dout: back.dstream,
            dx: back.dswiglu,
        },
    ];
    projections.into_iter().flat_map(|projection| three_layouts(places, projection)).collect()
}

fn three_layouts<'a, B: Backend>(places: &Places, projection: Projection) -> [Case<'a, B>; 3] {
    let Projection { names, linear, x, out, dout, dx } = projection;
    let (t, s, inputs, outputs) = (places.t, places.s, linear.inputs, linear.outputs);
    let weight = inputs * outputs;
    let activations = t * (inputs + outputs) * s;
    let stored = Cost::product(t, outputs, inputs, activations + weight * s);
    let single = Cost::product(outputs, inputs, t, activations + weight * 4);
    [
        case(names[0], format!("[{t}, {outputs}, {inputs}] nt"), stored, move |backend: &mut B| {
            linear.forward(backend, x, out, t);
        }),
        case(names[1], format!("[{t}, {inputs}, {outputs}] nn"), stored, move |backend: &mut B| {
            linear.backward_input(backend, dout, dx, t);
        }),
        case(names[2], format!("[{outputs}, {inputs}, {t}] tn"), single, move |backend: &mut B| {
            linear.backward_weight(backend, x, dout, t, false);
        }),
    ]
}

fn optimizer_cases<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let (model, optimizer, state) = (context.model, context.optimizer, context.state);
    let Some(gradients) = model.gradients() else { unreachable!("planned for training") };
    let partial = context.norm_partial;
    let norm = GradientNorm { gradients, max_norm: Some(1.0), partial, state };
    let elements = model.table.count();
    let detail = format!("{elements} elements");
    let adamw = Cost::bytes(elements * adamw_bytes(context.precision));
    vec![
        case("gradient_norm", detail.clone(), Cost::bytes(gradients.bytes()), move |backend: &mut B| {
            backend.gradient_norm(norm);
        }),
        // A rate of 0: as much work, and the weights stay what they are.
        case("adamw", detail, adamw, move |backend: &mut B| optimizer.update(backend, model, state, 0.0, 2)),
    ]
}

/// Bytes that an update reads and writes per element: the gradient once, everything else both ways.
fn adamw_bytes(precision: Precision) -> usize {
    let parameter = if precision.has_remainder() { 4 } else { precision.storage.bytes() };
    let moments = match precision.optimizer {
        OptimizerState::F32 => 8,
        OptimizerState::Bf16 => 4,
        OptimizerState::EightBit => 2,
    };
    4 + 2 * (parameter + moments)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32: p, m, v in and out, g in: 7 x 4. bf16 with a remainder: the same. 8 bit: g 4, p 2 + 2, moments 2 + 2.
    #[test]
    fn bytes_of_an_update() {
        let eight = Precision { optimizer: OptimizerState::EightBit, ..Precision::BF16 };
        let sixteen = Precision { optimizer: OptimizerState::Bf16, ..Precision::BF16 };
        assert_eq!([Precision::F32, Precision::BF16, sixteen, eight].map(adamw_bytes), [28, 28, 16, 12]);
    }
}
