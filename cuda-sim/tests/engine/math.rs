//! CUDA's math functions, which are long programs of f32, f64 and integer instructions, against the host's.
//!
//! Bounds in units in the last place: what the CUDA programming guide states for these functions (appendix "Mathematical
//! Functions"), plus one for the host's own error.

use crate::harness::{Device, have_nvrtc, kernel_file};

/// Distance in representable numbers.
fn ulps_32(a: f32, b: f32) -> u32 {
    let key = |v: f32| {
        if v.is_sign_negative() { -((v.to_bits() & 0x7fff_ffff) as i64) } else { i64::from(v.to_bits()) }
    };
    if a.is_nan() && b.is_nan() { 0 } else { (key(a) - key(b)).unsigned_abs() as u32 }
}

fn ulps_64(a: f64, b: f64) -> u64 {
    let key = |v: f64| {
        if v.is_sign_negative() { -((v.to_bits() & (u64::MAX >> 1)) as i128) } else { v.to_bits() as i128 }
    };
    if a.is_nan() && b.is_nan() { 0 } else { (key(a) - key(b)).unsigned_abs() as u64 }
}

/// Name in f32 and f64, the host's function, the bounds of the guide.
type Function = (&'static str, &'static str, fn(f64) -> f64, u32, u64);

const FUNCTIONS: [Function; 17] = [
    ("sinf", "sin", f64::sin, 2, 2),
    ("cosf", "cos", f64::cos, 2, 2),
    ("tanf", "tan", f64::tan, 4, 2),
    ("expf", "exp", f64::exp, 2, 1),
    ("exp2f", "exp2", f64::exp2, 2, 1),
    ("expm1f", "expm1", f64::exp_m1, 1, 1),
    ("logf", "log", f64::ln, 1, 1),
    ("log2f", "log2", f64::log2, 1, 1),
    ("log10f", "log10", f64::log10, 2, 1),
    ("log1pf", "log1p", f64::ln_1p, 1, 1),
    ("sinhf", "sinh", f64::sinh, 3, 2),
    ("coshf", "cosh", f64::cosh, 2, 1),
    ("tanhf", "tanh", f64::tanh, 2, 1),
    ("atanf", "atan", f64::atan, 2, 2),
    ("cbrtf", "cbrt", f64::cbrt, 1, 1),
    ("sqrtf", "sqrt", f64::sqrt, 0, 0),
    ("asinhf", "asinh", f64::asinh, 4, 3),
];

#[test]
fn math_functions_are_as_accurate_as_cuda_states() {
    if !have_nvrtc() {
        return;
    }
    let device = Device::new();
    let module = device.load(&kernel_file("math.cu", "sm_80"));
    // From tiny to large enough for the slow path of argument reduction, with both signs.
    let inputs: Vec<f64> = (0..256)
        .map(|i| {
            let magnitude = f64::powf(10.0, f64::from(i % 128) / 128.0 * 14.0 - 7.0);
            f64::from((if i < 128 { magnitude } else { -magnitude }) as f32)
        })
        .collect();
    let narrow: Vec<f32> = inputs.iter().map(|value| *value as f32).collect();
    let (x32, x64) = (device.upload(&narrow), device.upload(&inputs));
    let (y32, y64) = (device.room::<f32>(256), device.room::<f64>(256));
    for (single, double, host, bound_32, bound_64) in FUNCTIONS {
        device.call(&module, &format!("f_{single}"), 1, 256).args(&[x32, y32]).ok();
        device.call(&module, &format!("d_{double}"), 1, 256).args(&[x64, y64]).ok();
        for (x, y) in narrow.iter().zip(device.download::<f32>(y32, 256)) {
            let expected = host(f64::from(*x)) as f32;
            assert!(
                ulps_32(y, expected) <= bound_32 + 1,
                "{single}({x:e}) = {y:e}, the host has {expected:e}"
            );
        }
        for (x, y) in inputs.iter().zip(device.download::<f64>(y64, 256)) {
            let expected = host(*x);
            // The host's asinh of large negative numbers cancels; its error is not ours.
            let exact_enough = double != "asinh" || x.abs() < 1e3;
            assert!(
                !exact_enough || ulps_64(y, expected) <= bound_64 + 1,
                "{double}({x:e}) = {y:e}, the host has {expected:e}"
            );
        }
    }
}
