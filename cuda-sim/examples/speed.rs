//! How fast the engine interprets: thread-instructions per second on one core, with and without checks.
//!
//! `cargo run --release -p cuda-sim --example speed` (or without `--release`, as the tests run it); one loop alone by its name.

use cuda_sim::engine::{DeviceMemory, Launch, Module, Options, launch};
use std::time::Instant;

/// A loop of `body` around enough iterations, on 256 threads; `%f` and `%r` are there to work with.
fn kernel(name: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry {name}(.param .u64 data)\n{{\n\
         .reg .pred %p; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %rd<8>; .shared .align 16 .b8 s[8192];\n\
         ld.param.u64 %rd1, [data];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
         mov.u64 %rd5, s;\nadd.s64 %rd4, %rd5, %rd2;\nld.global.f32 %f1, [%rd3];\nmov.f32 %f2, %f1;\nmov.f32 %f3, %f1;\n\
         mov.f32 %f4, %f1;\nst.shared.f32 [%rd4], %f1;\nmov.u32 %r2, 0;\nmov.u32 %r3, %r1;\nmov.u32 %r4, 1;\n\
         mov.b64 {{%r15, %r10}}, %rd5;\nmad.lo.u32 %r12, %r1, 16, %r15;\nadd.u32 %r12, %r12, 4096;\n\
         and.b32 %r11, %r1, 31;\nmad.lo.u32 %r11, %r11, 16, %r15;\nbar.sync 0;\nand.b64 %rd6, %rd3, -16;\n\
         L:\n{}add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p, %r2, {};\n@%p bra L;\n\
         bar.sync 0;\nst.global.f32 [%rd3], %f1;\nst.global.u32 [%rd3], %r3;\nret;\n}}\n",
        body.repeat(8),
        if body == TENSOR || body == COPY { 100 } else { 2000 }
    )
}

/// One step of a tensor-core loop: fragments from shared memory, and products.
const TENSOR: &str = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5,%r6,%r7,%r8}, [%r11];\n\
    ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r9,%r10,%r13,%r14}, [%r11];\n\
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f5,%f6,%f7,%f8}, {%r5,%r6,%r7,%r8}, {%r9,%r10}, {%f5,%f6,%f7,%f8};\n\
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f9,%f10,%f11,%f12}, {%r5,%r6,%r7,%r8}, {%r13,%r14}, {%f9,%f10,%f11,%f12};\n";
const COPY: &str = "cp.async.cg.shared.global [%r12], [%rd6], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n\
    add.u32 %r3, %r3, 1;\n";

fn main() {
    let bodies = [
        ("f32", "fma.rn.f32 %f1, %f2, %f3, %f1;\nmul.f32 %f2, %f2, %f3;\nadd.f32 %f4, %f4, %f1;\n"),
        (
            "integer",
            "mad.lo.s32 %r3, %r3, %r4, %r2;\nxor.b32 %r4, %r4, %r3;\nshl.b32 %r5, %r4, 3;\nadd.s32 %r3, %r3, %r5;\n",
        ),
        (
            "shared",
            "ld.shared.f32 %f2, [%rd4];\nfma.rn.f32 %f1, %f2, %f3, %f1;\nst.shared.f32 [%rd4], %f1;\nadd.f32 %f3, %f3, %f1;\n",
        ),
        (
            "global",
            "ld.global.f32 %f2, [%rd3];\nfma.rn.f32 %f1, %f2, %f3, %f1;\nadd.f32 %f4, %f4, %f1;\nmul.f32 %f3, %f3, %f2;\n",
        ),
        ("tensor", TENSOR),
        ("copy", COPY),
        ("barrier", "bar.sync 0;\nadd.u32 %r3, %r3, 1;\nmul.lo.u32 %r4, %r4, %r3;\nxor.b32 %r4, %r4, %r3;\n"),
    ];
    let wanted = std::env::args().nth(1);
    for (name, body) in bodies {
        if wanted.as_deref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let memory = DeviceMemory::new(1 << 24);
        let data = memory.allocate(4096, 16).expect("room");
        memory.fill(data, &1f32.to_le_bytes(), 1024).expect("in bounds");
        let module = Module::load(&kernel(name, body), (9, 0), &memory).expect("the kernel is valid");
        let function = module.function(name).expect("it is there");
        for checks in [false, true] {
            let options = Options { checks, threads: 1, ..Options::default() };
            let parameter = data.to_le_bytes();
            let what = Launch {
                function,
                grid: [1; 3],
                block: [256, 1, 1],
                cluster: None,
                dynamic_shared_bytes: 0,
                parameters: &[&parameter],
            };
            let start = Instant::now();
            let report = launch(&module, &memory, &what, &options).expect("no findings");
            let rate = report.thread_instructions as f64 / start.elapsed().as_secs_f64() / 1e6;
            println!(
                "{name:8} checks {checks:5}: {rate:8.1} million thread-instructions per second and core"
            );
        }
    }
}
