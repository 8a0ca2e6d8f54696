//! Every counter has a kernel whose answer is known by counting on paper. The kernels are PTX written by hand, so that no
//! compiler adds or removes an instruction.

use crate::harness::Device;
use cuda_sim::engine::Report;

fn kernel(body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data)\n{{\n\
         .reg .pred %p; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .f64 %g<3>; .reg .b64 %d<9>;\n\
         .shared .align 16 .b8 s[4096];\n.local .align 8 .b8 l[16];\n{body}\nret;\n}}\n"
    )
}

fn count(body: &str, blocks: u32, threads: u32) -> Report {
    let device = Device::new();
    let module = device.load(&kernel(body));
    let data = device.upload(&[0f32; 8192]);
    device.call(&module, "k", blocks, threads).arg(data).ok()
}

/// `%d2` is the thread's own 16 bytes of global memory, `%r2` of shared memory.
const PLACES: &str = "mov.u32 %r1, %tid.x; ld.param.u64 %d1, [data]; mul.wide.u32 %d2, %r1, 16; add.u64 %d2, %d2, %d1; \
                      mov.u32 %r3, s; shl.b32 %r2, %r1, 4; add.u32 %r2, %r2, %r3;\n";

#[test]
fn instructions_by_class() {
    let body = "mov.u32 %r1, %tid.x; ld.param.u64 %d1, [data]; mov.b32 %r4, 0; mov.b32 %r5, 0;
        add.u32 %r2, %r1, 1; xor.b32 %r2, %r2, %r1; mad.lo.u32 %r2, %r2, 3, %r1; setp.lt.u32 %p, %r1, 16;
        @%p add.u32 %r3, %r2, 1;
        fma.rn.f32 %f1, %f2, %f3, %f1; mul.f32 %f1, %f1, %f2;
        add.f64 %g1, %g2, %g1;
        fma.rn.f16x2 %r3, %r4, %r5, %r3;
        ex2.approx.f32 %f1, %f2; rsqrt.approx.f32 %f2, %f1; sin.approx.f32 %f3, %f1;
        cvt.rn.f32.u32 %f1, %r1; cvt.u64.u32 %d2, %r1;
        st.global.u32 [%d1+4096], 7; ld.global.u32 %r6, [%d1];
        red.global.add.u32 [%d1], 1;
        shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1; vote.sync.ballot.b32 %r6, %p, -1;
        bar.sync 0; fence.acq_rel.gpu;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r4,%r4,%r4}, {%r5,%r5}, {%f1,%f2,%f3,%f4};
        bra.uni END;
        END:";
    // The store and the load touch what the atomics touch; only the counting matters here.
    let device = Device::new();
    let module = device.load(&kernel(body));
    let data = device.upload(&[0f32; 8192]);
    let options = cuda_sim::engine::Options { checks: false, ..device.options.clone() };
    let report = device.call(&module, "k", 3, 64).arg(data).run_with(&options).expect("runs");
    let threads = 3 * 64;
    let expected = [
        // The guard lets 16 of 64 threads through.
        ("integer", 4 * threads + 3 * 16),
        ("float32", 2 * threads),
        ("float64", threads),
        ("half", threads),
        ("approximation", 3 * threads),
        ("conversion", 2 * threads),
        ("move", 3 * threads),
        // The branch and the end.
        ("control", 2 * threads),
        ("memory", 3 * threads),
        ("atomic", threads),
        ("communication", 2 * threads),
        ("synchronisation", 2 * threads),
        ("tensor", threads),
    ];
    for (class, expected) in expected {
        assert_eq!(report.class(class), Some(expected), "{class}");
    }
    assert_eq!(report.class("magic"), None);
    assert_eq!(report.thread_instructions, 27 * threads + 3 * 16);
    assert_eq!(report.warp_instructions, 28 * 3 * 2);
    assert_eq!((report.barriers, report.tensor_operations), (3, 3 * 2 * 2 * 16 * 8 * 16));
}

#[test]
fn tensor_operations_by_shape() {
    let mma = |shape: &str, a: &str, b: &str| {
        let body = format!(
            "mov.b32 %r1, 0; mma.sync.aligned.{shape} {{%f1,%f2,%f3,%f4}}, {{{a}}}, {{{b}}}, {{%f1,%f2,%f3,%f4}};"
        );
        count(&body, 2, 96).tensor_operations
    };
    let warps = 2 * 3;
    let (four, two, one) = ("%r1,%r1,%r1,%r1", "%r1,%r1", "%r1");
    assert_eq!(mma("m16n8k16.row.col.f32.bf16.bf16.f32", four, two), warps * 2 * 16 * 8 * 16);
    assert_eq!(mma("m16n8k8.row.col.f32.bf16.bf16.f32", two, one), warps * 2 * 16 * 8 * 8);
    assert_eq!(mma("m16n8k16.row.col.f32.f16.f16.f32", four, two), warps * 2 * 16 * 8 * 16);
    assert_eq!(mma("m16n8k8.row.col.f32.tf32.tf32.f32", four, two), warps * 2 * 16 * 8 * 8);
}

#[test]
fn global_traffic() {
    let traffic = |body: &str| count(&format!("{PLACES}{body}"), 1, 64);
    // Two warps. Every fourth word: of each sector of 32 bytes, 8 are used.
    let read = traffic("ld.global.f32 %f1, [%d2];").global_read;
    assert_eq!((read.requests, read.bytes, read.unique_bytes, read.sectors), (2, 256, 256, 2 * 16));
    assert_eq!(read.efficiency(), 0.25);
    let read = traffic("ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%d2];").global_read;
    assert_eq!((read.requests, read.bytes, read.unique_bytes, read.sectors), (2, 1024, 1024, 32));
    assert_eq!(read.efficiency(), 1.0);
    // All threads at one address: counted once.
    let read = traffic("ld.global.f32 %f1, [%d1];").global_read;
    assert_eq!((read.requests, read.bytes, read.unique_bytes, read.sectors), (2, 256, 8, 2));
    let write = traffic("st.global.v2.f32 [%d2+8], {%f1,%f2};").global_write;
    assert_eq!((write.requests, write.bytes, write.unique_bytes, write.sectors), (2, 512, 512, 32));
    assert_eq!(write.efficiency(), 0.5);
    let report = traffic(
        "red.global.add.f32 [%d2], 0f3F800000; setp.lt.u32 %p, %r1, 1; @%p red.global.add.u32 [%d1], 1;",
    );
    let atomic = report.global_atomic;
    assert_eq!((atomic.requests, atomic.bytes, atomic.sectors), (3, 260, 33));
    assert_eq!((report.global_read.requests, report.global_write.requests), (0, 0));
    // A copy reads its source, and writes shared memory.
    let report = traffic("cp.async.cg.shared.global [%r2], [%d2], 16; cp.async.wait_all;");
    assert_eq!((report.global_read.bytes, report.global_read.sectors), (1024, 32));
    assert_eq!((report.shared_write.requests, report.shared_write.bytes), (2, 1024));
}

#[test]
fn shared_and_local_traffic() {
    let report = count(&format!("{PLACES}st.shared.f32 [%r2], %f1; ld.shared.f32 %f2, [%r2];"), 1, 64);
    // Words four apart: eight banks serve the 32 lanes, four each.
    let (read, write) = (report.shared_read, report.shared_write);
    assert_eq!((write.requests, write.bytes, write.wavefronts, write.bank_conflicts), (2, 256, 8, 6));
    assert_eq!(read, write);
    // Two neighbours at each word: 16 words, one pass.
    let pairs = format!(
        "{PLACES}shr.u32 %r4, %r1, 1; mad.lo.u32 %r4, %r4, 4, %r3; st.shared.v4.f32 [%r2], {{%f1,%f1,%f1,%f1}}; \
                         bar.sync 0; ld.shared.u8 %r5, [%r4];"
    );
    let read = count(&pairs, 1, 32).shared_read;
    assert_eq!((read.requests, read.bytes, read.wavefronts, read.bank_conflicts), (1, 32, 1, 0));
    let vector = format!("{PLACES}st.shared.v4.f32 [%r2], {{%f1,%f2,%f3,%f4}};");
    let write = count(&vector, 1, 32).shared_write;
    assert_eq!((write.requests, write.bytes, write.wavefronts, write.bank_conflicts), (1, 512, 4, 0));
    let atomic =
        "mov.u32 %r3, s; st.shared.u32 [%r3], 0; bar.warp.sync -1; atom.shared.add.u32 %r4, [%r3], 1;";
    let report = count(atomic, 1, 32);
    assert_eq!((report.shared_atomic.requests, report.shared_atomic.bytes), (1, 128));
    assert_eq!(report.shared_bytes, 4096);
    let report = count("st.local.f64 [l], %g1; ld.local.f64 %g2, [l];", 2, 32);
    assert_eq!(report.local_bytes, 2 * 32 * (8 + 8));
}

#[test]
fn the_parts_of_several_host_threads_are_summed() {
    let body = format!(
        "{PLACES}ld.global.v4.f32 {{%f1,%f2,%f3,%f4}}, [%d2+16384]; st.shared.f32 [%r2], %f1; ld.shared.f32 %f2, [%r2]; \
         bar.sync 0; atom.shared.add.u32 %r4, [%r3], 1; red.global.add.u32 [%d1], 1; st.local.f64 [l], %g1; \
         mov.u32 %r5, %ctaid.x; mad.lo.u32 %r5, %r5, 64, %r1; mul.wide.u32 %d3, %r5, 4; add.u64 %d3, %d3, %d1; \
         st.global.f32 [%d3+64], %f2; mov.b32 %r1, 0; \
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f1,%f2,%f3,%f4}}, {{%r1,%r1,%r1,%r1}}, {{%r1,%r1}}, \
         {{%f1,%f2,%f3,%f4}};"
    );
    let device = Device::new();
    let module = device.load(&kernel(&body));
    let run = |threads: usize| {
        let options = cuda_sim::engine::Options { threads, schedule_seed: Some(3), ..device.options.clone() };
        device.call(&module, "k", 16, 64).arg(device.upload(&[0f32; 8192])).run_with(&options).expect("runs")
    };
    let one = run(1);
    assert_eq!(one, run(4));
    assert!(one.barriers == 16 && one.tensor_operations > 0 && one.global_atomic.bytes == 16 * 256);
}
