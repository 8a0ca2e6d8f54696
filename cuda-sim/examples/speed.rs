//! How fast the engine interprets: thread-instructions per second on one core, with and without checks.
//!
//! `cargo run --release -p cuda-sim --example speed` (or without `--release`, as the tests run it).

use cuda_sim::engine::{DeviceMemory, Launch, Module, Options, launch};
use std::time::Instant;

/// A loop of `body` around enough iterations, on 256 threads; `%f` and `%r` are there to work with.
fn kernel(name: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry {name}(.param .u64 data)\n{{\n\
         .reg .pred %p; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %rd<8>; .shared .align 16 .b8 s[4096];\n\
         ld.param.u64 %rd1, [data];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
         mov.u64 %rd5, s;\nadd.s64 %rd4, %rd5, %rd2;\nld.global.f32 %f1, [%rd3];\nmov.f32 %f2, %f1;\nmov.f32 %f3, %f1;\n\
         mov.f32 %f4, %f1;\nst.shared.f32 [%rd4], %f1;\nmov.u32 %r2, 0;\nmov.u32 %r3, %r1;\nmov.u32 %r4, 1;\n\
         L:\n{}add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p, %r2, 2000;\n@%p bra L;\n\
         st.global.f32 [%rd3], %f1;\nst.global.u32 [%rd3], %r3;\nret;\n}}\n",
        body.repeat(8)
    )
}

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
    ];
    for (name, body) in bodies {
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
