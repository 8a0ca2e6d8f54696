//! One training step, timed as training takes it.

use std::time::Instant;

use serde::Serialize;

use super::facts::Facts;
use super::timing::{bounds, median};
use super::{BenchError, Request, Setup};
use crate::backend::{Backend, DeviceKind, OperationTime};
use crate::data::{Step, Work};
use crate::model::Flops;

/// Dense bf16 products of an H100 or H200 (SXM), without sparsity: NVIDIA's data sheet.
const PEAK_FLOPS: f64 = 989e12;

/// What a run of steps showed.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Tells lines of JSON apart: always `step`.
    pub benchmark: &'static str,
    /// The model.
    pub shape: &'static str,
    /// Its parameters.
    pub parameters: usize,
    /// What was minimised.
    pub objective: String,
    /// How the lengths were spread.
    pub workload: &'static str,
    /// Pairs per optimizer step.
    pub pairs: usize,
    /// Mean prompt length asked for.
    pub prompt: usize,
    /// Mean answer length asked for.
    pub response: usize,
    /// Median seconds of a step.
    pub step_s: f64,
    /// The fastest step's.
    pub min_s: f64,
    /// The slowest step's.
    pub max_s: f64,
    /// Every timed step's, in order.
    pub step_times_s: Vec<f64>,
    /// Steps before them that were not timed.
    pub warmup: usize,
    /// Pairs per second.
    pub pairs_per_s: f64,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Packed tokens T of a step: prompts once, no padding.
    pub tokens: usize,
    /// Scored tokens R of a step.
    pub response_tokens: usize,
    /// (query, key) pairs per head and layer.
    pub attended_pairs: u64,
    /// Seconds of the pass over the same pairs that scores reference log-probs, once before training.
    pub reference_s: Option<f64>,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// T of the largest micro-batch that was planned for.
    pub tokens_per_batch: usize,
    /// Rows of logits at a time.
    pub head_rows: usize,
    /// What the backward pass computed again.
    pub recompute: &'static str,
    /// Format of what is multiplied: weights and activations.
    pub dtype: &'static str,
    /// Format of logits.
    pub head_logits: &'static str,
    /// What AdamW keeps.
    pub optimizer_state: &'static str,
    /// Operations of a step.
    pub flops: Flops,
    /// Their sum per second, in 10^12.
    pub tflops_per_s: f64,
    /// The share of `peak_tflops_per_s` that this is; on CUDA only.
    pub utilisation: Option<f64>,
    /// What utilisation is counted from.
    pub peak_tflops_per_s: Option<f64>,
    /// The most memory that the process ever held; on the CPU only.
    pub peak_rss_bytes: Option<u64>,
    /// Bytes of all arenas on the device; on CUDA only.
    pub device_peak_bytes: Option<u64>,
    /// By how much the device's free memory went down, whoever took it; on CUDA only.
    pub device_taken_bytes: Option<u64>,
    /// What the memory plan said.
    pub plan_bytes: u64,
    /// Where the time of a step went, by operation: calls, seconds and operations of one step; on the CPU only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationTime>,
    /// Loss of the last step.
    pub loss: f64,
    /// Its gradient norm before clipping.
    pub gradient_norm: f64,
    /// Program and machine.
    #[serde(flatten)]
    pub facts: Facts,
}

/// Takes the steps of the request and times all but the first `warmup`, each to its end
/// ([`crate::train::PendingStep::finish`]).
///
/// # Errors
/// As [`Request::set_up`]; steps that were not finite; the device.
pub fn run<B: Backend>(request: &Request, warmup: usize, backend: B) -> Result<StepReport, BenchError> {
    let mut setup = request.set_up(backend)?;
    let mut times = Vec::with_capacity(request.steps.saturating_sub(warmup));
    let mut last = None;
    for (index, step) in setup.loader()?.enumerate() {
        if index == warmup {
            setup.trainer.backend.operation_times();
        }
        let (seconds, loss, norm) = timed_step(&mut setup, &step)?;
        tracing::debug!("step {}: {seconds:.4} s, loss {loss:.4}", step.index);
        if index >= warmup {
            times.push(seconds);
        }
        last = Some((step, loss, norm));
    }
    let Some((step, loss, norm)) = last else { unreachable!("a run has at least one step") };
    let operations = per_step(setup.trainer.backend.operation_times(), times.len());
    Ok(report(request, &setup, Steps { step, warmup, times, operations, loss, norm }))
}

/// Seconds, loss and gradient norm of one step.
///
/// # Errors
/// A step that was not finite; the device.
pub fn timed_step<B: Backend>(setup: &mut Setup<B>, step: &Step) -> Result<(f64, f64, f64), BenchError> {
    let trainer = &mut setup.trainer;
    let start = Instant::now();
    let pending = trainer.step(step, setup.learning_rate)?;
    let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref())?;
    let seconds = start.elapsed().as_secs_f64();
    let (loss, norm) = (outcome.loss, outcome.gradient_norm);
    if outcome.bad {
        return Err(BenchError::NotFinite { step: step.index, loss, norm });
    }
    Ok((seconds, loss, norm))
}

/// The mean of so many steps, which are alike.
fn per_step(operations: Vec<OperationTime>, steps: usize) -> Vec<OperationTime> {
    let mean = |OperationTime { name, calls, seconds, flops }| OperationTime {
        name,
        calls: calls / steps.max(1),
        seconds: seconds / steps.max(1) as f64,
        flops: flops.map(|flops: f64| flops / steps.max(1) as f64),
    };
    operations.into_iter().map(mean).collect()
}

struct Steps {
    /// All are alike.
    step: Step,
    warmup: usize,
    times: Vec<f64>,
    operations: Vec<OperationTime>,
    loss: f64,
    norm: f64,
}

fn report<B: Backend>(request: &Request, setup: &Setup<B>, steps: Steps) -> StepReport {
    let Setup { prepared, trainer, .. } = setup;
    let batches = &steps.step.batches;
    let work: Work = batches.iter().map(Work::of_batch).sum();
    let tokens = work.tokens as usize;
    let flops = Flops::training(&prepared.model, work);
    let step_s = median(&mut steps.times.clone());
    let (min_s, max_s) = bounds(&steps.times);
    let on_cuda = B::KIND == DeviceKind::Cuda;
    let peak = trainer.backend.peak_memory();
    let free_after = trainer.backend.available_memory();
    let taken = setup.free_before.zip(free_after).map(|(before, after)| before.saturating_sub(after));
    let activations = &prepared.layout.activations;
    let workload = &request.workload;
    StepReport {
        benchmark: "step",
        shape: request.shape.name,
        parameters: trainer.model.table.count(),
        objective: request.objective.clone(),
        workload: workload.kind.name(),
        pairs: workload.lengths.len(),
        prompt: workload.prompt,
        response: workload.response,
        step_s,
        min_s,
        max_s,
        step_times_s: steps.times,
        operations: steps.operations,
        warmup: steps.warmup,
        pairs_per_s: workload.lengths.len() as f64 / step_s,
        tokens_per_s: tokens as f64 / step_s,
        tokens,
        response_tokens: work.rows as usize,
        attended_pairs: work.attended_pairs,
        reference_s: setup.reference_seconds,
        micro_batches: batches.len(),
        tokens_per_batch: activations.budget.tokens,
        head_rows: activations.budget.head_rows,
        recompute: activations.recompute.name(),
        dtype: prepared.precision.operands.name(),
        head_logits: prepared.precision.logits.name(),
        optimizer_state: prepared.precision.optimizer.name(),
        flops,
        tflops_per_s: flops.total() as f64 / step_s / 1e12,
        utilisation: on_cuda.then_some(flops.total() as f64 / step_s / PEAK_FLOPS),
        peak_tflops_per_s: on_cuda.then_some(PEAK_FLOPS / 1e12),
        peak_rss_bytes: peak.filter(|_| !on_cuda),
        device_peak_bytes: peak.filter(|_| on_cuda),
        device_taken_bytes: taken.filter(|_| on_cuda),
        plan_bytes: prepared.layout.plan.total_bytes() as u64,
        loss: steps.loss,
        gradient_norm: steps.norm,
        facts: Facts::of(&trainer.backend),
    }
}
