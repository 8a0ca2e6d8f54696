//! AdamW with bf16 parameters: with the remainders that make them f32, with bf16 moments, with 8-bit moments. What the
//! kernels compute is compared bit by bit with the formula in f32 on the host, and stochastic rounding with the twin's; codes
//! are judged by being the nearest ones. Only a GPU keeps such formats.

use asft::backend::cuda::CudaBackend;
use asft::backend::{Adamw, Backend, Element, MOMENT_BLOCK, Scalar, View};
use asft::optim::codes::{Codes, Sign};
use half::bf16;

use crate::counters::{counted, only};
use crate::device::{Device, bits, normal};
use crate::reference::adamw::{Stream, random_bits, round_stochastically};

type Cuda<'b> = Device<'b, CudaBackend>;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    F32,
    Remainder,
    Bf16,
    EightBit,
}

const FORMATS: [Format; 4] = [Format::F32, Format::Remainder, Format::Bf16, Format::EightBit];

/// One run of parameters on the device.
#[derive(Clone, Copy)]
struct Run {
    parameters: View,
    remainder: Option<View>,
    first_moment: View,
    second_moment: View,
    scales: Option<[View; 2]>,
    gradients: View,
    state: View,
}

/// A tensor that begins at a multiple of 256 elements of its arena, as runs of parameters do.
fn place<S: Scalar>(device: &mut Cuda, values: &[S]) -> View {
    // Guards of 256 bytes come first.
    let padding = MOMENT_BLOCK - 256 / S::ELEMENT.bytes();
    let padded = [&vec![<S as bytemuck::Zeroable>::zeroed(); padding], values].concat();
    let view = device.put(&padded).slice(padding..padded.len());
    assert!(view.offset.is_multiple_of(MOMENT_BLOCK));
    view
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

/// Codes and scales of a moment.
fn codes(sign: Sign, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let map = Codes::new(sign);
    let mut codes = vec![0; values.len()];
    let blocks = values.chunks(MOMENT_BLOCK).zip(codes.chunks_mut(MOMENT_BLOCK));
    let scales = blocks.map(|(values, codes)| map.quantise(values, codes)).collect();
    (codes, scales)
}

fn values(sign: Sign, codes: &[u8], scales: &[f32]) -> Vec<f32> {
    let map = Codes::new(sign);
    codes.iter().enumerate().map(|(i, &code)| map.dequantise(code, scales[i / MOMENT_BLOCK])).collect()
}

/// A master weight as the stored bf16 and what it lacks, by the definition: adding them as bit patterns gives the f32.
fn split(value: f32) -> (bf16, u16) {
    if value.is_nan() {
        return (bf16::NAN, 0);
    }
    let bits = i64::from(value.to_bits());
    let high = (bits + 0x8000) / 0x1_0000;
    (bf16::from_bits(high as u16), (bits - high * 0x1_0000) as u16)
}

fn join(high: bf16, low: u16) -> f32 {
    let bits = i64::from(high.to_bits()) * 0x1_0000 + i64::from(low as i16);
    f32::from_bits(bits as u32)
}

impl Format {
    /// The parameters that can be stored, nearest to these.
    fn rounded(self, p: &[f32]) -> Vec<f32> {
        match self {
            Format::F32 | Format::Remainder => p.to_vec(),
            Format::Bf16 | Format::EightBit => to_bf16(p).into_iter().map(bf16::to_f32).collect(),
        }
    }
}

impl Run {
    /// Parameters and moments, rounded to what the format can keep.
    fn new(device: &mut Cuda, format: Format, p: &[f32], m: &[f32], v: &[f32]) -> Self {
        let mut remainder = None;
        let parameters = match format {
            Format::F32 => place(device, p),
            Format::Remainder => {
                let (high, low): (Vec<bf16>, Vec<u16>) = p.iter().map(|&value| split(value)).unzip();
                remainder = Some(place(device, &low));
                place(device, &high)
            }
            Format::Bf16 | Format::EightBit => place(device, &to_bf16(p)),
        };
        let mut scales = None;
        let [first_moment, second_moment] = match format {
            Format::F32 | Format::Remainder => [m, v].map(|moment| place(device, moment)),
            Format::Bf16 => [m, v].map(|moment| place(device, &to_bf16(moment))),
            Format::EightBit => {
                let both = [codes(Sign::Signed, m), codes(Sign::Unsigned, v)];
                scales = Some(both.clone().map(|(_, scales)| device.put(&scales)));
                both.map(|(codes, _)| place(device, &codes))
            }
        };
        let gradients = device.put(&vec![0.0f32; p.len()]);
        device.scratch(gradients);
        let state = device.state(1.0, false);
        Self { parameters, remainder, first_moment, second_moment, scales, gradients, state }
    }

    /// The update with all numbers that matter set.
    fn arguments(&self, step: u64) -> Adamw {
        Adamw {
            parameters: self.parameters,
            remainder: self.remainder,
            gradients: self.gradients,
            first_moment: self.first_moment,
            second_moment: self.second_moment,
            scales: self.scales,
            state: self.state,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step,
            seed: 0x0123_4567_89ab_cdef,
        }
    }

    fn update(&self, device: &mut Cuda, gradients: &[f32], arguments: Adamw) {
        device.backend.write(self.gradients, gradients);
        device.backend.adamw(arguments);
    }

    /// Parameters and moments as the next update reads them.
    fn read(&self, device: &mut Cuda) -> [Vec<f32>; 3] {
        let widen = |values: Vec<bf16>| values.into_iter().map(bf16::to_f32).collect::<Vec<_>>();
        let parameters = match (self.parameters.element, self.remainder) {
            (Element::F32, _) => device.result(self.parameters),
            (_, None) => widen(device.result(self.parameters)),
            (_, Some(remainder)) => {
                let (high, low) = (device.result(self.parameters), device.result(remainder));
                high.into_iter().zip(low).map(|(high, low)| join(high, low)).collect()
            }
        };
        let [m, v] = [(self.first_moment, 0, Sign::Signed), (self.second_moment, 1, Sign::Unsigned)].map(
            |(view, index, sign)| match (view.element, self.scales) {
                (Element::Bf16, _) => widen(device.result(view)),
                (_, None) => device.result(view),
                (_, Some(scales)) => values(sign, &device.result::<u8>(view), &device.result(scales[index])),
            },
        );
        [parameters, m, v]
    }
}

/// The update in f32, rounded where the kernels say they round.
fn expected(arguments: Adamw, clip: f32, [p, m, v]: &[Vec<f32>; 3], gradients: &[f32]) -> [Vec<f32>; 3] {
    let f = arguments.factors();
    let [mut p, mut m, mut v] = [p.clone(), m.clone(), v.clone()];
    for i in 0..p.len() {
        let g = gradients[i] * clip;
        m[i] = m[i].mul_add(f.beta1, g * f.rest1);
        v[i] = v[i].mul_add(f.beta2, g * (g * f.rest2));
        p[i] = p[i] * f.keep - m[i] / (v[i].sqrt() / f.correction + f.epsilon) * f.step_size;
    }
    [p, m, v]
}

/// Stochastic rounding of a whole run by the twin.
fn rounded(arguments: Adamw, values: &[f32], stream: Stream) -> Vec<f32> {
    let element = |i: usize| (arguments.parameters.offset + i) as u64;
    let round = |i: usize| {
        round_stochastically(values[i], random_bits(arguments.seed, arguments.step, element(i), stream))
    };
    (0..values.len()).map(|i| bf16::from_bits(round(i)).to_f32()).collect()
}

/// Gradients of all sizes, some of them zero.
fn gradients(step: u64, len: usize) -> Vec<f32> {
    let size = |i: usize| [1.0, 1e-4, 0.0, 1e-9, 30.0][(i + step as usize) % 5];
    normal(100 + step, len).iter().enumerate().map(|(i, g)| g * size(i)).collect()
}

/// Moments that a run may have come to.
fn moments(len: usize) -> [Vec<f32>; 2] {
    let m: Vec<f32> = normal(2, len).iter().map(|m| 0.1 * m).collect();
    let v = normal(3, len).iter().map(|v| (0.1 * v).powi(2)).collect();
    [m, v]
}

/// Bit patterns around every boundary of the split: ties, carries into the exponent, subnormal and infinite values, NaN.
fn special_values() -> Vec<f32> {
    let highs = [0x0000, 0x0001, 0x007f, 0x0080, 0x3f7f, 0x3f80, 0x3fff, 0x7f7f, 0x7f80, 0x7f81, 0x7fc0u32];
    let lows = [0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffffu32];
    let signs = [0, 0x8000_0000u32];
    let all = highs.iter().flat_map(|high| lows.map(|low| high << 16 | low));
    all.flat_map(|bits| signs.map(|sign| f32::from_bits(bits | sign))).collect()
}

/// Bits in which every NaN is the same one.
fn comparable(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

/// Thousands of steps on master weights that are split are those on f32 ones, bit by bit.
pub fn check_remainder(backend: &mut CudaBackend) -> Vec<u32> {
    let mut device = Device::new(backend);
    let p = [special_values(), normal(1, 401)].concat();
    let zeros = vec![0.0; p.len()];
    let [split, whole] =
        [Format::Remainder, Format::F32].map(|format| Run::new(&mut device, format, &p, &zeros, &zeros));
    for step in 1..=2500 {
        // 25 different ones are random enough.
        let gradients = gradients(step % 25, p.len());
        split.update(&mut device, &gradients, split.arguments(step));
        whole.update(&mut device, &gradients, whole.arguments(step));
        if step == 1 || step % 500 == 0 {
            let [got, expected] =
                [split, whole].map(|run| run.read(&mut device).map(|values| comparable(&values)));
            assert!(got == expected, "other bits after step {step}");
            // What the model computes with is NaN, too.
            let stored: Vec<bf16> = device.result(split.parameters);
            let joined = got[0].iter().map(|&bits| f32::from_bits(bits).is_nan());
            assert!(stored.iter().map(|p| p.is_nan()).eq(joined), "step {step}: NaN in one half only");
        }
    }
    device.finish()
}

/// Every format against the formula and the twin's rounding; lengths around blocks, late steps, clipping, no decay.
pub fn check_formula(backend: &mut CudaBackend) -> Vec<u32> {
    let mut all = Vec::new();
    for format in FORMATS {
        for len in [1, 3, 127, 130, 255, 256, 257, 511, 1029, 5000] {
            all.extend(check_steps(backend, format, len, 1, 1.0));
        }
        all.extend(check_steps(backend, format, 700, 5_000_000_000, 0.37));
    }
    all
}

fn check_steps(backend: &mut CudaBackend, format: Format, len: usize, first: u64, clip: f64) -> Vec<u32> {
    let case = format!("{format:?}, {len} parameters from step {first}");
    let mut device = Device::new(backend);
    let [m, v] = moments(len);
    let mut run = Run::new(&mut device, format, &normal(1, len), &m, &v);
    run.state = device.state(clip, false);
    let mut before = run.read(&mut device);
    for step in first..first + 4 {
        let arguments = Adamw { weight_decay: if step % 2 == 0 { 0.0 } else { 0.1 }, ..run.arguments(step) };
        let gradients = gradients(step, len);
        run.update(&mut device, &gradients, arguments);
        let [p, m, v] = expected(arguments, clip as f32, &before, &gradients);
        let got = run.read(&mut device);
        let rounded = |values: &[f32], stream| bits(&rounded(arguments, values, stream));
        let (parameters, exact) = (bits(&got[0]), matches!(format, Format::F32 | Format::Remainder));
        let expected = if exact { bits(&p) } else { rounded(&p, Stream::Parameter) };
        assert!(parameters == expected, "{case}: other parameters after step {step}");
        match format {
            Format::F32 | Format::Remainder => {
                assert!(bits(&got[1]) == bits(&m) && bits(&got[2]) == bits(&v), "{case}: step {step}");
            }
            Format::Bf16 => {
                assert!(bits(&got[1]) == rounded(&m, Stream::First), "{case}: first moments, step {step}");
                assert!(bits(&got[2]) == rounded(&v, Stream::Second), "{case}: second moments, step {step}");
            }
            Format::EightBit => {
                judge_codes(&mut device, run, [&m, &v], &format!("{case}, step {step}"));
            }
        }
        before = got;
    }
    device.finish()
}

/// Scales are the elements of largest magnitude, codes the nearest ones, and quantising again changes neither.
fn judge_codes(device: &mut Cuda, run: Run, exact: [&[f32]; 2], case: &str) {
    let scales = run.scales.unwrap();
    let moments =
        [(run.first_moment, scales[0], Sign::Signed), (run.second_moment, scales[1], Sign::Unsigned)];
    for ((view, scales, sign), exact) in moments.into_iter().zip(exact) {
        let (got, scales): (Vec<u8>, Vec<f32>) = (device.result(view), device.result(scales));
        let again = codes(sign, &values(sign, &got, &scales));
        assert!(got == again.0 && bits(&scales) == bits(&again.1), "{case}: {sign:?} quantised again");
        let map = Codes::new(sign);
        for (block, (exact, got)) in exact.chunks(MOMENT_BLOCK).zip(got.chunks(MOMENT_BLOCK)).enumerate() {
            let largest = exact.iter().fold(0.0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
            assert_eq!(scales[block].to_bits(), largest.to_bits(), "{case}: scale of block {block}");
            for (&exact, &code) in exact.iter().zip(got) {
                let share = f64::from(exact) / f64::from(scales[block]);
                let distance = |value: f32| (f64::from(value) - share).abs();
                // Two values of one distance, within rounding, are both nearest.
                let limit =
                    1e-6 * share.abs() + map.values().iter().fold(2.0, |a: f64, &b| a.min(distance(b)));
                let kept_from_zero = sign == Sign::Unsigned && code == 1 && share > 0.0;
                let value = map.values()[usize::from(code)];
                assert!(
                    distance(value) <= limit || kept_from_zero,
                    "{case}: {sign:?} code {code} ({value}) for {share}"
                );
                assert!(
                    sign == Sign::Signed || (code == 0) == (share == 0.0),
                    "{case}: code {code}, {share}"
                );
            }
        }
    }
}

/// The same bits whether a run is updated in one call or in several.
pub fn check_cuts(backend: &mut CudaBackend) -> Vec<u32> {
    let len = 3000;
    let mut device = Device::new(backend);
    for format in FORMATS {
        let ([m, v], p, gradients) = (moments(len), normal(1, len), gradients(1, len));
        let [whole, cut] = [0, 1].map(|_| Run::new(&mut device, format, &p, &m, &v));
        whole.update(&mut device, &gradients, whole.arguments(1));
        device.backend.write(cut.gradients, &gradients);
        for range in [0..256, 256..1792, 1792..len] {
            let blocks = range.start / MOMENT_BLOCK..range.end.div_ceil(MOMENT_BLOCK);
            let all = cut.arguments(1);
            device.backend.adamw(Adamw {
                parameters: all.parameters.slice(range.clone()),
                remainder: all.remainder.map(|view| view.slice(range.clone())),
                gradients: all.gradients.slice(range.clone()),
                first_moment: all.first_moment.slice(range.clone()),
                second_moment: all.second_moment.slice(range.clone()),
                scales: all.scales.map(|views| views.map(|view| view.slice(blocks.clone()))),
                ..all
            });
        }
        let [whole, cut] = [whole, cut].map(|run| run.read(&mut device).map(|values| bits(&values)));
        assert!(whole == cut, "{format:?}: other bits in three calls");
    }
    device.finish()
}

/// With the flag set nothing moves, whatever is kept.
pub fn check_bad(backend: &mut CudaBackend) -> Vec<u32> {
    let len = 1000;
    let mut device = Device::new(backend);
    for format in FORMATS {
        let [m, v] = moments(len);
        let mut run = Run::new(&mut device, format, &normal(1, len), &m, &v);
        run.state = device.state(f64::NAN, true);
        let before = run.read(&mut device).map(|values| bits(&values));
        run.update(&mut device, &vec![f32::NAN; len], run.arguments(1));
        assert!(run.read(&mut device).map(|values| bits(&values)) == before, "{format:?}");
    }
    device.finish()
}

/// An update of nothing leaves every bf16 as it is, infinities and NaN too; and one that ends between two of them ends on
/// the upper one as often as it is near.
pub fn check_rounding(backend: &mut CudaBackend) -> Vec<u32> {
    let mut device = Device::new(backend);
    for format in [Format::Bf16, Format::EightBit] {
        let all: Vec<f32> = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).collect();
        let zeros = vec![0.0; all.len()];
        let run = Run::new(&mut device, format, &all, &zeros, &zeros);
        let still = Adamw { learning_rate: 0.0, ..run.arguments(1) };
        run.update(&mut device, &zeros, still);
        let [p, m, v] = run.read(&mut device);
        for (got, expected) in p.iter().zip(&all) {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{format:?}: {expected:e} has become {got:e}");
        }
        assert!(m.iter().chain(&v).all(|&moment| moment == 0.0));
        // lr of 1/128 moves 1 down by as much; the distance of bf16 below 1 is 1/256.
        for share in [0.001, 0.25, 0.5, 0.9] {
            let len = 1 << 15;
            let run = Run::new(&mut device, format, &vec![1.0; len], &vec![0.0; len], &vec![0.0; len]);
            let arguments =
                Adamw { learning_rate: share / 256.0, weight_decay: 0.0, epsilon: 0.0, ..run.arguments(1) };
            run.update(&mut device, &vec![1.0; len], arguments);
            let moved = run.read(&mut device)[0].iter().filter(|&&p| p < 1.0).count();
            let (mean, deviation) = (share * len as f64, (share * (1.0 - share) * len as f64).sqrt());
            let off = (moved as f64 - mean) / deviation;
            println!("{format:?}, share {share}: {moved} of {len} moved, {off:.2} deviations from the mean");
            assert!(off.abs() < 4.0, "{format:?}: {moved} of {len} moved at {share}");
        }
    }
    device.finish()
}

/// A small second moment beside large ones is not taken for zero, which would throw its parameter out of all bounds.
pub fn check_small_beside_large(backend: &mut CudaBackend) -> Vec<u32> {
    let mut device = Device::new(backend);
    let len = 256;
    let run = Run::new(&mut device, Format::EightBit, &vec![0.0; len], &vec![0.0; len], &vec![0.0; len]);
    let large = |i: usize| i.is_multiple_of(2);
    for step in 1..=6 {
        let gradient = |i: usize| {
            if large(i) {
                1.0
            } else if step <= 3 {
                1e-5
            } else {
                0.0
            }
        };
        let gradients: Vec<f32> = (0..len).map(gradient).collect();
        run.update(&mut device, &gradients, Adamw { weight_decay: 0.0, ..run.arguments(step) });
    }
    let p = &run.read(&mut device)[0];
    let furthest = p.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    // Six steps of 0.01 at most, and roundings.
    assert!(furthest <= 0.07, "a parameter has gone {furthest}");
    device.finish()
}

/// The sum of h (p - target)^2 / 2 over many p, to be minimised from 0.5 beside each target.
struct Quadratic {
    curvature: Vec<f32>,
    target: Vec<f32>,
}

impl Quadratic {
    const STEPS: u64 = 400;

    fn new(len: usize) -> Self {
        let target = normal(5, len).iter().map(|t| t + 2.0 * t.signum()).collect();
        Self { curvature: normal(6, len).iter().map(|h| h.exp()).collect(), target }
    }

    fn start(&self) -> Vec<f32> {
        self.target.iter().map(|t| t - 0.5 * t.signum()).collect()
    }

    fn gradients(&self, p: &[f32]) -> Vec<f32> {
        let distances = p.iter().zip(&self.target).map(|(p, target)| p - target);
        distances.zip(&self.curvature).map(|(distance, h)| h * distance).collect()
    }

    /// The loss as a share of that at the start.
    fn left(&self, p: &[f32]) -> f64 {
        let loss = |p: &[f32]| -> f64 {
            let distances = p.iter().zip(&self.target).map(|(p, target)| f64::from(p - target).powi(2));
            distances.zip(&self.curvature).map(|(square, &h)| f64::from(h) * square).sum()
        };
        loss(p) / loss(&self.start())
    }

    /// Every step is smaller than half the distance of two bf16 where the parameters are; all of them go 0.6.
    fn arguments(run: Run, step: u64) -> Adamw {
        let learning_rate = 3e-3 * (1.0 - (step - 1) as f64 / Self::STEPS as f64);
        Adamw { learning_rate, weight_decay: 0.0, ..run.arguments(step) }
    }
}

/// Every format gets to the minimum as f32 does; bf16 parameters rounded to nearest stay where they are.
pub fn check_minimises(backend: &mut CudaBackend) -> Vec<u32> {
    let mut device = Device::new(backend);
    let quadratic = Quadratic::new(768);
    let zeros = vec![0.0; quadratic.target.len()];
    let [f32, remainder, bf16, eight_bit] = FORMATS.map(|format| {
        let run = Run::new(&mut device, format, &quadratic.start(), &zeros, &zeros);
        let mut p = run.read(&mut device)[0].clone();
        for step in 1..=Quadratic::STEPS {
            run.update(&mut device, &quadratic.gradients(&p), Quadratic::arguments(run, step));
            p.clone_from(&run.read(&mut device)[0]);
        }
        quadratic.left(&p)
    });
    let run = Run::new(&mut device, Format::Bf16, &zeros, &zeros, &zeros);
    let mut state = [Format::Bf16.rounded(&quadratic.start()), zeros.clone(), zeros.clone()];
    for step in 1..=Quadratic::STEPS {
        let gradients = quadratic.gradients(&state[0]);
        state = expected(Quadratic::arguments(run, step), 1.0, &state, &gradients);
        state[0] = Format::Bf16.rounded(&state[0]);
    }
    let nearest = quadratic.left(&state[0]);
    println!("left of the loss: f32 {f32:e}, bf16 {bf16:e}, 8-bit {eight_bit:e}, to nearest {nearest:e}");
    assert_eq!(remainder, f32);
    assert!(f32 < 1e-3 && bf16 < 5e-3 && eight_bit < 5e-3, "the minimum has not been reached");
    assert!(nearest > 0.5, "rounding to nearest would have done");
    device.finish()
}

#[test]
fn moves_its_minimum() {
    let len = 1 << 16;
    let work = |backend: &mut CudaBackend| {
        let mut device = Device::new(backend);
        for format in FORMATS {
            let [m, v] = moments(len);
            let run = Run::new(&mut device, format, &normal(1, len), &m, &v);
            run.update(&mut device, &normal(4, len), run.arguments(1));
            run.read(&mut device);
        }
    };
    counted("adamw_formats::moves_its_minimum", work, |_, launches| {
        let bytes = [("f32", 28.0), ("remainder", 28.0), ("bf16", 16.0), ("8bit", 12.0 + 16.0 / 256.0)];
        for (name, bytes) in bytes {
            let launch = only(launches, &format!("adamw_{name}"));
            launch.moves_its_minimum((bytes * len as f64) as u64);
            assert_eq!((launch.local_bytes, launch.global_atomic_requests), (0, 0), "{name}");
        }
    });
}
