//! The head: its operations one by one, the whole of it, and its three products alone.

use std::collections::BTreeSet;

use super::cases::{Case, Context, case};
use super::cost::Cost;
use super::{HEAD, HEAD_PRODUCTS};
use crate::backend::{
    Backend, GatherRows, HeadRows, ObjectiveCoefficients, SPAN_WORDS, ScatterRows, TargetLogits,
};
use crate::model::{Chunk, Detail, HeadStep, chunks};

/// Everything between the final hidden state and its gradient.
pub fn head_cases<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let mut cases = row_cases(context);
    cases.extend(logit_cases(context));
    cases.extend(whole_head(context));
    cases
}

/// Rows in, row gradients out.
fn row_cases<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let (activations, batch) = (context.activations, context.batch.device);
    let (head, h, s) =
        (activations.head, context.model.config.hidden_size, context.precision.storage.bytes());
    let (t, r) = (batch.ids.len, batch.rows);
    let gather = GatherRows {
        source: activations.hidden.first(t * h),
        rows: batch.gather.first(r),
        second: None,
        scale: None,
        out: head.x.first(r * h),
        hidden: h,
    };
    let Some(backward) = activations.backward else { unreachable!("planned for training") };
    let scatter = ScatterRows {
        source: head.dx.first(r * h),
        offsets: batch.scatter_offsets,
        rows: batch.scatter_rows,
        weights: None,
        scale: Some(head.coefficients.first(r)),
        out: backward.dnormed.first(t * h),
        hidden: h,
    };
    let distinct = context.batch.host.gather.iter().collect::<BTreeSet<_>>().len();
    let detail = format!("{r} of [{t}, {h}]");
    vec![
        case(
            "gather_rows",
            detail.clone(),
            Cost::bytes((distinct + r) * h * s + 4 * r),
            move |backend: &mut B| {
                backend.gather_rows(gather);
            },
        ),
        case("scatter_rows", detail, Cost::bytes((r + t) * h * s + 8 * r + 4 * t), move |backend: &mut B| {
            backend.scatter_rows(scatter);
        }),
    ]
}

/// As many rows as logits are there for at a time.
fn logit_cases<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let (model, head, batch) = (context.model, context.activations.head, context.batch.device);
    let (h, v, s) = (model.config.hidden_size, model.config.vocab_size, context.precision.storage.bytes());
    let rows = head.logit_rows.min(batch.rows);
    let targets = batch.targets.first(rows);
    let x = head.x.first(rows * h);
    let target_logits = TargetLogits {
        x,
        weight: model.head.weight,
        targets,
        out: head.target_logits.first(rows),
        hidden: h,
    };
    let distinct = context.batch.host.targets[..rows].iter().collect::<BTreeSet<_>>().len();
    let target_cost =
        Cost { bytes: ((rows + distinct) * h * s + 8 * rows) as u64, flops: 2 * (rows * h) as u64 };
    let logits = head.logits.first(rows * v);
    let unit = head.unit.first(rows * v);
    let row_kernel = HeadRows {
        logits,
        unit: Some(unit),
        target_logits: head.target_logits.first(rows),
        targets,
        second: None,
        logp: head.logp.first(rows),
        lse: head.lse.first(rows),
        argmax: head.argmax.first(rows),
        vocabulary: v,
    };
    let (scaled, linear) = (head.scaled.first(rows * h), model.head);
    let dx = head.dx.first(rows * h);
    let narrow = rows * h * s;
    let stored = Cost::product(rows, v, h, narrow + v * h * s + logits.bytes());
    let inward = Cost::product(rows, h, v, narrow + v * h * s + unit.bytes());
    let weight = Cost::product(v, h, rows, narrow + v * h * 4 + unit.bytes());
    vec![
        case("head_forward", format!("[{rows}, {v}, {h}] nt"), stored, move |backend: &mut B| {
            linear.forward(backend, x, logits, rows);
        }),
        case("target_logits", format!("[{rows}, {h}]"), target_cost, move |backend: &mut B| {
            backend.target_logits(target_logits);
        }),
        case("head_rows", format!("[{rows}, {v}]"), Cost::bytes(logits.bytes() + unit.bytes()), {
            move |backend: &mut B| backend.head_rows(row_kernel)
        }),
        case("head_backward_input", format!("[{rows}, {h}, {v}] nn"), inward, move |backend: &mut B| {
            linear.backward_input(backend, unit, dx, rows);
        }),
        case("head_backward_weight", format!("[{v}, {h}, {rows}] tn"), weight, move |backend: &mut B| {
            linear.backward_weight(backend, scaled, unit, rows, false);
        }),
    ]
}

/// The head as a step runs it, the objective that it waits for, and its products in the same chunks.
fn whole_head<'a, B: Backend>(context: &Context<'a>) -> Vec<Case<'a, B>> {
    let Context { model, activations, objective, batch, state, .. } = *context;
    let (h, v, rows) = (model.config.hidden_size, model.config.vocab_size, batch.device.rows);
    let detail = Detail::of(objective);
    let step = HeadStep { objective, given: None, detail, totals: batch.totals, state, accumulate: false };
    let cut = chunks(&batch.host.groups, objective.coupling(), activations.budget.head_capacity());
    let cost = Cost { bytes: 0, flops: 6 * (rows * v * h) as u64 };
    let detail = format!(
        "[{rows}, {v}, {h}] in {}",
        if cut.len() == 1 { "one chunk".to_owned() } else { format!("{} chunks", cut.len()) }
    );
    let coefficients = ObjectiveCoefficients {
        objective,
        units: &batch.host.groups,
        spans: batch.device.spans.first(batch.device.spans.len / SPAN_WORDS * SPAN_WORDS),
        totals: batch.totals,
        logp: activations.head.logp.first(rows),
        statistics: None,
        coefficients: activations.head.coefficients.first(rows),
        state,
    };
    vec![
        case("objective", format!("{rows} log-probs"), Cost::bytes(8 * rows), move |backend: &mut B| {
            backend.objective(coefficients);
        }),
        case(HEAD, detail.clone(), cost, move |backend: &mut B| {
            model.head(backend, activations, &batch.device, &batch.host.groups, step);
        }),
        case(HEAD_PRODUCTS, detail, cost, {
            let context = ProductsOfHead { model, activations, chunks: cut };
            move |backend: &mut B| context.run(backend)
        }),
    ]
}

/// The products of the head and nothing else.
struct ProductsOfHead<'a> {
    model: &'a crate::model::Llama,
    activations: &'a crate::model::Activations,
    chunks: Vec<Chunk>,
}

impl ProductsOfHead<'_> {
    fn run<B: Backend>(&self, backend: &mut B) {
        let (head, linear) = (self.activations.head, self.model.head);
        let (h, v) = (linear.inputs, linear.outputs);
        let (capacity, rung) = (self.activations.budget.head_capacity(), self.activations.budget.rungs.rows);
        let mut accumulate = false;
        for chunk in &self.chunks {
            for start in chunk.rows.clone().step_by(capacity) {
                let len = capacity.min(chunk.rows.end - start).next_multiple_of(rung);
                for first in (0..len).step_by(head.logit_rows) {
                    let rows = head.logit_rows.min(len - first);
                    let x = head.x.rows(start + first..start + first + rows, h);
                    linear.forward(backend, x, head.logits.first(rows * v), rows);
                }
                let unit = head.unit.first(len * v);
                linear.backward_input(backend, unit, head.dx.rows(start..start + len, h), len);
                linear.backward_weight(backend, head.scaled.first(len * h), unit, len, accumulate);
                accumulate = true;
            }
        }
    }
}
