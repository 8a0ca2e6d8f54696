//! Gathering rows, scattering them back, copying them beside others.

use asft::backend::{Backend, CopyRows, GatherRows, ScatterRows, SecondRows};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, wide};
use crate::reference::gather::{self, Terms};
use crate::tolerance::{Comparison, MIXTURE, SCATTER};

/// T, H, and the row that each of R outputs reads: rows that nobody reads, rows that many do.
fn cases() -> Vec<(usize, usize, Vec<u32>)> {
    let spread: Vec<u32> = (0..150).map(|r| (r * r + 3 * r) % 67).collect();
    vec![
        (1, 1, vec![0]),
        (1, 16, vec![0, 0, 0]),
        (5, 33, vec![4, 1, 1, 4, 0, 1]),
        (9, 8, vec![]),
        (67, 96, spread),
        (131, 64, (0..131).rev().collect()),
    ]
}

fn check_case<B: Backend>(
    backend: &mut B,
    storage: Storage,
    tokens: usize,
    hidden: usize,
    rows: &[u32],
    scaled: bool,
) -> Vec<u32> {
    let case = format!("T {tokens}, H {hidden}, R {}, scaled {scaled} {storage:?}", rows.len());
    let scale = scaled.then(|| normal(1, rows.len()));
    let factor = |r: usize| scale.as_ref().map_or(1.0, |scale| scale[r]);
    let terms: Vec<Terms> =
        rows.iter().enumerate().map(|(r, &row)| vec![(row as usize, f64::from(factor(r)))]).collect();
    let (source, dout) = (storage.normal(2, tokens * hidden), storage.normal(3, rows.len() * hidden));

    let mut device = Device::storing(backend, storage);
    let out = device.store_out(rows.len() * hidden);
    let row_view = device.put(rows);
    let scale_view = scale.as_ref().map(|scale| device.put(scale));
    let source_view = device.store(&source);
    device.backend.gather_rows(GatherRows {
        source: source_view,
        rows: row_view,
        second: None,
        scale: scale_view,
        out,
        hidden,
    });
    // One product of f32, rounded once where it is stored.
    let exact = gather::forward(&wide(&source), hidden, &terms);
    let expected = storage.rounded(&exact.iter().map(|&x| x as f32).collect::<Vec<_>>());
    assert_eq!(device.stored(out), expected, "{case}: gather");

    let readers =
        |row: usize| rows.iter().enumerate().filter(move |&(_, &r)| r as usize == row).map(|(r, _)| r);
    let inverse: Vec<u32> = (0..tokens).flat_map(readers).map(|r| r as u32).collect();
    let mut offsets = vec![0u32];
    for row in 0..tokens {
        offsets.push(offsets[row] + readers(row).count() as u32);
    }
    let back = device.store_out(tokens * hidden);
    let arguments = ScatterRows {
        source: device.store(&dout),
        offsets: device.put(&offsets),
        rows: device.put(&inverse),
        weights: None,
        scale: scale_view,
        out: back,
        hidden,
    };
    device.backend.scatter_rows(arguments);
    let got = device.stored(back);
    let scale = scatter_scale(&dout, &terms, tokens, hidden);
    let mut naive = vec![0.0f32; tokens * hidden];
    for (r, &row) in rows.iter().enumerate() {
        for h in 0..hidden {
            naive[row as usize * hidden + h] += factor(r) * dout[r * hidden + h];
        }
    }
    SCATTER.judge_stored(
        storage,
        Comparison {
            case,
            n: (0..tokens).map(|row| readers(row).count()).max().unwrap_or(0),
            got: &got,
            exact: &gather::backward(&wide(&dout), hidden, &terms, tokens),
            scale: &scale,
            naive: Some(&naive),
        },
    );
    device.finish()
}

/// The root of the sum of the squared terms of every element.
fn scatter_scale(dout: &[f32], terms: &[Terms], tokens: usize, hidden: usize) -> Vec<f64> {
    let square = |x: f64| x * x;
    let squares: Vec<f64> = dout.iter().map(|&x| square(f64::from(x))).collect();
    let squared: Vec<Terms> = terms.iter().map(|terms| vec![(terms[0].0, square(terms[0].1))]).collect();
    gather::backward(&squares, hidden, &squared, tokens).into_iter().map(f64::sqrt).collect()
}

/// Gather and scatter of every case, with and without factors. A row that nobody reads has a scale of 0 in the
/// comparison: it must be 0.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for (tokens, hidden, rows) in cases() {
        for scaled in [false, true] {
            all.extend(check_case(backend, storage, tokens, hidden, &rows, scaled));
        }
    }
    all
}

#[test]
fn gather_and_scatter_equal_the_twin() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}

/// Outputs made of two rows, with a weight each: where both are one, a plain gather's bits.
fn check_mixture<B: Backend>(backend: &mut B, storage: Storage, hidden: usize, scaled: bool) -> Vec<u32> {
    let (tokens, rows) = (29, 83);
    let case = format!("H {hidden}, scaled {scaled} {storage:?}");
    let first: Vec<u32> = (0..rows).map(|r| (r * r + 3 * r) % tokens).collect();
    // Every third is a row alone.
    let second: Vec<u32> = (0..rows)
        .map(|r| if r % 3 == 0 { first[r as usize] } else { (first[r as usize] + 1 + r) % tokens })
        .collect();
    let weight =
        |r: usize| if first[r] == second[r] { 1.0 } else { [0.5f32, 0.0, 1.0, 0.296_875, 0.125][r % 5] };
    let weights: Vec<f32> = (0..rows as usize).map(weight).collect();
    let scale = scaled.then(|| normal(1, rows as usize));
    let factor = |r: usize| scale.as_ref().map_or(1.0, |scale| f64::from(scale[r]));
    let parts = |r: usize| {
        let weight = f64::from(weights[r]);
        let both = [(first[r] as usize, weight), (second[r] as usize, 1.0 - weight)];
        both.into_iter().take(if first[r] == second[r] { 1 } else { 2 }).collect::<Terms>()
    };
    let terms: Vec<Terms> = (0..rows as usize)
        .map(|r| parts(r).into_iter().map(|(row, weight)| (row, weight * factor(r))).collect())
        .collect();
    let source = storage.normal(2, tokens as usize * hidden);
    let dout = storage.normal(3, rows as usize * hidden);

    let mut device = Device::storing(backend, storage);
    let out = device.store_out(rows as usize * hidden);
    let (source_view, row_view) = (device.store(&source), device.put(&first));
    let scale_view = scale.as_ref().map(|scale| device.put(scale));
    let second = SecondRows { rows: device.put(&second), weights: device.put(&weights) };
    let arguments = GatherRows {
        source: source_view,
        rows: row_view,
        second: Some(second),
        scale: scale_view,
        out,
        hidden,
    };
    device.backend.gather_rows(arguments);
    let got = device.stored(out);
    let plain = device.store_out(rows as usize * hidden);
    device.backend.gather_rows(GatherRows { second: None, out: plain, ..arguments });
    let plain = device.stored(plain);
    for r in (0..rows as usize).step_by(3) {
        let row = r * hidden..(r + 1) * hidden;
        assert_eq!(bits(&got[row.clone()]), bits(&plain[row]), "{case}: row {r} is one row alone");
    }
    let square = |x: f64| x * x;
    let squared = |terms: &Terms| terms.iter().map(|&(row, weight)| (row, square(weight))).collect::<Terms>();
    let squares: Vec<f64> = source.iter().map(|&x| square(f64::from(x))).collect();
    let size = gather::forward(&squares, hidden, &terms.iter().map(squared).collect::<Vec<_>>());
    MIXTURE.judge_stored(
        storage,
        Comparison {
            case: case.clone(),
            n: 1,
            got: &got,
            exact: &gather::forward(&wide(&source), hidden, &terms),
            scale: &size.into_iter().map(f64::sqrt).collect::<Vec<_>>(),
            naive: None,
        },
    );

    // The inverse list, by hidden row and then by output.
    let mut reads: Vec<(usize, u32, f32)> = (0..rows as usize)
        .flat_map(|r| parts(r).into_iter().map(move |(row, weight)| (row, r as u32, weight as f32)))
        .collect();
    reads.sort_by_key(|&(row, r, _)| (row, r));
    let offsets: Vec<u32> =
        (0..=tokens as usize).map(|row| reads.partition_point(|read| read.0 < row) as u32).collect();
    let back = device.store_out(tokens as usize * hidden);
    let arguments = ScatterRows {
        source: device.store(&dout),
        offsets: device.put(&offsets),
        rows: device.put(&reads.iter().map(|read| read.1).collect::<Vec<_>>()),
        weights: Some(device.put(&reads.iter().map(|read| read.2).collect::<Vec<_>>())),
        scale: scale_view,
        out: back,
        hidden,
    };
    device.backend.scatter_rows(arguments);
    let squares: Vec<f64> = dout.iter().map(|&x| square(f64::from(x))).collect();
    let squared: Vec<Terms> = terms.iter().map(squared).collect();
    let size = gather::backward(&squares, hidden, &squared, tokens as usize);
    SCATTER.judge_stored(
        storage,
        Comparison {
            case,
            n: offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap(),
            got: &device.stored(back),
            exact: &gather::backward(&wide(&dout), hidden, &terms, tokens as usize),
            scale: &size.into_iter().map(f64::sqrt).collect::<Vec<_>>(),
            naive: None,
        },
    );
    device.finish()
}

/// Mixtures in pieces of 16 bytes and value by value, with and without factors.
pub fn check_mixtures<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for hidden in [33, 96] {
        for scaled in [false, true] {
            all.extend(check_mixture(backend, storage, hidden, scaled));
        }
    }
    all
}

#[test]
fn mixtures_equal_the_twin() {
    on_every_cpu(Levels::SameBits, |backend| check_mixtures(backend, Storage::F32));
}

/// Keys and values of packed rows into a cache: only these elements change, and NaN is copied like any other value. The
/// places are multiples of 16 bytes in the last case.
pub fn check_copy<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for [source_stride, source_column, out_stride, out_column, width] in
        [[21, 13, 10, 4, 5], [24, 8, 32, 16, 7], [40, 8, 32, 2, 16], [40, 8, 32, 16, 16]]
    {
        let (out_rows, rows) = (12, [7u32, 0, 11, 3]);
        let mut source = storage.normal(1, rows.len() * source_stride);
        source[source_column] = f32::NAN;
        let mut expected = storage.normal(2, out_rows * out_stride);
        let mut device = Device::storing(&mut *backend, storage);
        let out = device.store(&expected);
        let arguments = CopyRows {
            source: device.store(&source),
            source_stride,
            source_column,
            rows: device.put(&rows),
            out,
            out_stride,
            out_column,
            width,
        };
        device.backend.copy_rows(arguments);
        for (r, &row) in rows.iter().enumerate() {
            for c in 0..width {
                expected[row as usize * out_stride + out_column + c] =
                    source[r * source_stride + source_column + c];
            }
        }
        assert_eq!(
            bits(&device.stored(out)),
            bits(&expected),
            "{width} columns to {out_column} of {out_stride}"
        );
        all.extend(device.finish());
    }
    all
}

#[test]
fn copy_writes_its_elements_only() {
    on_every_cpu(Levels::SameBits, |backend| check_copy(backend, Storage::F32));
}
