//! Every operation of a backend at the sizes of a model, against what the same device was just seen to copy and to multiply.
//!
//! The operations work on the views that the memory plan gives a model of one layer, after one real micro-batch has filled
//! them. Tensors smaller than a device's cache may come out above the copy rate: compare at sizes of a real step.

mod cases;
mod cost;
mod head;
mod rates;

use serde::Serialize;

pub use cases::{Case, Context, FilledBatch, cases, micro_batch};
pub use cost::{Bound, Cost};
pub use rates::{RateSizes, Rates, copy_rate};

use super::facts::Facts;
use super::timing::{Measured, Probe, Timing};
use super::{BenchError, Request};
use crate::backend::Backend;

/// The head may take so many times as long as its three products.
pub const HEAD_TARGET: f64 = 1.25;
/// The case that holds the whole head.
pub const HEAD: &str = "head";
/// The case that holds its products alone.
pub const HEAD_PRODUCTS: &str = "head_products";

/// One operation, measured.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// Tells lines of JSON apart: always `kernel`.
    pub benchmark: &'static str,
    /// The operation.
    pub name: &'static str,
    /// Its sizes.
    pub detail: String,
    /// Its time.
    #[serde(flatten)]
    pub measured: Measured,
    /// What it must cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// Which of the device's two rates bounds it.
    pub bound: Bound,
    /// 10^9 bytes per second.
    pub gb_per_s: f64,
    /// 10^12 operations per second.
    pub tflops_per_s: f64,
    /// The share of the rate that bounds it.
    pub share: f64,
}

/// What was measured of one model on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Tells lines of JSON apart: always `machine`.
    pub benchmark: &'static str,
    /// The model whose sizes these are, of which one layer is there.
    pub shape: &'static str,
    /// Packed tokens T, padding included.
    pub tokens: usize,
    /// Scored tokens R.
    pub response_tokens: usize,
    /// Format of weights and activations.
    pub dtype: &'static str,
    /// Format of logits.
    pub head_logits: &'static str,
    /// What AdamW keeps.
    pub optimizer_state: &'static str,
    /// What the device was seen to do at best.
    #[serde(flatten)]
    pub rates: Rates,
    /// Program and machine.
    #[serde(flatten)]
    pub facts: Facts,
}

/// The whole head against its products.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadRatio {
    /// Tells lines of JSON apart: always `head_ratio`.
    pub benchmark: &'static str,
    /// Time of the whole head over that of its three products.
    pub head_over_products: f64,
    /// What it should be at most.
    pub target: f64,
}

/// Everything, in the order measured.
#[derive(Clone, Debug)]
pub struct KernelReports {
    /// Device, sizes, rates.
    pub machine: Machine,
    /// The operations.
    pub kernels: Vec<KernelReport>,
    /// If both cases of the head were measured.
    pub head: Option<HeadRatio>,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long.
    pub timing: Timing,
    /// Sizes of the two rates.
    pub rates: RateSizes,
    /// Only the operations whose name begins with one of these; all if there are none.
    pub only: Vec<String>,
}

/// Measures the operations at the sizes of a request's model, cut to one layer, with all of its pairs in one micro-batch.
///
/// # Errors
/// As [`Request::set_up`]; a name that no operation has; the device.
pub fn run<B: Backend>(
    request: &Request,
    settings: &Settings,
    mut backend: B,
) -> Result<KernelReports, BenchError> {
    let request = one_layer(request);
    let formats = request.config(std::path::Path::new(""))?.device.formats;
    let target = crate::train::Target::of(&backend);
    let precision = target.precision(formats)?;
    let rates =
        Rates::measure(&mut backend, settings.rates, precision.storage, target.workspace(), settings.timing)?;
    let mut setup = request.set_up(backend)?;
    let batch = micro_batch(&mut setup)?;
    let probe = Probe::new(setup.trainer.state);
    let (backend, context) = Context::of(&mut setup.trainer, precision, &batch);
    let all = cases::<B>(&context);
    let chosen = select(all, &settings.only)?;
    let mut kernels = Vec::with_capacity(chosen.len());
    for case in chosen {
        context.clear_state(backend);
        let measured = settings.timing.measure(backend, probe, &case.run)?;
        let kernel = KernelReport::new(&case, measured, rates);
        tracing::debug!("{}: {:.3e} s", kernel.name, kernel.measured.seconds);
        kernels.push(kernel);
    }
    let machine = Machine {
        benchmark: "machine",
        shape: request.shape.name,
        tokens: batch.device.ids.len,
        response_tokens: batch.device.rows,
        dtype: precision.operands.name(),
        head_logits: precision.logits.name(),
        optimizer_state: precision.optimizer.name(),
        rates,
        facts: Facts::of(backend),
    };
    let head = head_ratio(&kernels);
    Ok(KernelReports { machine, kernels, head })
}

/// The request with one layer, nothing recomputed and nothing cut, so that every operation has its operands in memory.
pub fn one_layer(request: &Request) -> Request {
    let tokens: usize = request.workload.lengths.iter().flatten().sum();
    let mut one = request.clone();
    one.shape = one.shape.with_layers(1);
    one.device.recompute = Some(crate::config::RecomputeName::None);
    one.device.max_tokens_per_batch = Some(i64::try_from(tokens).unwrap_or(i64::MAX));
    one.steps = 1;
    one
}

/// The cases whose names begin with one of `only`.
pub fn select<'a, B: Backend>(
    all: Vec<Case<'a, B>>,
    only: &[String],
) -> Result<Vec<Case<'a, B>>, BenchError> {
    if let Some(name) = only.iter().find(|name| !all.iter().any(|case| case.name.starts_with(name.as_str())))
    {
        let known: Vec<&str> = all.iter().map(|case| case.name).collect();
        return Err(BenchError::UnknownCase { name: name.clone(), known: known.join(", ") });
    }
    let wanted =
        |case: &Case<'a, B>| only.is_empty() || only.iter().any(|name| case.name.starts_with(name.as_str()));
    Ok(all.into_iter().filter(wanted).collect())
}

impl KernelReport {
    fn new<B: Backend>(case: &Case<'_, B>, measured: Measured, rates: Rates) -> Self {
        let per_second = |count: u64| count as f64 / measured.seconds;
        let (gb_per_s, tflops_per_s) =
            (per_second(case.cost.bytes) / 1e9, per_second(case.cost.flops) / 1e12);
        let bound = case.cost.bound(rates);
        let share = match bound {
            Bound::Copy => gb_per_s / rates.copy_gb_per_s,
            Bound::Product => tflops_per_s / rates.product_tflops_per_s,
        };
        Self {
            benchmark: "kernel",
            name: case.name,
            detail: case.detail.clone(),
            measured,
            cost: case.cost,
            bound,
            gb_per_s,
            tflops_per_s,
            share,
        }
    }
}

fn head_ratio(kernels: &[KernelReport]) -> Option<HeadRatio> {
    let seconds =
        |name| kernels.iter().find(|kernel| kernel.name == name).map(|kernel| kernel.measured.seconds);
    let ratio = seconds(HEAD)? / seconds(HEAD_PRODUCTS)?;
    Some(HeadRatio { benchmark: "head_ratio", head_over_products: ratio, target: HEAD_TARGET })
}
