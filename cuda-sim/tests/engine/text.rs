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
    let texts = [kernel_file("basics.cu", "sm_80"), kernel_file("matrix.cu", "sm_90")];
    let mut state = 99u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) as usize
    };
    for _ in 0..cases {
        let mut text = texts[random() % 2].clone();
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
