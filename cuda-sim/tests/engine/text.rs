//! Bad PTX: an error with its place, never a panic.

use crate::harness::{Device, have_nvrtc, kernel_file};
use cuda_sim::engine::{DeviceMemory, Module, PtxErrorKind};
use proptest::prelude::proptest;

const HEADER: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

fn load(text: &str) -> Result<Module, cuda_sim::engine::PtxError> {
    Module::load(text, (9, 0), &DeviceMemory::new(1 << 24))
}

fn body(text: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<4>; .reg .pred %p; .reg .f32 %f; .reg .b64 %d;\n{text}\nret;\n}}\n"
    )
}

#[test]
fn errors_have_their_place() {
    let cases = [
        ("add.s32 %r1, %r2;", "3 operands expected, 2 found", PtxErrorKind::Semantic),
        ("add.s32 %r1, %r2, %r9;", "`%r9` is not declared", PtxErrorKind::Semantic),
        ("add.s32 %r1, %r2, %d;", "64 bits", PtxErrorKind::Semantic),
        ("add.s32.banana %r1, %r2, %r3;", "`.banana` is not supported", PtxErrorKind::Unsupported),
        ("frobnicate.s32 %r1, %r2;", "`frobnicate.s32`", PtxErrorKind::Unsupported),
        ("bra nowhere;", "no label `nowhere`", PtxErrorKind::Semantic),
        ("add.s32 %r1, %r2, ;", "expected an operand", PtxErrorKind::Syntax),
        ("mov.u32 %r1, 99999999999999999999;", "does not fit into 64 bits", PtxErrorKind::Syntax),
        ("@%r1 bra nowhere;", "", PtxErrorKind::Semantic),
        ("ld.shared.u32 %r1, [k];", "", PtxErrorKind::Semantic),
        ("wgmma.fence.sync.aligned;", "wgmma", PtxErrorKind::Unsupported),
        ("mbarrier.init.shared.b64 [%r1], 1;", "mbarrier", PtxErrorKind::Unsupported),
        ("setmaxnreg.inc.sync.aligned.u32 64;", "setmaxnreg", PtxErrorKind::Unsupported),
        ("cp.async.bulk.commit_group;", "bulk", PtxErrorKind::Unsupported),
    ];
    for (text, message, kind) in cases {
        let error = load(&body(text)).expect_err(text);
        assert_eq!((error.line, error.kind), (7, kind), "{text}: {error}");
        assert!(error.column >= 1 && error.message.contains(message), "{text}: {error}");
    }
}

/// What `ptxas` of CUDA 12.9 says of each: the oldest of sm_80, sm_90 and sm_100 that it takes the instruction for.
const OLDEST_TARGETS: &[(u32, &str)] = &[
    (90, "mapa.u64 %d1,%d2,%r1"),
    (90, "mapa.shared::cluster.u32 %r1,%r2,%r3"),
    (90, "getctarank.u64 %r1,%d1"),
    (90, "barrier.cluster.arrive"),
    (90, "barrier.cluster.wait"),
    (80, "barrier.sync.aligned 0"),
    (90, "elect.sync %r1|%p1,%r2"),
    (90, "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1],{%r2}"),
    (80, "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2},[%r1]"),
    (80, "movmatrix.sync.aligned.m8n8.trans.b16 %r1,%r2"),
    (90, "griddepcontrol.wait"),
    (90, "ld.shared::cluster.u32 %r1,[%r2]"),
    (80, "ld.shared::cta.u32 %r1,[%r2]"),
    (90, "isspacep.shared::cluster %p1,%d1"),
    (90, "ld.relaxed.cluster.u32 %r1,[%d1]"),
    (90, "fence.acq_rel.cluster"),
    (80, "fence.acq_rel.gpu"),
    (90, "atom.global.cluster.add.u32 %r1,[%d1],%r2"),
    (90, "mov.u32 %r1,%cluster_ctarank"),
    (90, "mov.u32 %r1,%nclusterid.x"),
    (90, "mov.u32 %r1,%aggr_smem_size"),
    (80, "mov.u32 %r1,%dynamic_smem_size"),
    (90, "add.rn.bf16 %h1,%h2,%h3"),
    (90, "sub.bf16 %h1,%h2,%h3"),
    (90, "mul.bf16x2 %r1,%r2,%r3"),
    (80, "fma.rn.bf16x2 %r1,%r2,%r3,%r1"),
    (80, "fma.rn.relu.bf16 %h1,%h2,%h3,%h1"),
    (80, "max.NaN.bf16x2 %r1,%r2,%r3"),
    (80, "abs.bf16 %h1,%h2"),
    (90, "setp.lt.bf16 %p1,%h1,%h2"),
    (80, "setp.lt.f16 %p1,%h1,%h2"),
    (90, "set.lt.u32.bf16 %r1,%h1,%h2"),
    (90, "ex2.approx.ftz.bf16 %h1,%h2"),
    (80, "ex2.approx.f16 %h1,%h2"),
    (90, "tanh.approx.bf16 %h1,%h2"),
    (80, "tanh.approx.f16 %h1,%h2"),
    (80, "cvt.rn.bf16.f32 %h1,%f1"),
    (80, "cvt.rn.bf16x2.f32 %r1,%f1,%f2"),
    (80, "cvt.rz.bf16.f32 %h1,%f1"),
    (80, "cvt.f32.bf16 %f1,%h1"),
    (80, "cvt.rna.tf32.f32 %r1,%f1"),
    (90, "cvt.rn.tf32.f32 %r1,%f1"),
    (90, "cvt.rn.bf16.s32 %h1,%r1"),
    (90, "cvt.rzi.s32.bf16 %r1,%h1"),
    (90, "cvt.rn.bf16.f16 %h1,%h2"),
    (90, "cvt.f64.bf16 %d1,%h1"),
    (90, "atom.global.add.noftz.bf16x2 %r1,[%d1],%r2"),
    (80, "atom.global.add.noftz.f16x2 %r1,[%d1],%r2"),
    (90, "red.global.add.v2.f32 [%d1],{%f1,%f2}"),
    (80, "atom.global.add.f32 %f1,[%d1],%f2"),
    (80, "redux.sync.add.s32 %r1,%r2,%r3"),
    (90, "min.relu.s32 %r1,%r2,%r3"),
    (90, "min.s16x2 %r1,%r2,%r3"),
    (90, "min.xorsign.abs.f32 %f1,%f2,%f3"),
    (80, "min.NaN.f32 %f1,%f2,%f3"),
    (100, "ld.global.v8.b32 {%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8},[%d1]"),
    (100, "ld.global.v4.b64 {%d1,%d2,%d3,%d4},[%d1]"),
    (80, "ld.global.v2.b64 {%d1,%d2},[%d1]"),
    (80, "cp.async.ca.shared.global [%r1],[%d1],4"),
];

#[test]
fn instructions_of_a_later_target_are_refused() {
    let mut refused = 0;
    for (oldest, instruction) in OLDEST_TARGETS {
        for target in [80, 90, 100] {
            let text = format!(
                ".version 8.8\n.target sm_{target}\n.address_size 64\n.visible .entry k()\n{{\n.reg .pred %p<3>; \
                 .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %d<9>;\n{instruction};\nret;\n}}\n"
            );
            match Module::load(&text, (10, 0), &DeviceMemory::new(1 << 20)) {
                Ok(_) => assert!(target >= *oldest, "{instruction} on sm_{target}"),
                // What is not executed at all is refused everywhere.
                Err(error) if error.kind == PtxErrorKind::Unsupported => {
                    assert!(*oldest == 100, "{error}");
                }
                Err(error) => {
                    assert!(target < *oldest, "{instruction} on sm_{target}: {error}");
                    assert!(error.message.contains("needs the target sm_"), "{error}");
                    assert_eq!((error.line, error.kind), (7, PtxErrorKind::Semantic), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 30, "only {refused} were refused");
}

#[test]
fn modules_for_other_devices_are_refused() {
    for (target, runs) in
        [("sm_80", true), ("sm_90", true), ("sm_90a", true), ("sm_100", false), ("sm_89", true)]
    {
        let text = body("").replace("sm_80", target);
        match load(&text) {
            Ok(_) => assert!(runs, "{target}"),
            Err(error) => assert!(!runs && error.kind == PtxErrorKind::Target, "{target}: {error}"),
        }
    }
    let memory = DeviceMemory::new(1 << 20);
    assert!(Module::load(&body("").replace("sm_80", "sm_90a"), (10, 0), &memory).is_err());
    assert!(load("\x7fELF\u{2}\u{1}\u{1}").is_err());
    assert!(load("").is_err());
}

#[test]
fn registers_stay_within_the_launch_bounds() {
    let lines = |line: &dyn Fn(usize) -> String| (0..60).map(line).collect::<String>();
    let loads = lines(&|i| format!("ld.global.u32 %r{i}, [%d+{}];\n", 4 * i));
    let stores = lines(&|i| format!("st.global.u32 [%d+{}], %r{i};\n", 4 * i));
    // 60 numbers and an address are alive at once. A multiprocessor has 65,536 registers.
    for (bounds, range) in [
        ("", 62..=255),
        (".maxntid 256, 1, 1\n.minnctapersm 2", 62..=128),
        (".maxntid 1024, 1, 1\n.minnctapersm 2", 32..=32),
        (".maxntid 100, 10, 1", 62..=64),
        (".reqntid 512\n.minnctapersm 3", 40..=40),
        (".maxnreg 24", 24..=24),
    ] {
        let text = format!(
            "{HEADER}.visible .entry k(.param .u64 p)\n{bounds}\n{{\n.reg .b32 %r<60>; .reg .b64 %d;\n\
             ld.param.u64 %d, [p];\n{loads}{stores}ret;\n}}\n"
        );
        let module = load(&text).expect("valid");
        let registers = module.attributes(module.function("k").expect("declared")).registers;
        assert!(range.contains(&registers), "{bounds}: {registers}");
    }
}

#[test]
fn globals_are_placed_and_freed() {
    let memory = DeviceMemory::new(1 << 20);
    let text =
        format!("{HEADER}.visible .global .align 4 .u32 numbers[3] = {{1, 2}};\n.const .f32 half = 0.5;\n");
    let module = Module::load(&text, (8, 0), &memory).expect("valid");
    let (address, bytes) = module.global("numbers").expect("declared");
    let mut content = [0xff; 12];
    memory.read(address, &mut content).expect("in bounds");
    assert_eq!((bytes, content), (12, [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]));
    let (address, _) = module.global("half").expect("declared");
    memory.read(address, &mut content[..4]).expect("in bounds");
    assert_eq!(content[..4], 0.5f32.to_le_bytes());
    assert!(memory.info().0 < 1 << 20);
    drop(module);
    assert_eq!(memory.info().0, 1 << 20);
}

/// Cutting, doubling and exchanging pieces of a valid text, and changing single bytes.
fn mutate(text: &str, kind: u8, at: usize, length: usize, byte: u8) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = at % bytes.len();
    let end = (at + length % 40).min(bytes.len());
    match kind % 4 {
        0 => drop(bytes.drain(at..end)),
        1 => bytes[at] = byte & 0x7f,
        2 => {
            let piece = bytes[at..end].to_vec();
            let to = (at * 7 + length) % bytes.len();
            bytes.splice(to..to, piece);
        }
        _ => bytes.truncate(at),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_a_module(text in "(\\.|[a-z0-9%@{}\\[\\](),;:+|!<> \n\"_-]){0,200}") {
        let _ = load(&text);
        let _ = load(&body(&text));
    }
}

/// Minutes of this: `CUDA_SIM_FUZZ_CASES=1000000 cargo test -p cuda-sim --test engine fuzz`.
#[test]
fn fuzz_of_real_programs() {
    if !have_nvrtc() {
        return;
    }
    let cases: u64 = std::env::var("CUDA_SIM_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let triton = |name: &str| {
        let path = format!("{}/tests/corpus/triton/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("the corpus is part of the project")
    };
    let texts = [
        kernel_file("basics.cu", "sm_80"),
        kernel_file("matrix.cu", "sm_90"),
        triton("rmsnorm"),
        triton("swiglu"),
    ];
    let mut state = 99u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) as usize
    };
    for _ in 0..cases {
        let mut text = texts[random() % texts.len()].clone();
        for _ in 0..1 + random() % 4 {
            text = mutate(&text, random() as u8, random(), random(), random() as u8);
            if text.is_empty() {
                break;
            }
        }
        let _ = load(&text);
    }
}

#[test]
fn launches_are_refused_before_anything_runs() {
    let device = Device::new();
    let module = device.load(&body("").replace("\n{\n", "\n.maxntid 128, 1, 1\n{\n"));
    let call = |grid: u32, block: u32| device.call(&module, "k", grid, block);
    assert!(call(1, 128).arg(0u64).run().is_ok());
    for (call, message) in [
        (call(1, 129).arg(0u64), "at most 128"),
        (call(0, 32).arg(0u64), "0 blocks"),
        (call(1, 32), "0 parameters"),
        (call(1, 32).arg(0u32), "4 bytes, 8 are expected"),
        (call(1, 32).arg(0u64).shared(228 * 1024), "shared memory"),
    ] {
        let error = call.run().expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}
