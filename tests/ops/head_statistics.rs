//! What is known of the distribution of a row of logits: against the definitions in f64.

use asft::backend::{Backend, HeadStatistics, StatisticsViews};

use crate::device::{Device, Levels, Storage, on_every_cpu};

/// R, V, the size of the logits.
const CASES: [(usize, usize, f32); 6] =
    [(1, 5, 1.0), (3, 2, 30.0), (9, 513, 4.0), (2, 4096, 0.1), (5, 1031, 200.0), (2, 1, 1.0)];

/// Exponentials within two units each, differences rounded once; entropies and logarithms of sums near 1 are absolute.
const ERROR: f64 = 4e-6;

/// log sum p^2, entropy and mean logit of a row, from probabilities.
fn exact(row: &[f32]) -> [f64; 3] {
    let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let weights: Vec<f64> = row.iter().map(|&z| (f64::from(z) - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let probabilities = weights.iter().map(|weight| weight / sum);
    let squares: f64 = probabilities.clone().map(|p| p * p).sum();
    let entropy: f64 = probabilities.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    [squares.ln(), entropy, row.iter().map(|&z| f64::from(z)).sum::<f64>() / row.len() as f64]
}

/// Every statistic of random rows.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for (rows, vocabulary, size) in CASES {
        let logits: Vec<f32> = storage.normal(vocabulary as u64, rows * vocabulary);
        let logits = storage.rounded(&logits.iter().map(|z| z * size).collect::<Vec<_>>());
        let mut device = Device::storing(backend, storage);
        let out = StatisticsViews {
            log_sum_squares: device.out(rows),
            entropy: device.out(rows),
            mean_logit: device.out(rows),
        };
        let logits_view = device.store(&logits);
        device.backend.head_statistics(HeadStatistics { logits: logits_view, out, vocabulary });
        let got = [out.log_sum_squares, out.entropy, out.mean_logit].map(|view| device.result::<f32>(view));
        all.extend(device.finish());
        for (index, row) in logits.chunks(vocabulary).enumerate() {
            let scales = [1.0, 1.0, f64::from(size)];
            for ((got, exact), scale) in got.iter().zip(exact(row)).zip(scales) {
                let off = (f64::from(got[index]) - exact).abs();
                assert!(
                    off <= ERROR * (scale + exact.abs()),
                    "[{rows}, {vocabulary}] of size {size}, row {index}: {} instead of {exact}",
                    got[index]
                );
            }
        }
    }
    all
}

#[test]
fn equal_the_definitions_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}
