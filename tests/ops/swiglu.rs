//! silu(gate) * up, and its gradient.

use asft::backend::{Backend, SwigluBackward, SwigluForward};

use crate::device::{Device, Levels, Storage, on_every_cpu, wide};
use crate::reference::swiglu;
use crate::tolerance::{Comparison, SWIGLU_BACKWARD, SWIGLU_FORWARD};

/// T, F: more than one block of a row among them, in pieces and value by value.
const CASES: [[usize; 2]; 7] = [[1, 1], [1, 17], [3, 16], [65, 33], [67, 200], [2, 2312], [3, 1031]];

/// Gates beyond which exp leaves the range of f32, where silu is 0 or its argument; and zero of both signs.
const EXTREME: [f32; 12] =
    [0.0, -0.0, 1e-20, -1.278_464_6, 20.0, -20.0, 60.0, -60.0, 87.0, -87.0, 300.0, -300.0];

/// Absolute part of a scale: below it f32 rounds to subnormal numbers or to zero.
const UNDERFLOW: f64 = 1e-30;

fn check_case<B: Backend>(
    backend: &mut B,
    storage: Storage,
    gate: &[f32],
    up: &[f32],
    width: usize,
) -> Vec<u32> {
    let dout = storage.normal(3, gate.len());
    let side_by_side = |left: &[f32], right: &[f32]| -> Vec<f32> {
        left.chunks_exact(width).zip(right.chunks_exact(width)).flat_map(|(l, r)| [l, r].concat()).collect()
    };
    let mut device = Device::storing(backend, storage);
    let gate_up = device.store(&side_by_side(gate, up));
    let (out, dgate_up) = (device.store_out(gate.len()), device.store_out(2 * gate.len()));
    let dout_view = device.store(&dout);
    device.backend.swiglu_forward(SwigluForward { gate_up, out, feed_forward: width });
    device.backend.swiglu_backward(SwigluBackward {
        gate_up,
        dout: dout_view,
        dgate_up,
        feed_forward: width,
    });

    let case = format!("{} x {width} {storage:?}", gate.len() / width);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let exact = swiglu::forward(&wide(gate), &wide(up));
    let naive: Vec<f32> = gate.iter().zip(up).map(|(&g, u)| g * sigmoid(g) * u).collect();
    SWIGLU_FORWARD.judge_stored(
        storage,
        Comparison {
            case: case.clone(),
            n: 1,
            got: &device.stored(out),
            exact: &exact,
            scale: &exact.iter().map(|y| y.abs() + UNDERFLOW).collect::<Vec<_>>(),
            naive: Some(&naive),
        },
    );

    let (dgate, dup) = swiglu::backward(&wide(gate), &wide(up), &wide(&dout));
    let interleave = |left: &[f64], right: &[f64]| -> Vec<f64> {
        left.chunks_exact(width).zip(right.chunks_exact(width)).flat_map(|(l, r)| [l, r].concat()).collect()
    };
    let dgate_scale: Vec<f64> = (0..gate.len())
        .map(|i| {
            let (g, s) = (f64::from(gate[i]), 1.0 / (1.0 + f64::from(-gate[i]).exp()));
            f64::from(dout[i] * up[i]).abs() * s * (1.0 + g.abs()) + UNDERFLOW
        })
        .collect();
    let dup_scale: Vec<f64> = dup.iter().map(|d| d.abs() + UNDERFLOW).collect();
    let naive_dgate: Vec<f32> = (0..gate.len())
        .map(|i| dout[i] * up[i] * sigmoid(gate[i]) * (1.0 + gate[i] * (1.0 - sigmoid(gate[i]))))
        .collect();
    let naive_dup: Vec<f32> = (0..gate.len()).map(|i| dout[i] * gate[i] * sigmoid(gate[i])).collect();
    SWIGLU_BACKWARD.judge_stored(
        storage,
        Comparison {
            case,
            n: 1,
            got: &device.stored(dgate_up),
            exact: &interleave(&dgate, &dup),
            scale: &interleave(&dgate_scale, &dup_scale),
            naive: Some(&side_by_side(&naive_dgate, &naive_dup)),
        },
    );
    device.finish()
}

/// Random gates of all sizes, and the extremes.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for [tokens, width] in CASES {
        let gate: Vec<f32> = storage.normal(1, tokens * width).iter().map(|g| 4.0 * g).collect();
        all.extend(check_case(backend, storage, &gate, &storage.normal(2, tokens * width), width));
    }
    let extreme = storage.rounded(&EXTREME);
    all.extend(check_case(backend, storage, &extreme, &storage.normal(4, extreme.len()), extreme.len()));
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}

/// What is not a number stays so, and stays in its element. Which NaN it is, is nobody's business: no bits are compared.
pub fn check_nan<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut device = Device::storing(backend, storage);
    // Three and eight wide: value by value, and in pieces.
    for width in [3, 8] {
        let mut values = vec![1.0; 2 * width];
        (values[0], values[2 * width - 1]) = (f32::NAN, f32::NAN);
        let (gate_up, dout) = (device.store(&values), device.store(&vec![1.0; width]));
        let (out, dgate_up) = (device.store_out(width), device.store(&vec![0.0; 2 * width]));
        device.backend.swiglu_forward(SwigluForward { gate_up, out, feed_forward: width });
        device.backend.swiglu_backward(SwigluBackward { gate_up, dout, dgate_up, feed_forward: width });
        let nan =
            |values: Vec<f32>| -> Vec<usize> { (0..values.len()).filter(|&i| values[i].is_nan()).collect() };
        assert_eq!(nan(device.stored(out)), [0, width - 1]);
        // dgate is dout * up * silu'(gate), dup is dout * silu(gate).
        assert_eq!(nan(device.stored(dgate_up)), [0, width - 1, width]);
    }
    device.finish();
    vec![0]
}

#[test]
fn nan_stays_where_it_is() {
    on_every_cpu(Levels::OwnBits, |backend| check_nan(backend, Storage::F32));
}
