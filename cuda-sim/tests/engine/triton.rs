//! Programs that no part of this project wrote the PTX of: Triton's output for `tests/corpus/triton_kernels.py`, run with all
//! checks on and compared with plain loops in f64.

use crate::harness::{Call, Device};
use cuda_sim::engine::Module;
use half::bf16;
use std::path::Path;

struct Compiled {
    module: Module,
    shared: u32,
    warps: u32,
}

fn compiled(device: &Device, name: &str) -> Compiled {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/corpus/triton/{name}.ptx"));
    let text = std::fs::read_to_string(path).expect("the corpus is part of the project");
    let words: Vec<&str> = text.lines().next().unwrap_or("").split(' ').collect();
    let after = |word: &str| {
        let at = words.iter().position(|other| *other == word).expect("the first line says so");
        words[at + 1].parse().expect("a number")
    };
    Compiled { shared: after("shared"), warps: after("warps"), module: device.load(&text) }
}

impl Compiled {
    fn call<'d>(&'d self, device: &'d Device, name: &str, grid: [u32; 2]) -> Call<'d> {
        device.call(&self.module, name, grid, 32 * self.warps).shared(self.shared)
    }
}

/// Numbers between -1 and 1 that are exact in bf16.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_f32()
        })
        .collect()
}

fn bits(values: &[f32]) -> Vec<u16> {
    values.iter().map(|value| bf16::from_f32(*value).to_bits()).collect()
}

fn close(got: &[u16], expected: &[f64], tolerance: f64) {
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let got = bf16::from_bits(*got).to_f64();
        let bound = tolerance * expected.abs().max(0.1);
        assert!((got - expected).abs() <= bound, "element {index}: {got}, not {expected}");
    }
}

/// Half a unit in the last place of bf16.
const ROUNDING: f64 = 1.0 / 256.0;

#[test]
fn products() {
    let device = Device::new();
    // No multiples of the tiles, so that every mask matters.
    let (m, n, k) = (100usize, 72usize, 48usize);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let expected: Vec<f64> = (0..m * n)
        .map(|i| (0..k).map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n])).sum())
        .collect();
    for (name, tile) in [("matmul_bf16", 64), ("matmul_f32", 32)] {
        let compiled = compiled(&device, name);
        let (a_address, b_address) = match name {
            "matmul_bf16" => (device.upload(&bits(&a)), device.upload(&bits(&b))),
            _ => (device.upload(&a), device.upload(&b)),
        };
        let out = device.room::<u16>(m * n);
        let grid = [m.div_ceil(tile) as u32, n.div_ceil(tile) as u32];
        let sizes = [m, n, k, k, n, n].map(|size| size as i32);
        let call = compiled.call(&device, "matmul", grid).args(&[a_address, b_address, out]);
        let report = call.args(&sizes).args(&[0u64, 0]).ok();
        close(&device.download::<u16>(out, m * n), &expected, ROUNDING);
        assert!(name == "matmul_f32" || report.tensor_operations > 0, "tensor cores were meant to be used");
    }
}

#[test]
fn causal_attention() {
    let device = Device::new();
    let (t, d) = (128usize, 64usize);
    let (q, k, v) = (numbers(t * d, 3), numbers(t * d, 4), numbers(t * d, 5));
    let scale = 0.125 * std::f32::consts::LOG2_E;
    let compiled = compiled(&device, "attention");
    let inputs = [&q, &k, &v].map(|values| device.upload(&bits(values)));
    let out = device.room::<u16>(t * d);
    let call = compiled.call(&device, "attention", [t as u32 / 64, 1]).args(&inputs).arg(out);
    call.arg(scale).arg(t as i32).args(&[0u64, 0]).ok();
    let dot =
        |i: usize, j: usize| (0..d).map(|x| f64::from(q[i * d + x]) * f64::from(k[j * d + x])).sum::<f64>();
    let mut expected = Vec::new();
    for i in 0..t {
        let weights: Vec<f64> = (0..=i).map(|j| (dot(i, j) * f64::from(scale)).exp2()).collect();
        let total: f64 = weights.iter().sum();
        expected.extend((0..d).map(|x| {
            weights.iter().enumerate().map(|(j, w)| w / total * f64::from(v[j * d + x])).sum::<f64>()
        }));
    }
    // The weights themselves are rounded to bf16 before the second product.
    close(&device.download::<u16>(out, t * d), &expected, 4.0 * ROUNDING);
}

#[test]
fn rmsnorm_and_swiglu() {
    let device = Device::new();
    let (rows, n) = (3usize, 1000usize);
    let (x, w) = (numbers(rows * n, 6), numbers(n, 7));
    let compiled_norm = compiled(&device, "rmsnorm");
    let out = device.room::<u16>(rows * n);
    let call = compiled_norm.call(&device, "rmsnorm", [rows as u32, 1]);
    let call =
        call.args(&[out, device.upload(&bits(&x)), device.upload(&bits(&w))]).arg(n as i32).arg(1e-5f32);
    let report = call.args(&[0u64, 0]).ok();
    let expected: Vec<f64> = (0..rows * n)
        .map(|i| {
            let row = &x[i / n * n..][..n];
            let square = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
            f64::from(x[i]) / (square + 1e-5).sqrt() * f64::from(w[i % n])
        })
        .collect();
    close(&device.download::<u16>(out, rows * n), &expected, ROUNDING);
    // Every element is read once and written once, and the weights once per row.
    assert_eq!((report.global_read.bytes, report.global_write.bytes), (12_000, 6_000));

    let compiled_swiglu = compiled(&device, "swiglu");
    let call = compiled_swiglu.call(&device, "swiglu", [3, 1]);
    let gate: Vec<f32> = x.iter().map(|v| v * 4.0).collect();
    let up = numbers(rows * n, 8);
    let call =
        call.args(&[device.upload(&bits(&gate)), device.upload(&bits(&up)), out]).arg((rows * n) as i32);
    call.args(&[0u64, 0]).ok();
    let expected: Vec<f64> = gate
        .iter()
        .zip(&up)
        .map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u))
        .collect();
    close(&device.download::<u16>(out, rows * n), &expected, ROUNDING);
}
