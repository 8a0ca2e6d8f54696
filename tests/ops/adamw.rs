//! AdamW over a run of parameters.

use asft::backend::{Adamw, Backend, View};

use crate::device::{Device, Levels, bits, normal, on_every_cpu, wide};
use crate::reference::adamw::{AdamW, Moments};
use crate::tolerance::{ADAMW_MOMENTS, ADAMW_PARAMETERS, Comparison};

/// Lengths around the blocks of the work.
const LENGTHS: [usize; 6] = [1, 15, 1000, 16_384, 16_385, 40_001];

const LEARNING_RATE: f64 = 1e-2;

/// Gradients of one step: of all sizes, some of them zero, some elements always zero.
fn gradients(step: u64, len: usize) -> Vec<f32> {
    let size = |i: usize| [1.0, 1e-4, 0.0, 1e-9, 30.0][i % 5];
    normal(100 + step, len).iter().enumerate().map(|(i, g)| g * size(i)).collect()
}

/// One parameter tensor and its moments.
#[derive(Clone, Copy)]
struct Views {
    parameters: View,
    first_moment: View,
    second_moment: View,
}

fn update<B: Backend>(
    device: &mut Device<B>,
    views: Views,
    gradients: View,
    state: View,
    twin: AdamW,
    step: u64,
) {
    let Views { parameters, first_moment, second_moment } = views;
    device.backend.adamw(Adamw {
        parameters,
        remainder: None,
        gradients,
        first_moment,
        second_moment,
        scales: None,
        state,
        learning_rate: LEARNING_RATE,
        beta1: twin.beta1,
        beta2: twin.beta2,
        epsilon: twin.epsilon,
        weight_decay: twin.weight_decay,
        step,
        seed: 0,
    });
}

/// `steps` updates from `first` on, against the twin.
fn check_steps<B: Backend>(
    backend: &mut B,
    len: usize,
    [first, steps]: [u64; 2],
    weight_decay: f64,
    clip: f64,
) -> Vec<u32> {
    let case = format!("{len} parameters, steps {first} + {steps}, decay {weight_decay}, clip {clip}");
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay };
    let start = normal(1, len);
    // A run that begins later begins with moments.
    let size = if first == 1 { 0.0 } else { 0.1 };
    let m: Vec<f32> = normal(2, len).iter().map(|m| m * size).collect();
    let v: Vec<f32> = normal(3, len).iter().map(|v| (v * size).powi(2)).collect();
    let mut device = Device::new(backend);
    let views =
        Views { parameters: device.put(&start), first_moment: device.put(&m), second_moment: device.put(&v) };
    let state = device.state(clip, false);
    let mut parameters = wide(&start);
    let mut moments = Moments { m: wide(&m), v: wide(&v) };
    // What has been rounded: the sizes of what was added up, whatever its sign.
    let mut sizes = Moments { m: wide(&m).iter().map(|m| m.abs()).collect(), v: wide(&v) };
    for step in first..first + steps {
        let gradients = gradients(step, len);
        let view = device.put(&gradients);
        update(&mut device, views, view, state, adamw, step);
        let clipped: Vec<f64> = wide(&gradients).iter().map(|g| g * clip).collect();
        adamw.update(step as i32, LEARNING_RATE, &mut parameters, &clipped, &mut moments);
        for (size, gradient) in sizes.m.iter_mut().zip(clipped) {
            *size = adamw.beta1 * *size + (1.0 - adamw.beta1) * gradient.abs();
        }
    }
    sizes.v.clone_from(&moments.v);
    let n = steps as usize;
    for (view, exact, size) in
        [(views.first_moment, &moments.m, &sizes.m), (views.second_moment, &moments.v, &sizes.v)]
    {
        let got: Vec<f32> = device.result(view);
        // Below 1e-30 squares are subnormal numbers or zero.
        let scale: Vec<f64> = size.iter().map(|size| size + 1e-30).collect();
        ADAMW_MOMENTS.judge(Comparison {
            case: case.clone(),
            n,
            got: &got,
            exact,
            scale: &scale,
            naive: None,
        });
    }
    let got: Vec<f32> = device.result(views.parameters);
    // An update is lr times at most a few; its relative error is that of m/sqrt(v), each rounded a few times.
    let scale: Vec<f64> = parameters
        .iter()
        .zip(&start)
        .map(|(p, &start)| p.abs().max(f64::from(start).abs()) + 8.0 * LEARNING_RATE)
        .collect();
    ADAMW_PARAMETERS.judge(Comparison { case, n, got: &got, exact: &parameters, scale: &scale, naive: None });
    device.finish()
}

/// Lengths, first steps and late ones, with and without decay and clipping.
pub fn check<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    for len in LENGTHS {
        all.extend(check_steps(backend, len, [1, 1], 0.1, 1.0));
        all.extend(check_steps(backend, len, [1, 3], 0.0, 0.37));
    }
    all.extend(check_steps(backend, 1000, [1, 40], 0.1, 1.0));
    all.extend(check_steps(backend, 1000, [1_000_000, 3], 0.1, 0.5));
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, check);
}

/// With the flag set nothing moves, and the moments do not either.
pub fn check_bad<B: Backend>(backend: &mut B) -> Vec<u32> {
    let len = 20_000;
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let values = [normal(1, len), normal(2, len), normal(3, len)];
    let mut device = Device::new(backend);
    let [parameters, first_moment, second_moment] = [0, 1, 2].map(|i| device.put(&values[i]));
    let mut poisoned = gradients(1, len);
    poisoned[7] = f32::NAN;
    let gradients = device.put(&poisoned);
    let state = device.state(f64::NAN, true);
    let views = Views { parameters, first_moment, second_moment };
    update(&mut device, views, gradients, state, adamw, 1);
    for (view, before) in [parameters, first_moment, second_moment].into_iter().zip(&values) {
        assert_eq!(bits(&device.result(view)), bits(before));
    }
    device.finish()
}

#[test]
fn does_nothing_while_the_flag_is_set() {
    on_every_cpu(Levels::SameBits, check_bad);
}
