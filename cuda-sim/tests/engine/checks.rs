//! Every check finds its planted bug and passes the correct twin.

use crate::harness::{Call, Device, have_nvrtc, kernel_file};
use cuda_sim::engine::{AsyncCompletion, FindingKind, LaunchError, Module, Options};

/// Runs under both completions of asynchronous copies, several orders, one and two host threads.
fn all_options(device: &Device) -> Vec<Options> {
    let mut all = Vec::new();
    for asynchronous in [AsyncCompletion::Issue, AsyncCompletion::Wait] {
        for (schedule_seed, threads) in [(None, 1), (Some(1), 1), (Some(7), 2)] {
            all.push(Options { asynchronous, schedule_seed, threads, ..device.options.clone() });
        }
    }
    all
}

struct Bench {
    device: Device,
    module: Module,
}

impl Bench {
    fn new() -> Option<Bench> {
        have_nvrtc().then(|| {
            let device = Device::new();
            let module = device.load(&kernel_file("checks.cu", "sm_90"));
            Bench { device, module }
        })
    }

    /// `make` builds the call with fresh buffers each time.
    fn finds<'b>(&'b self, kind: FindingKind, make: impl Fn(&'b Bench) -> Call<'b>) {
        for options in all_options(&self.device) {
            match make(self).run_with(&options) {
                Ok(report) => panic!("the bug of {} was not found under {options:?}", report.kernel),
                Err(LaunchError::Findings(findings)) => {
                    // Who reads too early also reads what nobody wrote yet.
                    let is_race = matches!(kind, FindingKind::Race | FindingKind::CrossBlockRace);
                    let follows = |other| other == kind || is_race && other == FindingKind::Uninitialised;
                    assert!(findings.iter().any(|finding| finding.kind == kind), "{findings:#?}");
                    assert!(findings.iter().all(|finding| follows(finding.kind)), "{findings:#?}");
                    for finding in &findings {
                        let (file, line) = finding.source.as_ref().expect("NVRTC gives lines");
                        assert!(
                            file.ends_with("checks.cu") && *line > 0 && finding.ptx_line > 0,
                            "{finding}"
                        );
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn passes<'b>(&'b self, make: impl Fn(&'b Bench) -> Call<'b>) {
        for options in all_options(&self.device) {
            make(self).run_with(&options).unwrap_or_else(|error| panic!("{error}\nunder {options:?}"));
        }
    }

    fn call<'b>(&'b self, name: &str, grid: u32, block: u32) -> Call<'b> {
        self.device.call(&self.module, name, grid, block)
    }

    /// A call whose only parameter is room for 4096 numbers.
    fn simple<'b>(&'b self, name: &str, grid: u32, block: u32) -> Call<'b> {
        self.call(name, grid, block).arg(self.device.upload(&[0i32; 4096]))
    }
}

#[test]
fn out_of_bounds() {
    let Some(bench) = Bench::new() else { return };
    let make = |name: &'static str| {
        move |bench: &'static Bench| bench.call(name, 1, 64).arg(bench.device.room::<f32>(64)).arg(64i32)
    };
    let bench: &'static Bench = Box::leak(Box::new(bench));
    bench.finds(FindingKind::OutOfBounds, make("bounds_bad"));
    bench.passes(make("bounds_good"));
    let shared = |bytes| move |bench: &'static Bench| bench.simple("shared_bounds_bad", 1, 64).shared(bytes);
    bench.finds(FindingKind::OutOfBounds, shared(252));
    bench.passes(shared(256));
    bench.finds(FindingKind::OutOfBounds, |bench| bench.simple("local_bounds", 1, 32).arg(100_000i32));
    bench.passes(|bench| bench.simple("local_bounds", 1, 32).arg(7i32));
}

#[test]
fn misaligned() {
    let Some(bench) = &Bench::new() else { return };
    bench.finds(FindingKind::Misaligned, |bench| bench.simple("misaligned_bad", 1, 32));
    bench.passes(|bench| bench.simple("misaligned_good", 1, 32));
}

#[test]
fn use_after_free_and_null() {
    let Some(bench) = &Bench::new() else { return };
    bench.finds(FindingKind::UseAfterFree, |bench| {
        let gone = bench.device.upload(&[0i32; 64]);
        bench.device.memory.free(gone).expect("it was allocated");
        bench.call("misaligned_good", 1, 4).arg(gone)
    });
    bench.finds(FindingKind::OutOfBounds, |bench| bench.call("misaligned_good", 1, 4).arg(0u64));
}

#[test]
fn uninitialised_reads() {
    let Some(bench) = &Bench::new() else { return };
    bench.finds(FindingKind::Uninitialised, |bench| {
        let input = bench.device.room::<f32>(64);
        bench.device.memory.write(input, &[0; 63 * 4]).expect("in bounds");
        bench.call("uninitialised", 1, 64).args(&[input, bench.device.room::<f32>(64)])
    });
    bench.passes(|bench| {
        let input = bench.device.room::<f32>(64);
        bench.device.memory.write(input, &[0; 64 * 4]).expect("in bounds");
        bench.call("uninitialised", 1, 64).args(&[input, bench.device.room::<f32>(64)])
    });
    bench.finds(FindingKind::Uninitialised, |bench| bench.simple("uninitialised_shared_bad", 1, 64));
    bench.passes(|bench| bench.simple("uninitialised_shared_good", 1, 64));
    bench.finds(FindingKind::Uninitialised, |bench| bench.simple("uninitialised_local_bad", 1, 64).arg(3i32));
    bench.passes(|bench| bench.simple("uninitialised_local_good", 1, 64).arg(3i32));
    // Atomics and asynchronous copies read too.
    bench.finds(FindingKind::Uninitialised, |bench| {
        bench.call("atomic_good", 1, 32).arg(bench.device.room::<i32>(1))
    });
    bench.finds(FindingKind::Uninitialised, |bench| {
        bench.call("copy_good", 1, 64).args(&[bench.device.room::<i32>(64), bench.device.room::<i32>(64)])
    });
}

#[test]
fn barriers() {
    let Some(bench) = &Bench::new() else { return };
    bench.finds(FindingKind::DivergentBarrier, |bench| bench.simple("barrier_bad", 1, 64));
    bench.passes(|bench| bench.simple("barrier_good", 1, 64));
    bench.finds(FindingKind::Deadlock, |bench| bench.simple("deadlock_bad", 1, 64));
    bench.passes(|bench| bench.simple("deadlock_good", 1, 64));
    bench.finds(FindingKind::PartialWarp, |bench| bench.simple("partial_warp_bad", 1, 32));
    bench.passes(|bench| bench.simple("partial_warp_good", 1, 32));
    bench.finds(FindingKind::PartialWarp, |bench| bench.simple("partial_mma_bad", 1, 32));
    bench.passes(|bench| bench.simple("partial_mma_good", 1, 32));
    // A warp that has fewer than 32 threads from the start cannot do it either.
    bench.finds(FindingKind::PartialWarp, |bench| bench.simple("partial_mma_good", 1, 31));
    // 70 threads go on: two warps, a part of the third, nothing of the fourth.
    bench.passes(|bench| bench.simple("exit_good", 1, 128).arg(70i32));
    bench.finds(FindingKind::Race, |bench| bench.simple("exit_bad", 1, 128).arg(70i32));
}

#[test]
fn races_within_a_block() {
    let Some(bench) = &Bench::new() else { return };
    for name in ["race", "overwrite", "producer", "flag", "shared_atomic", "arrive", "readers"] {
        bench.finds(FindingKind::Race, |bench| bench.simple(&format!("{name}_bad"), 1, 64));
        bench.passes(|bench| bench.simple(&format!("{name}_good"), 1, 64));
    }
    // Within one warp all have read before one of them writes.
    bench.finds(FindingKind::Race, |bench| bench.simple("readers_bad", 1, 32));
    for name in ["flag_release_bad", "flag_acquire_bad"] {
        bench.finds(FindingKind::Race, |bench| bench.simple(name, 1, 64));
    }
    bench.passes(|bench| bench.simple("flag_fence_good", 1, 64));
    bench.finds(FindingKind::Race, |bench| bench.simple("pairs_bad", 1, 128));
    bench.passes(|bench| bench.simple("pairs_good", 1, 128));
    for name in ["warp_race", "half_warp", "shuffle_orders"] {
        bench.finds(FindingKind::Race, |bench| bench.simple(&format!("{name}_bad"), 1, 32));
        bench.passes(|bench| bench.simple(&format!("{name}_good"), 1, 32));
    }
    bench.finds(FindingKind::Race, |bench| bench.simple("together_bad", 1, 32));
    bench.passes(|bench| bench.simple("together_good", 1, 32));
    bench.finds(FindingKind::Race, |bench| bench.simple("sticky_flag_bad", 1, 64));
    bench.passes(|bench| bench.simple("sticky_flag_good", 1, 64));
    bench.finds(FindingKind::Race, |bench| bench.simple("two_stores_bad", 1, 32));
    bench.passes(|bench| bench.simple("neighbours_good", 3, 33));
    bench.passes(|bench| bench.simple("bytes_good", 3, 33));
}

#[test]
fn conflicts_between_blocks() {
    let Some(bench) = &Bench::new() else { return };
    for name in ["block_conflict", "atomic", "scope"] {
        bench.finds(FindingKind::CrossBlockRace, |bench| bench.simple(&format!("{name}_bad"), 2, 32));
        bench.passes(|bench| bench.simple(&format!("{name}_good"), 2, 32));
    }
    let two = |name: &str, bench| {
        let bench: &Bench = bench;
        bench.simple(name, 4, 32).arg(bench.device.upload(&[0i32; 4096]))
    };
    bench.finds(FindingKind::CrossBlockRace, |bench| two("block_read_bad", bench));
    let three = |name: &str, bench| two(name, bench).arg(bench.device.upload(&[0i32]));
    bench.finds(FindingKind::CrossBlockRace, |bench| three("last_block_bad", bench));
    bench.passes(|bench| three("last_block_good", bench));
    bench.passes(|bench| three("last_block_team_good", bench));
}

#[test]
fn messages_between_blocks() {
    let Some(bench) = &Bench::new() else { return };
    let make = |name: &str, bench| -> Call<'_> {
        Bench::simple(bench, name, 2, 32).arg(bench.device.upload(&[0i32]))
    };
    for name in
        ["fence_scope_bad", "fence_release_bad", "fence_acquire_bad", "no_acquire_bad", "no_release_bad"]
    {
        bench.finds(FindingKind::CrossBlockRace, |bench| make(name, bench));
    }
    for name in ["fence_scope_good", "release_good", "atomic_release_good"] {
        bench.passes(|bench| make(name, bench));
    }
}

#[test]
fn barriers_of_clusters() {
    let Some(bench) = &Bench::new() else { return };
    let make = |name: &str, bench| -> Call<'_> { Bench::simple(bench, name, 4, 32).cluster(2) };
    for name in ["cluster_relaxed_bad", "cluster_block_bad"] {
        bench.finds(FindingKind::CrossBlockRace, |bench| make(name, bench));
    }
    bench.passes(|bench| make("cluster_good", bench));
}

#[test]
fn asynchronous_copies() {
    let Some(bench) = &Bench::new() else { return };
    let input: Vec<i32> = (0..1024).collect();
    let make = |name: &str, bench| {
        let bench: &Bench = bench;
        bench.call(name, 1, 64).args(&[bench.device.upload(&input), bench.device.room::<i32>(64)])
    };
    // Under late completion the bytes are not there yet either, which is a second, true finding.
    for options in all_options(&bench.device) {
        let planted = [
            ("copy_bad", FindingKind::AsyncRace),
            ("copy_source_bad", FindingKind::AsyncRace),
            ("pipeline_bad", FindingKind::AsyncRace),
            ("copy_no_barrier_bad", FindingKind::Race),
            // The second warp may wait first, or still be on its way: both are found.
            ("copy_early_barrier_bad", FindingKind::Race),
        ];
        for (name, kind) in planted {
            let call = make(name, bench);
            let call = if name == "pipeline_bad" { call.arg(5i32) } else { call };
            let error = call.run_with(&options).expect_err("the bug must be found");
            assert!(error.findings().iter().any(|finding| finding.kind == kind), "{error}");
        }
    }
    bench.passes(|bench| make("copy_good", bench));
    bench.passes(|bench| make("copy_source_good", bench));
    bench.passes(|bench| make("pipeline_good", bench).arg(5i32));
    let out = bench.device.room::<i32>(64);
    bench.call("pipeline_good", 1, 64).args(&[bench.device.upload(&input), out]).arg(5i32).ok();
    let expected: Vec<i32> = (0..64).map(|i| (0..5).map(|round| 64 * round + 63 - i).sum()).collect();
    assert_eq!(bench.device.download::<i32>(out, 64), expected);
}

#[test]
fn traps_and_constants() {
    let Some(bench) = &Bench::new() else { return };
    bench.finds(FindingKind::Trap, |bench| bench.simple("trap_bad", 1, 32));
    bench.finds(FindingKind::ReadOnly, |bench| bench.simple("constant_bad", 1, 32));
}

#[test]
fn a_finding_says_where() {
    let Some(bench) = &Bench::new() else { return };
    let error = bench.simple("warp_race_bad", 1, 32).run().expect_err("a race");
    let finding = &error.findings()[0];
    assert_eq!((finding.kernel.as_str(), finding.block), ("warp_race_bad", [0, 0, 0]));
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/checks.cu"));
    let line = finding.source.as_ref().expect("a source line").1;
    let text = source.expect("the kernels").lines().nth(line as usize - 1).expect("a line").to_owned();
    assert!(text.contains("out[threadIdx.x] = s[31 - threadIdx.x]"), "{finding}\n{text}");
    assert!(finding.instruction.starts_with("ld.shared"), "{finding}");
    assert!(finding.message.contains("not ordered after the write by block (0,0,0)"), "{finding}");
}

#[test]
fn without_checks_only_what_would_harm_the_host_is_found() {
    let Some(bench) = &Bench::new() else { return };
    let options = Options { checks: false, ..bench.device.options.clone() };
    assert!(bench.simple("race_bad", 1, 64).run_with(&options).is_ok());
    assert!(
        bench
            .call("bounds_bad", 1, 64)
            .arg(bench.device.room::<f32>(64))
            .arg(64i32)
            .run_with(&options)
            .is_err()
    );
}
