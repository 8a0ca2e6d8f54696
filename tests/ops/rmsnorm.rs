//! Residual add and root-mean-square normalisation, and the gradients of the sum and of the weight.

use asft::backend::{Backend, RMSNORM_PARTS, RmsnormBackward, RmsnormForward, View};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, wide};
use crate::naive;
use crate::reference::rmsnorm::{self, Forward};
use crate::tolerance::{Comparison, RMSNORM_BACKWARD, RMSNORM_DWEIGHT, RMSNORM_FORWARD, RMSNORM_RSTD};

/// T, H.
const CASES: [[usize; 2]; 10] =
    [[1, 1], [1, 16], [3, 33], [65, 96], [130, 64], [4129, 3], [5, 1031], [3, 2048], [2, 4099], [2, 8320]];

const EPSILON: f32 = 1e-5;

/// What is fed to one case.
#[derive(Clone, Copy, Debug)]
struct Case {
    storage: Storage,
    tokens: usize,
    hidden: usize,
    /// Both directions of the residual stream.
    residual: bool,
    /// Add to the weight's gradient.
    accumulate: bool,
}

fn check_case<B: Backend>(backend: &mut B, case: Case) -> Vec<u32> {
    let Case { storage, tokens, hidden, .. } = case;
    let mut device = Device::storing(backend, storage);
    let mut x = storage.normal(1, tokens * hidden);
    if tokens > 2 {
        // A row of zeros, where only epsilon stands below the line, and a large one.
        x[hidden..2 * hidden].fill(0.0);
        x[2 * hidden..3 * hidden].iter_mut().for_each(|x| *x *= 4096.0);
    }
    let residual = case.residual.then(|| {
        let mut residual = storage.normal(2, tokens * hidden);
        residual[..].chunks_exact_mut(hidden).skip(1).take(1).for_each(|row| row.fill(0.0));
        residual
    });
    let weight = storage.normal(3, hidden);
    let sum = residual.as_ref().map(|_| device.store_out(tokens * hidden));
    let (out, rstd) = (device.store_out(tokens * hidden), device.out(tokens));
    let x_view = device.store(&x);
    let weight_view = device.store(&weight);
    let arguments = RmsnormForward {
        x: x_view,
        residual: residual.as_ref().map(|residual| device.store(residual)),
        sum,
        weight: weight_view,
        out,
        rstd,
        hidden,
        epsilon: EPSILON,
    };
    device.backend.rmsnorm_forward(arguments);
    let stream = match (&residual, sum) {
        (Some(residual), Some(sum)) => {
            let added: Vec<f32> = x.iter().zip(residual).map(|(x, r)| x + r).collect();
            let added = storage.rounded(&added);
            assert_eq!(bits(&device.stored(sum)), bits(&added), "{case:?}: one addition, rounded once");
            added
        }
        _ => x,
    };
    let twin = rmsnorm::forward(&wide(&stream), None, &wide(&weight), f64::from(EPSILON));
    let (got_out, got_rstd) = (device.stored(out), device.result::<f32>(rstd));
    check_forward(case, &got_out, &got_rstd, &twin, &stream, &weight);
    check_backward(&mut device, case, &twin, &stream, &weight, &got_rstd);
    device.finish()
}

fn check_forward(case: Case, out: &[f32], rstd: &[f32], twin: &Forward, x: &[f32], weight: &[f32]) {
    let (naive_out, naive_rstd) = naive::rmsnorm(x, weight, EPSILON);
    let name = format!("{case:?}");
    RMSNORM_RSTD.judge(Comparison {
        case: name.clone(),
        n: 1,
        got: rstd,
        exact: &twin.inverse_rms,
        scale: &twin.inverse_rms,
        naive: Some(&naive_rstd),
    });
    let scale: Vec<f64> = twin.out.iter().map(|y| y.abs()).collect();
    let (exact, naive) = (&twin.out, Some(naive_out.as_slice()));
    RMSNORM_FORWARD
        .judge_stored(case.storage, Comparison { case: name, n: 1, got: out, exact, scale: &scale, naive });
}

fn check_backward<B: Backend>(
    device: &mut Device<B>,
    case: Case,
    twin: &Forward,
    x: &[f32],
    weight: &[f32],
    rstd: &[f32],
) {
    let Case { storage, tokens, hidden, .. } = case;
    let dout = storage.normal(4, tokens * hidden);
    let direct = case.residual.then(|| storage.normal(5, tokens * hidden));
    let before = normal(6, hidden);
    let dx = device.store_out(tokens * hidden);
    let dweight = if case.accumulate { device.put(&before) } else { device.out(hidden) };
    let arguments = RmsnormBackward {
        dout: device.store(&dout),
        x: device.store(x),
        weight: device.store(weight),
        rstd: device.put(rstd),
        dresidual: direct.as_ref().map(|direct| device.store(direct)),
        dx,
        dweight: Some(dweight),
        partial: partial(device, hidden),
        accumulate: case.accumulate,
        hidden,
    };
    device.backend.rmsnorm_backward(arguments);
    let (got_dx, got_dweight) = (device.stored(dx), device.result::<f32>(dweight));

    let direct_wide = direct.as_deref().map(wide);
    let (exact_dx, mut exact_dweight) =
        rmsnorm::backward(twin, &wide(weight), &wide(&dout), direct_wide.as_deref());
    let (mut naive_dx, mut naive_dweight) = naive::rmsnorm_backward(&dout, x, weight, rstd);
    let (dx_scale, mut dweight_scale) = scales(twin, x, weight, &dout, direct_wide.as_deref());
    if let Some(direct) = &direct {
        naive_dx.iter_mut().zip(direct).for_each(|(dx, direct)| *dx += direct);
    }
    if case.accumulate {
        for h in 0..hidden {
            exact_dweight[h] += f64::from(before[h]);
            naive_dweight[h] += before[h];
            dweight_scale[h] += f64::from(before[h]).powi(2);
        }
    }
    dweight_scale.iter_mut().for_each(|scale| *scale = scale.sqrt());
    RMSNORM_BACKWARD.judge_stored(
        storage,
        Comparison {
            case: format!("{case:?}"),
            n: 1,
            got: &got_dx,
            exact: &exact_dx,
            scale: &dx_scale,
            naive: Some(&naive_dx),
        },
    );
    RMSNORM_DWEIGHT.judge(Comparison {
        case: format!("{case:?}"),
        n: tokens + usize::from(case.accumulate),
        got: &got_dweight,
        exact: &exact_dweight,
        scale: &dweight_scale,
        naive: Some(&naive_dweight),
    });
}

/// Room for partial sums, which nobody reads but the operation.
fn partial<B: Backend>(device: &mut Device<B>, hidden: usize) -> View {
    let view = device.out(RMSNORM_PARTS * hidden);
    device.scratch(view);
    view
}

/// What is rounded in dx, and the sum of the squared terms of dweight.
fn scales(
    twin: &Forward,
    x: &[f32],
    weight: &[f32],
    dout: &[f32],
    direct: Option<&[f64]>,
) -> (Vec<f64>, Vec<f64>) {
    let hidden = weight.len();
    let (mut dx_scale, mut dweight_scale) = (vec![0.0; x.len()], vec![0.0; hidden]);
    for t in 0..x.len() / hidden {
        let at = |h: usize| t * hidden + h;
        let xhat = |h: usize| f64::from(x[at(h)]) * twin.inverse_rms[t];
        let w = |h: usize| f64::from(dout[at(h)]) * f64::from(weight[h]);
        // The mean, and what its terms of random sign are rounded to.
        let mean = (0..hidden).map(|h| w(h) * xhat(h)).sum::<f64>().abs();
        let terms = (0..hidden).map(|h| (w(h) * xhat(h)).powi(2)).sum::<f64>().sqrt();
        let mean = (mean + terms) / hidden as f64;
        for h in 0..hidden {
            let direct = direct.map_or(0.0, |direct| direct[at(h)].abs());
            dx_scale[at(h)] = direct + twin.inverse_rms[t] * (w(h).abs() + xhat(h).abs() * mean);
            dweight_scale[h] += (f64::from(dout[at(h)]) * xhat(h)).powi(2);
        }
    }
    (dx_scale, dweight_scale)
}

/// Every case with and without residual, replacing and adding.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for [tokens, hidden] in CASES {
        for residual in [false, true] {
            for accumulate in [false, true] {
                all.extend(check_case(backend, Case { storage, tokens, hidden, residual, accumulate }));
            }
        }
    }
    all
}

/// Without a gradient view only dx is computed, and it is the same.
pub fn check_frozen<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let (tokens, hidden) = (3, 20);
    let mut results = Vec::new();
    for frozen in [false, true] {
        let mut device = Device::storing(&mut *backend, storage);
        let (dx, dweight) = (device.store_out(tokens * hidden), device.out(hidden));
        let arguments = RmsnormBackward {
            dout: device.store(&storage.normal(1, tokens * hidden)),
            x: device.store(&storage.normal(2, tokens * hidden)),
            weight: device.store(&storage.normal(3, hidden)),
            rstd: device.put(&[0.9f32, 1.0, 1.1]),
            dresidual: None,
            dx,
            dweight: (!frozen).then_some(dweight),
            partial: partial(&mut device, hidden),
            accumulate: false,
            hidden,
        };
        device.backend.rmsnorm_backward(arguments);
        results.push(bits(&device.stored(dx)));
        if !frozen {
            assert!(device.result::<f32>(dweight).iter().all(|x| x.is_finite()));
        }
        device.finish();
    }
    assert_eq!(results[0], results[1]);
    results.concat()
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    on_every_cpu(Levels::SameBits, |backend| check_frozen(backend, Storage::F32));
}
