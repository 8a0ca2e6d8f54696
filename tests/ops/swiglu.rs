//! silu(gate) * up, and its gradient.

use asft::backend::{Backend, SwigluBackward, SwigluForward};

use crate::device::{Device, Levels, normal, on_every_cpu, wide};
use crate::reference::swiglu;
use crate::tolerance::{Comparison, SWIGLU_BACKWARD, SWIGLU_FORWARD};

/// T, F.
const CASES: [[usize; 2]; 5] = [[1, 1], [1, 17], [3, 16], [65, 33], [67, 200]];

/// Gates beyond which exp leaves the range of f32, where silu is 0 or its argument; and zero of both signs.
const EXTREME: [f32; 12] =
    [0.0, -0.0, 1e-20, -1.278_464_6, 20.0, -20.0, 60.0, -60.0, 87.0, -87.0, 300.0, -300.0];

/// Absolute part of a scale: below it f32 rounds to subnormal numbers or to zero.
const UNDERFLOW: f64 = 1e-30;

fn check_case<B: Backend>(backend: &mut B, gate: &[f32], up: &[f32], width: usize) -> Vec<u32> {
    let dout = normal(3, gate.len());
    let side_by_side = |left: &[f32], right: &[f32]| -> Vec<f32> {
        left.chunks_exact(width).zip(right.chunks_exact(width)).flat_map(|(l, r)| [l, r].concat()).collect()
    };
    let mut device = Device::new(backend);
    let gate_up = device.put(&side_by_side(gate, up));
    let (out, dgate_up) = (device.out(gate.len()), device.out(2 * gate.len()));
    let dout_view = device.put(&dout);
    device.backend.swiglu_forward(SwigluForward { gate_up, out, feed_forward: width });
    device.backend.swiglu_backward(SwigluBackward {
        gate_up,
        dout: dout_view,
        dgate_up,
        feed_forward: width,
    });

    let case = format!("{} x {width}", gate.len() / width);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let exact = swiglu::forward(&wide(gate), &wide(up));
    let naive: Vec<f32> = gate.iter().zip(up).map(|(&g, u)| g * sigmoid(g) * u).collect();
    SWIGLU_FORWARD.judge(Comparison {
        case: case.clone(),
        n: 1,
        got: &device.result::<f32>(out),
        exact: &exact,
        scale: &exact.iter().map(|y| y.abs() + UNDERFLOW).collect::<Vec<_>>(),
        naive: Some(&naive),
    });

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
    SWIGLU_BACKWARD.judge(Comparison {
        case,
        n: 1,
        got: &device.result::<f32>(dgate_up),
        exact: &interleave(&dgate, &dup),
        scale: &interleave(&dgate_scale, &dup_scale),
        naive: Some(&side_by_side(&naive_dgate, &naive_dup)),
    });
    device.finish()
}

/// Random gates of all sizes, and the extremes.
pub fn check<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    for [tokens, width] in CASES {
        let gate: Vec<f32> = normal(1, tokens * width).iter().map(|g| 4.0 * g).collect();
        all.extend(check_case(backend, &gate, &normal(2, tokens * width), width));
    }
    all.extend(check_case(backend, &EXTREME, &normal(4, EXTREME.len()), EXTREME.len()));
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, check);
}

/// What is not a number stays so, and stays in its element.
pub fn check_nan<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut device = Device::new(backend);
    let gate_up = device.put(&[f32::NAN, 1.0, 1.0, 2.0, 2.0, f32::NAN]);
    let dout = device.put(&[1.0f32, 1.0, 1.0]);
    let (out, dgate_up) = (device.out(3), device.put(&[0.0f32; 6]));
    device.backend.swiglu_forward(SwigluForward { gate_up, out, feed_forward: 3 });
    device.backend.swiglu_backward(SwigluBackward { gate_up, dout, dgate_up, feed_forward: 3 });
    let nan = |values: &[f32]| values.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
    assert_eq!(nan(&device.result::<f32>(out)), [true, false, true]);
    // dgate is dout * up * silu'(gate), dup is dout * silu(gate).
    let expected = [true, false, true, true, false, false];
    assert_eq!(nan(&device.result::<f32>(dgate_up)), expected);
    device.finish()
}

#[test]
fn nan_stays_where_it_is() {
    // Which NaN it is, is nobody's business: no bits are compared.
    on_every_cpu(Levels::OwnBits, |backend| {
        check_nan(backend);
        vec![0]
    });
}
