//! Target logits, and the row kernel: log-probs, log-sum-exp, argmax and the unit gradient.

use asft::backend::{Backend, HeadRows, SecondTargets, TargetLogits};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, wide};
use crate::naive;
use crate::reference::head;
use crate::reference::{dot, normal as normal_f64};
use crate::tolerance::{Comparison, HEAD_LOGP, HEAD_LSE, HEAD_UNIT_GRADIENT, TARGET_LOGITS};

/// R, V.
const CASES: [[usize; 2]; 6] = [[1, 5], [3, 2], [65, 512], [33, 640], [67, 1031], [2, 4096]];
/// The vocabulary of Llama 3; and one of which a quarter in f32 is more than a block's shared memory.
const LARGE: [[usize; 2]; 2] = [[2, 128_256], [1, 240_000]];

/// Where logits and unit gradients are, and how they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    logits: Storage,
    unit: Storage,
    beside: bool,
}

impl Kept {
    /// The unit gradient takes the logits' place.
    pub fn in_place(storage: Storage) -> Self {
        Self { logits: storage, unit: storage, beside: false }
    }

    /// Logits in f32, the unit gradient as it is stored in a place of its own.
    pub fn beside(storage: Storage) -> Self {
        Self { logits: Storage::F32, unit: storage, beside: true }
    }
}

/// What the row kernel leaves.
struct Rows {
    logp: Vec<f32>,
    lse: Vec<f32>,
    argmax: Vec<u32>,
    unit: Vec<f32>,
}

/// Runs the row kernel on `logits [R, V]`, whose targets' own entries, in full precision, go in beside them; in their place
/// stands `own`, or what storing them leaves.
fn run<B: Backend>(
    backend: &mut B,
    kept: Kept,
    logits: &[f32],
    targets: &[u32],
    write_gradient: bool,
    own: Option<f32>,
) -> (Rows, Vec<u32>) {
    run_two(backend, kept, logits, (targets, None), write_gradient, own)
}

/// The same where rows may have a second target, and the first one a weight.
fn run_two<B: Backend>(
    backend: &mut B,
    kept: Kept,
    logits: &[f32],
    (targets, second): (&[u32], Option<(&[u32], &[f32])>),
    write_gradient: bool,
    own: Option<f32>,
) -> (Rows, Vec<u32>) {
    let vocabulary = logits.len() / targets.len();
    let second_at = |r: usize| r * vocabulary + second.unwrap().0[r] as usize;
    let at = |r: usize| r * vocabulary + targets[r] as usize;
    let target_logits: Vec<f32> = (0..targets.len()).map(|r| logits[at(r)]).collect();
    let mut rows = kept.logits.rounded(logits);
    if let Some(own) = own {
        (0..targets.len()).for_each(|r| rows[at(r)] = own);
        (0..second.map_or(0, |(ids, _)| ids.len())).for_each(|r| rows[second_at(r)] = own);
    }
    let logits_of_all = logits;
    let mut device = Device::storing(backend, kept.unit);
    let logits = if kept.beside { device.put(&rows) } else { device.store(&rows) };
    let unit = if kept.beside { device.store_out(rows.len()) } else { logits };
    let (logp, lse) = (device.out(targets.len()), device.out(targets.len()));
    let argmax = device.put(&vec![u32::MAX; targets.len()]);
    let arguments = HeadRows {
        logits,
        unit: write_gradient.then_some(unit),
        target_logits: device.put(&target_logits),
        targets: device.put(targets),
        second: second.map(|(ids, weights)| SecondTargets {
            targets: device.put(ids),
            logits: device.put(&(0..ids.len()).map(|r| logits_of_all[second_at(r)]).collect::<Vec<_>>()),
            weights: device.put(weights),
        }),
        logp,
        lse,
        argmax,
        vocabulary,
    };
    device.backend.head_rows(arguments);
    let (logp, lse, argmax) = (device.result(logp), device.result(lse), device.result(argmax));
    let gradient = if write_gradient { device.stored(unit) } else { Vec::new() };
    device.scratch(logits);
    (Rows { logp, lse, argmax, unit: gradient }, device.finish())
}

/// Random logits that can be stored, times `size`; those of the targets in full precision.
fn random(kept: Kept, size: f32, vocabulary: usize, targets: &[u32]) -> Vec<f32> {
    let exact: Vec<f32> = normal(1, targets.len() * vocabulary).iter().map(|z| z * size).collect();
    let mut logits = kept.logits.rounded(&exact);
    for (r, &target) in targets.iter().enumerate() {
        let at = r * vocabulary + target as usize;
        logits[at] = exact[at];
    }
    logits
}

/// Mean distance of the others' logits from the maximum, weighted as they weigh in the sum: an exponential of a rounded
/// difference is off by that difference's rounding.
fn spread(z: &[f32], target: usize) -> f64 {
    let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let others = || z.iter().enumerate().filter(|&(v, _)| v != target).map(|(_, &z)| f64::from(largest - z));
    others().map(|d| d * (-d).exp()).sum::<f64>() / others().map(|d| (-d).exp()).sum::<f64>()
}

fn check_rows<B: Backend>(backend: &mut B, kept: Kept, logits: &[f32], targets: &[u32]) -> Vec<u32> {
    let vocabulary = logits.len() / targets.len();
    let case = format!("R {}, V {vocabulary}, {kept:?}", targets.len());
    let plain: Vec<_> = targets.iter().map(|&target| head::plain(target)).collect();
    let twin = head::rows(&wide(logits), vocabulary, &plain);
    let (got, bits) = run(backend, kept, logits, targets, true, None);
    let argmax: Vec<u32> = twin.iter().map(|row| row.argmax).collect();
    assert_eq!(got.argmax, argmax, "{case}");

    let rows = || logits.chunks_exact(vocabulary).zip(targets).map(|(z, &target)| (z, target as usize));
    let spreads: Vec<f64> = rows().map(|(z, target)| 1.0 + spread(z, target)).collect();
    let naive: Vec<_> = rows().map(|(z, target)| naive::head_row(z, target)).collect();
    let exact: Vec<f64> = twin.iter().map(|row| row.logp).collect();
    HEAD_LOGP.judge(Comparison {
        case: case.clone(),
        n: 1,
        got: &got.logp,
        exact: &exact,
        scale: &exact.iter().zip(&spreads).map(|(e, s)| e.abs() * s).collect::<Vec<_>>(),
        naive: Some(&naive.iter().map(|row| row.0).collect::<Vec<_>>()),
    });
    let exact: Vec<f64> = twin.iter().map(|row| row.lse).collect();
    HEAD_LSE.judge(Comparison {
        case: case.clone(),
        n: 1,
        got: &got.lse,
        exact: &exact,
        scale: &exact.iter().zip(&spreads).map(|(e, s)| e.abs() + s).collect::<Vec<_>>(),
        naive: Some(&naive.iter().map(|row| row.1).collect::<Vec<_>>()),
    });
    let exact: Vec<f64> = twin.iter().flat_map(|row| row.unit_gradient.clone()).collect();
    let mut scale = Vec::new();
    for ((z, target), (row, spread)) in rows().zip(twin.iter().zip(&spreads)) {
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scale.extend((0..vocabulary).map(|v| {
            let distance = if v == target { *spread } else { f64::from(largest - z[v]) + spread };
            // exp is 0 where it would be subnormal.
            row.unit_gradient[v].abs() * (1.0 + distance) + 1e-30
        }));
    }
    HEAD_UNIT_GRADIENT.judge_stored(
        kept.unit,
        Comparison {
            case,
            n: 1,
            got: &got.unit,
            exact: &exact,
            scale: &scale,
            naive: Some(&naive.iter().flat_map(|row| row.2.clone()).collect::<Vec<_>>()),
        },
    );
    bits
}

fn check_kept<B: Backend>(backend: &mut B, kept: Kept, cases: &[[usize; 2]], sizes: &[f32]) -> Vec<u32> {
    let mut all = Vec::new();
    for &[rows, vocabulary] in cases {
        for &size in sizes {
            let targets: Vec<u32> = (0..rows)
                .map(|r| if r % 3 == 1 { vocabulary - 1 } else { (r * 37) % vocabulary } as u32)
                .collect();
            let logits = random(kept, size, vocabulary, &targets);
            all.extend(check_rows(backend, kept, &logits, &targets));
        }
    }
    all
}

/// Rows of ordinary logits, flat ones and peaked ones; the first and the last id among the targets.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    check_kept(backend, Kept::in_place(storage), &CASES, &[0.01, 1.0, 8.0])
}

#[test]
fn rows_equal_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}

/// The same with f32 logits and the unit gradient beside them.
pub fn check_beside<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    check_kept(backend, Kept::beside(storage), &CASES[2..], &[1.0, 8.0])
}

/// Weights of the first of two targets.
const WEIGHTS: [f32; 6] = [0.5, 0.0, 1.0, 0.296_875, 5.960_464_5e-8, 0.970_703_1];

/// Two targets a row: ids side by side, far apart, in one piece of 16 bytes, the same twice, the first and the last.
fn second_targets(targets: &[u32], vocabulary: usize) -> Vec<u32> {
    let other = |(r, &target): (usize, &u32)| match r % 5 {
        0 => (target as usize + 1) % vocabulary,
        1 => 0,
        2 => target as usize,
        3 => vocabulary - 1,
        _ => (target as usize + vocabulary / 2) % vocabulary,
    };
    targets.iter().enumerate().map(|pair| other(pair) as u32).collect()
}

fn check_two_kept<B: Backend>(
    backend: &mut B,
    kept: Kept,
    [rows, vocabulary]: [usize; 2],
    size: f32,
) -> Vec<u32> {
    let targets: Vec<u32> = (0..rows).map(|r| ((r * 37) % vocabulary) as u32).collect();
    let second = second_targets(&targets, vocabulary);
    let weights: Vec<f32> = (0..rows).map(|r| WEIGHTS[r % WEIGHTS.len()]).collect();
    let mut logits = random(kept, size, vocabulary, &targets);
    // In full precision, as the first ones are.
    let exact: Vec<f32> = normal(1, rows * vocabulary).iter().map(|z| z * size).collect();
    for (r, &id) in second.iter().enumerate() {
        logits[r * vocabulary + id as usize] = exact[r * vocabulary + id as usize];
    }
    let twin_targets: Vec<head::Target> = (0..rows)
        .map(|r| vec![(targets[r], f64::from(weights[r])), (second[r], 1.0 - f64::from(weights[r]))])
        .collect();
    let twin = head::rows(&wide(&logits), vocabulary, &twin_targets);
    let (got, bits_of_all) =
        run_two(backend, kept, &logits, (&targets, Some((&second, &weights))), true, Some(f32::NAN));
    let rounding = if kept.unit == Storage::Bf16 { 1.0 / 256.0 } else { 0.0 };
    for (r, row) in twin.iter().enumerate() {
        let case = format!("V {vocabulary}, {kept:?}, size {size}, row {r}, k {}", weights[r]);
        let z = &logits[r * vocabulary..][..vocabulary];
        let spread = 1.0 + spread(z, targets[r] as usize);
        let near = |got: f32, exact: f64, scale: f64| (f64::from(got) - exact).abs() <= scale;
        assert!(
            near(got.logp[r], row.logp, 2e-7 * spread * row.logp.abs()),
            "{case}: {} {}",
            got.logp[r],
            row.logp
        );
        assert!(
            near(got.lse[r], row.lse, 2e-7 * (spread + row.lse.abs())),
            "{case}: {} {}",
            got.lse[r],
            row.lse
        );
        assert_eq!(got.argmax[r], row.argmax, "{case}");
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for v in 0..vocabulary {
            let (unit, exact) = (got.unit[r * vocabulary + v], row.unit_gradient[v]);
            // A target's own element is a difference of two shares of this size.
            let p = (f64::from(z[v]) - row.lse).exp();
            let size = if v as u32 == targets[r] || v as u32 == second[r] {
                p.max(exact.abs())
            } else {
                exact.abs()
            };
            let distance = f64::from(largest - z[v]) + spread;
            let limit = 2.5e-7 * (1.0 + distance) * size + rounding * exact.abs() + 1e-30;
            assert!(near(unit, exact, limit), "{case}: gradient {v} is {unit:e}, not {exact:e}");
        }
    }
    check_one_of_two(backend, kept, &logits, &targets);
    bits_of_all
}

/// One target that is named twice, whatever its weight: the bits of a row with one target, beside rows with two.
fn check_one_of_two<B: Backend>(backend: &mut B, kept: Kept, logits: &[f32], targets: &[u32]) {
    let vocabulary = logits.len() / targets.len();
    let (one, _) = run(backend, kept, logits, targets, true, None);
    let mut second = targets.to_vec();
    (0..targets.len()).step_by(2).for_each(|r| second[r] = (targets[r] + 1) % vocabulary as u32);
    let weights: Vec<f32> = (0..targets.len()).map(|r| WEIGHTS[r % WEIGHTS.len()]).collect();
    let (two, _) = run_two(backend, kept, logits, (targets, Some((&second, &weights))), true, None);
    for r in (1..targets.len()).step_by(2) {
        let unit = r * vocabulary..(r + 1) * vocabulary;
        assert_eq!(bits(&one.logp[r..=r]), bits(&two.logp[r..=r]), "row {r}");
        assert_eq!(bits(&one.lse[r..=r]), bits(&two.lse[r..=r]), "row {r}");
        assert_eq!(one.argmax[r], two.argmax[r], "row {r}");
        assert_eq!(bits(&one.unit[unit.clone()]), bits(&two.unit[unit]), "row {r}");
    }
}

/// Rows with two targets.
pub fn check_two<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for case in [[1, 5], [7, 2], [31, 640], [13, 1031]] {
        for size in [0.01, 1.0, 8.0] {
            all.extend(check_two_kept(backend, Kept::in_place(storage), case, size));
        }
    }
    all
}

/// The same with f32 logits and the unit gradient beside them.
pub fn check_two_beside<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    check_two_kept(backend, Kept::beside(storage), [31, 640], 3.0)
}

#[test]
fn two_targets_equal_the_twin_and_one_named_twice_is_one() {
    on_every_cpu(Levels::SameBits, |backend| check_two(backend, Storage::F32));
}

/// Vocabularies of the size of Llama 3's.
pub fn check_large<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = check_kept(backend, Kept::in_place(storage), &LARGE, &[2.0]);
    all.extend(check_kept(backend, Kept::beside(storage), &LARGE[..1], &[2.0]));
    all
}

/// 1 - p from 1/2 to 1e-12: log-prob and unit gradient keep their relative precision, which the naive form loses.
pub fn check_near_one<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let kept = Kept::in_place(storage);
    // What storing adds to the error of an element.
    let rounding = if storage == Storage::Bf16 { 1.0 / 256.0 } else { 0.0 };
    let mut all = Vec::new();
    for vocabulary in [5, 512, 1031] {
        for rest in [0.5, 1e-2, 1e-4, 1e-6, 1e-9, 1e-12] {
            let target = vocabulary as u32 / 2;
            // The others share `rest` unevenly.
            let mut z = storage.normal(vocabulary as u64, vocabulary);
            z[target as usize] = f32::NEG_INFINITY;
            let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
            z[target as usize] = (sum * (1.0 - rest) / rest).ln() as f32;
            let twin = &head::rows(&wide(&z), vocabulary, &[head::plain(target)])[0];
            let (got, bits) = run(backend, kept, &z, &[target], true, None);
            let off = |got: f32, exact: f64| (f64::from(got) - exact).abs() / exact.abs();
            let case = format!("V {vocabulary}, 1 - p = {rest:e}");
            assert!((twin.logp / -rest.ln_1p()).abs() > 0.3, "{case}: the row is not what it should be");
            assert!(off(got.logp[0], twin.logp) < 1e-5, "{case}: log-prob {} not {}", got.logp[0], twin.logp);
            for v in 0..vocabulary {
                let (got, exact) = (got.unit[v], twin.unit_gradient[v]);
                assert!(off(got, exact) < 1e-5 + rounding, "{case}: gradient {v} is {got} not {exact}");
            }
            let naive = off(naive::head_row(&z, target as usize).0, twin.logp);
            assert!(rest > 1e-6 || naive > 1e-3, "{case}: naive is off by {naive:e} only: nothing is shown");
            println!("{case}: off by {:.1e}, naive by {naive:.1e}", off(got.logp[0], twin.logp));
            all.extend(bits);
        }
    }
    all
}

/// The same of either of two targets: the log-prob of the sure one keeps its relative precision, and so does the gradient of
/// the other one.
pub fn check_two_near_one<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let kept = Kept::in_place(storage);
    let rounding = if storage == Storage::Bf16 { 1.0 / 256.0 } else { 0.0 };
    let mut all = Vec::new();
    for vocabulary in [512, 1031] {
        for rest in [1e-2, 1e-6, 1e-12] {
            for sure in [0, 1] {
                let ids = [vocabulary as u32 / 2, 3];
                let mut z = storage.normal(vocabulary as u64, vocabulary);
                let y = ids[sure] as usize;
                z[y] = f32::NEG_INFINITY;
                let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
                z[y] = (sum * (1.0 - rest) / rest).ln() as f32;
                // All the weight on the sure one, so that nothing hides its log-prob.
                let weight = [1.0f32, 0.0][sure];
                let target = vec![(ids[0], f64::from(weight)), (ids[1], 1.0 - f64::from(weight))];
                let twin = &head::rows(&wide(&z), vocabulary, &[target])[0];
                let second = (&ids[1..], &[weight][..]);
                let (got, bits) = run_two(backend, kept, &z, (&ids[..1], Some(second)), true, None);
                let off = |got: f32, exact: f64| (f64::from(got) - exact).abs() / exact.abs();
                let case = format!("V {vocabulary}, 1 - p = {rest:e}, target {sure}");
                assert!(off(got.logp[0], twin.logp) < 1e-5, "{case}: {} not {}", got.logp[0], twin.logp);
                for v in 0..vocabulary {
                    let (got, exact) = (got.unit[v], twin.unit_gradient[v]);
                    assert!(off(got, exact) < 1e-5 + rounding, "{case}: gradient {v} is {got} not {exact}");
                }
                all.extend(bits);
            }
        }
    }
    all
}

#[test]
fn two_targets_stay_exact_as_one_becomes_certain() {
    on_every_cpu(Levels::SameBits, |backend| check_two_near_one(backend, Storage::F32));
}

/// A target of two that is not finite is seen, unless it has no weight; ties between the targets go to the lower id.
pub fn check_two_not_finite<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    const INF: f32 = f32::INFINITY;
    let kept = Kept::in_place(storage);
    for (values, weight, finite) in [
        ([1.0, 2.0], 0.5, true),
        ([f32::NAN, 0.0], 0.5, false),
        ([0.0, f32::NAN], 0.5, false),
        ([INF, 0.0], 0.5, false),
        ([0.0, INF], 0.25, false),
        ([-INF, 0.0], 0.5, false),
        ([0.0, -INF], 0.5, false),
        ([-INF, 0.0], 0.0, true),
        ([0.0, -INF], 1.0, true),
    ] {
        let z = with(storage, 72, &[(33, values[0]), (7, values[1])]);
        let second = (&[7u32][..], &[weight][..]);
        let (got, _) = run_two(backend, kept, &z, (&[33], Some(second)), true, None);
        assert_eq!(got.logp[0].is_finite(), finite, "{values:?}, k {weight}: {}", got.logp[0]);
    }
    let z = with(storage, 72, &[(33, 9.0), (7, 9.0)]);
    for ids in [[33, 7], [7, 33]] {
        let (got, _) = run_two(backend, kept, &z, (&ids[..1], Some((&ids[1..], &[0.5]))), true, None);
        assert_eq!(got.argmax, [7]);
    }
    vec![0]
}

#[test]
fn what_is_not_finite_in_one_of_two_targets_is_seen() {
    on_every_cpu(Levels::OwnBits, |backend| check_two_not_finite(backend, Storage::F32));
}

#[test]
fn stays_exact_as_the_probability_approaches_one() {
    on_every_cpu(Levels::SameBits, |backend| check_near_one(backend, Storage::F32));
}

/// The logit that the product left for the target is not the one that counts, whatever it is.
pub fn check_own_entry<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let kept = Kept::in_place(storage);
    let mut all = Vec::new();
    // Value by value, and in pieces.
    for vocabulary in [77, 80] {
        let targets: Vec<u32> = (0..9).map(|r| r * 8 + r % 3).collect();
        let logits = random(kept, 1.0, vocabulary, &targets);
        let (expected, bits_of_all) = run(backend, kept, &logits, &targets, true, None);
        for own in [0.0, 100.0, -100.0, f32::NAN, f32::INFINITY] {
            let (got, _) = run(backend, kept, &logits, &targets, true, Some(own));
            assert_eq!(bits(&got.logp), bits(&expected.logp), "{own}");
            assert_eq!(bits(&got.lse), bits(&expected.lse), "{own}");
            assert_eq!(bits(&got.unit), bits(&expected.unit), "{own}");
            assert_eq!(got.argmax, expected.argmax, "{own}");
        }
        let (scored, _) = run(backend, kept, &logits, &targets, false, None);
        assert_eq!(bits(&scored.logp), bits(&expected.logp), "scoring writes no gradient");
        assert_eq!(bits(&scored.lse), bits(&expected.lse));
        assert_eq!(scored.argmax, expected.argmax);
        all.extend(bits_of_all);
    }
    all
}

#[test]
fn the_target_counts_by_its_own_logit() {
    on_every_cpu(Levels::SameBits, |backend| check_own_entry(backend, Storage::F32));
}

/// A row has the same bits alone and among others.
pub fn check_alone<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let kept = Kept::in_place(storage);
    let mut all = Vec::new();
    for vocabulary in [1031, 2048] {
        let targets = [5, 1030, 0, 700, 33];
        let logits = random(kept, 3.0, vocabulary, &targets);
        let (together, bits_of_all) = run(backend, kept, &logits, &targets, true, None);
        for (r, row) in logits.chunks_exact(vocabulary).enumerate() {
            let (alone, _) = run(backend, kept, row, &targets[r..=r], true, None);
            assert_eq!(bits(&alone.logp), bits(&together.logp[r..=r]), "row {r}");
            assert_eq!(bits(&alone.lse), bits(&together.lse[r..=r]), "row {r}");
            assert_eq!(bits(&alone.unit), bits(&together.unit[r * vocabulary..][..vocabulary]), "row {r}");
        }
        all.extend(bits_of_all);
    }
    all
}

#[test]
fn a_row_has_the_same_bits_alone() {
    on_every_cpu(Levels::SameBits, |backend| check_alone(backend, Storage::F32));
}

/// Ties go to the lowest id, whether the target is among them or not.
pub fn check_ties<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    // (equal largest logits, target, the lowest of them)
    for (largest, target, expected) in [
        (vec![3, 5, 90], 5, 3),
        (vec![3, 5, 90], 3, 3),
        (vec![3, 5, 90], 90, 3),
        (vec![17, 90], 2, 17),
        (vec![37, 38, 39], 2, 37),
        (vec![99], 99, 99),
        (vec![0, 99], 99, 0),
        ((0..100).collect(), 42, 0),
    ] {
        for vocabulary in [100, 104] {
            let mut z: Vec<f32> = storage.normal(1, vocabulary).iter().map(|z| z.abs() - 9.0).collect();
            z = storage.rounded(&z);
            largest.iter().for_each(|&v: &usize| z[v] = 1.5);
            let (got, bits) = run(backend, Kept::in_place(storage), &z, &[target], true, None);
            assert_eq!(got.argmax, [expected], "largest {largest:?}, target {target}, V {vocabulary}");
            all.extend(bits);
        }
    }
    all
}

#[test]
fn argmax_ties_go_to_the_lowest_id() {
    on_every_cpu(Levels::SameBits, |backend| check_ties(backend, Storage::F32));
}

/// A row of V with some values put in.
fn with(storage: Storage, vocabulary: usize, values: &[(usize, f32)]) -> Vec<f32> {
    let mut z = storage.normal(1, vocabulary);
    values.iter().for_each(|&(v, value)| z[v] = value);
    z
}

/// What must not pass for a probability, and never panics; a token that cannot come (a logit of minus infinity) may
/// stand among the others. Which NaN it is, is nobody's business: no bits are compared.
pub fn check_not_finite<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    for vocabulary in [70, 72] {
        check_not_finite_in(backend, storage, vocabulary);
    }
    vec![0]
}

fn check_not_finite_in<B: Backend>(backend: &mut B, storage: Storage, vocabulary: usize) {
    const INF: f32 = f32::INFINITY;
    let target = 33;
    let kept = Kept::in_place(storage);
    let with = |values: &[(usize, f32)]| with(storage, vocabulary, values);
    for z in [
        with(&[(target, -INF)]),
        with(&[(target, f32::NAN)]),
        with(&[(5, f32::NAN)]),
        with(&[(69, f32::NAN)]),
        with(&[(5, f32::NAN), (target, -INF)]),
        with(&[(5, INF)]),
        with(&[(5, INF), (target, INF)]),
        vec![-INF; vocabulary],
        vec![f32::NAN; vocabulary],
    ] {
        for write_gradient in [false, true] {
            let (got, _) = run(backend, kept, &z, &[target as u32], write_gradient, None);
            assert!(!got.logp[0].is_finite(), "log-prob {} of {z:?}", got.logp[0]);
            assert!((got.argmax[0] as usize) < vocabulary, "argmax {} of {z:?}", got.argmax[0]);
        }
    }
    let z = with(&[(5, -INF), (60, -INF)]);
    let (got, _) = run(backend, kept, &z, &[target as u32], true, None);
    let exact = head::rows(&wide(&z), vocabulary, &[head::plain(target as u32)])[0].logp;
    assert!((f64::from(got.logp[0]) - exact).abs() < 1e-6);
    assert_eq!((got.unit[5], got.unit[60]), (0.0, 0.0), "and has no gradient");
    let mut certain = vec![-INF; vocabulary];
    certain[target] = 1.0;
    let (got, _) = run(backend, kept, &certain, &[target as u32], true, None);
    assert_eq!((got.logp[0], got.lse[0], got.argmax[0]), (0.0, 1.0, target as u32));
    assert!(got.unit.iter().all(|&u| u == 0.0), "nothing to learn");
}

/// A target logit of plus infinity is no certainty either: softmax has no value there.
pub fn check_infinite_target<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let z = with(storage, 70, &[(33, f32::INFINITY)]);
    let (got, _) = run(backend, Kept::in_place(storage), &z, &[33], true, None);
    assert!(!got.logp[0].is_finite(), "log-prob {}", got.logp[0]);
    vec![0]
}

#[test]
fn an_infinite_target_logit_gives_no_finite_log_prob() {
    on_every_cpu(Levels::OwnBits, |backend| check_infinite_target(backend, Storage::F32));
}

#[test]
fn a_logit_that_is_not_finite_gives_no_finite_log_prob() {
    on_every_cpu(Levels::OwnBits, |backend| check_not_finite(backend, Storage::F32));
}

/// `x[r] . weight[target]`.
pub fn check_target_logits<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for [rows, hidden, vocabulary] in [[1, 1, 5], [3, 33, 512], [67, 96, 640], [5, 2051, 1031], [2, 4160, 40]]
    {
        let (x, weight) = (storage.normal(1, rows * hidden), storage.normal(2, vocabulary * hidden));
        let random = normal_f64(3, rows);
        let targets: Vec<u32> = random.iter().map(|x| (x.abs() * 1e4) as u32 % vocabulary as u32).collect();
        let mut device = Device::storing(&mut *backend, storage);
        let out = device.out(rows);
        let arguments = TargetLogits {
            x: device.store(&x),
            weight: device.store(&weight),
            targets: device.put(&targets),
            out,
            hidden,
        };
        device.backend.target_logits(arguments);
        let pair = |r: usize| {
            let weight = &weight[targets[r] as usize * hidden..][..hidden];
            (&x[r * hidden..][..hidden], weight)
        };
        let squares = |r: usize| {
            let (x, w) = pair(r);
            x.iter().zip(w).map(|(&x, &w)| (f64::from(x) * f64::from(w)).powi(2)).sum::<f64>().sqrt()
        };
        TARGET_LOGITS.judge(Comparison {
            case: format!("R {rows}, H {hidden}, V {vocabulary}, {storage:?}"),
            n: hidden,
            got: &device.result::<f32>(out),
            exact: &(0..rows).map(|r| dot(&wide(pair(r).0), &wide(pair(r).1))).collect::<Vec<_>>(),
            scale: &(0..rows).map(squares).collect::<Vec<_>>(),
            naive: Some(&(0..rows).map(|r| naive::dot(pair(r).0, pair(r).1)).collect::<Vec<_>>()),
        });
        all.extend(device.finish());
    }
    all
}

#[test]
fn target_logits_equal_the_twin() {
    on_every_cpu(Levels::SameBits, |backend| check_target_logits(backend, Storage::F32));
}
