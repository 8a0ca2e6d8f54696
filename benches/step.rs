//! One training step: the default workload of `asft bench step`, 57.9 million parameters and 4 pairs of 512 tokens, on the GPU
//! where there is one, else on the CPU.

use std::time::Duration;

use asft::backend::cpu::CpuBackend;
use asft::backend::cuda::CudaBackend;
use asft::backend::{Backend, probe};
use asft::bench::step::timed_step;
use asft::bench::workload::Amount;
use asft::bench::{Kind, Request, Shape, Workload};
use asft::config::DeviceArguments;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn measure<B: Backend>(criterion: &mut Criterion, backend: B) {
    let shape = Shape::find("57m").expect("a shape of this name");
    let workload = Workload::new(Kind::Even, 128, 384, Amount::Pairs(4)).expect("even lengths always exist");
    let pairs = workload.lengths.len() as u64;
    let (objective, device) = ("asft".to_owned(), DeviceArguments::default());
    let request = Request { shape, objective, workload, device, steps: 1 };
    let mut setup = request.set_up(backend).expect("a small model fits");
    let mut step = setup.loader().expect("a workload").next().expect("one step");
    let mut group = criterion.benchmark_group(setup.trainer.backend.name());
    group.sample_size(10).throughput(Throughput::Elements(pairs));
    group.bench_function("asft step, 57m", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut seconds = 0.0;
            for _ in 0..iterations {
                seconds += timed_step(&mut setup, &step).expect("a finite step").0;
                step.index += 1;
            }
            Duration::from_secs_f64(seconds)
        });
    });
    group.finish();
}

fn step(criterion: &mut Criterion) {
    match probe::cuda(false) {
        Ok(context) => measure(criterion, CudaBackend::new(context).expect("the device works")),
        Err(_) => measure(criterion, CpuBackend::new(0).expect("threads can be started")),
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
