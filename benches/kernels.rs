//! Every operation of a training step, on the GPU where there is one, else on the CPU: the cases of `asft bench kernels`
//! at sizes that end in a few minutes.
//!
//! `cargo bench --bench kernels -- swiglu` measures some of them; `asft bench kernels --shape 1b` real sizes.

use std::time::Instant;

use asft::backend::cpu::CpuBackend;
use asft::backend::cuda::CudaBackend;
use asft::backend::{Backend, probe};
use asft::bench::kernels::{Context, cases, micro_batch, one_layer};
use asft::bench::timing::Probe;
use asft::bench::workload::Amount;
use asft::bench::{Kind, Request, Shape, Workload};
use asft::config::DeviceArguments;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// One layer of the smallest model, two pairs.
fn request() -> Request {
    let shape = Shape::find("tiny").expect("a shape of this name");
    let workload = Workload::new(Kind::Even, 64, 64, Amount::Pairs(2)).expect("even lengths always exist");
    let (objective, device) = ("asft".to_owned(), DeviceArguments::default());
    one_layer(&Request { shape, objective, workload, device, steps: 1 })
}

fn measure<B: Backend>(criterion: &mut Criterion, backend: B) {
    let mut setup = request().set_up(backend).expect("the smallest model fits everywhere");
    let batch = micro_batch(&mut setup).expect("a finite step");
    let (probe, precision) = (Probe::new(setup.trainer.state), setup.prepared.precision);
    let (backend, context) = Context::of(&mut setup.trainer, precision, &batch);
    let mut group = criterion.benchmark_group(backend.name());
    for case in cases::<B>(&context) {
        context.clear_state(backend);
        group.throughput(match case.cost.flops {
            0 => Throughput::Bytes(case.cost.bytes),
            flops => Throughput::Elements(flops),
        });
        group.bench_function(case.name, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    (case.run)(backend);
                }
                probe.wait(backend).expect("the device works");
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn kernels(criterion: &mut Criterion) {
    match probe::cuda(false) {
        Ok(context) => measure(criterion, CudaBackend::new(context).expect("the device works")),
        Err(_) => measure(criterion, CpuBackend::new(0).expect("threads can be started")),
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2))
        .warm_up_time(std::time::Duration::from_millis(500));
    targets = kernels
}
criterion_main!(benches);
