//! Where the time of a run on the CPU goes: the wall-clock time of every operation, by its name and, of products, shape.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::backend::{Layout, Matmul, OperationTime};

/// An operation, and of a product its layout and the two sizes that are not the batch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: &'static str,
    weight: [usize; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    calls: usize,
    time: Duration,
    flops: f64,
}

/// Sums since the last report.
#[derive(Debug, Default)]
pub struct Times(BTreeMap<Key, Sum>);

/// One operation that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    key: Key,
    flops: f64,
    start: Instant,
}

impl Timed {
    /// Starts now.
    pub fn start(name: &'static str) -> Self {
        Self { key: Key { name, weight: [0, 0] }, flops: 0.0, start: Instant::now() }
    }

    /// Starts a product now. The weight `[outputs, inputs]` is what a model multiplies by in this layout, or its gradient.
    pub fn product(arguments: &Matmul) -> Self {
        let Matmul { layout, m, n, k, .. } = *arguments;
        let (name, weight) = match layout {
            Layout::Nt => ("product, forward", [n, k]),
            Layout::Nn => ("product, d input", [k, n]),
            Layout::Tn => ("product, d weight", [m, n]),
        };
        let flops = 2.0 * m as f64 * n as f64 * k as f64;
        Self { key: Key { name, weight }, flops, start: Instant::now() }
    }
}

impl Times {
    /// Adds an operation that ends now.
    pub fn end(&mut self, timed: Timed) {
        let sum = self.0.entry(timed.key).or_default();
        sum.calls += 1;
        sum.time += timed.start.elapsed();
        sum.flops += timed.flops;
    }

    /// What was added since the last report, the longest first.
    pub fn report(&mut self) -> Vec<OperationTime> {
        let one = |(key, sum): (Key, Sum)| {
            let Key { name, weight: [outputs, inputs] } = key;
            let product = outputs > 0;
            OperationTime {
                name: if product { format!("{name} [{outputs}, {inputs}]") } else { name.to_owned() },
                calls: sum.calls,
                seconds: sum.time.as_secs_f64(),
                flops: product.then_some(sum.flops),
            }
        };
        let mut times: Vec<_> = std::mem::take(&mut self.0).into_iter().map(one).collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }
}
