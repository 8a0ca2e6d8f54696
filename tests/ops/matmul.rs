//! Matrix products in the three layouts.

use asft::backend::{Backend, Layout, Matmul};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, on_every_cpu_in_bf16, wide};
use crate::naive;
use crate::reference::matmul;
use crate::tolerance::{Comparison, MATMUL};

/// m, n, k: smaller than a tile, one beyond tiles (4 to 12 rows, 8 to 32 columns), packed blocks of A (240 rows, 256 deep)
/// and of B (8 tiles across, 4,096 columns); an odd number of pairs; one row, one column, no reduction at all.
const CASES: [[usize; 3]; 18] = [
    [1, 1, 1],
    [1, 5, 7],
    [3, 512, 33],
    [13, 33, 257],
    [12, 32, 256],
    [65, 1031, 17],
    [61, 640, 65],
    [241, 7, 300],
    [481, 513, 3],
    [2, 3, 1031],
    [130, 1, 64],
    [1, 96, 512],
    [5, 6, 0],
    [3, 4097, 5],
    [26, 40, 513],
    [1, 4096, 1030],
    // Several panels of both factors and several blocks of depth, none of them whole.
    [70, 100, 1100],
    [100, 70, 1100],
];

const LAYOUTS: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];

fn twin(layout: Layout, a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    match layout {
        Layout::Nt => matmul::nt(a, b, m, n, k),
        Layout::Nn => matmul::nn(a, b, m, n, k),
        Layout::Tn => matmul::tn(a, b, m, n, k),
    }
}

/// Columns of A as it lies in memory.
fn a_columns(layout: Layout, [m, _, k]: [usize; 3]) -> usize {
    if layout == Layout::Tn { m } else { k }
}

/// What the factors and the result are kept in.
#[derive(Clone, Copy)]
struct Formats {
    factors: Storage,
    result: Storage,
}

fn check_case<B: Backend>(
    backend: &mut B,
    formats: Formats,
    layout: Layout,
    [m, n, k]: [usize; 3],
    accumulate: bool,
) -> Vec<u32> {
    let Formats { factors, result } = formats;
    let (a, b) = (factors.normal(1, m * k), factors.normal(2, n * k));
    let before = if accumulate { normal(3, m * n) } else { vec![0.0; m * n] };
    let mut device = Device::storing(backend, factors);
    let c = match result {
        Storage::Bf16 => device.store_out(m * n),
        _ if accumulate => device.put(&before),
        _ => device.out(m * n),
    };
    let (a_view, b_view) = match factors {
        // What bf16 cannot hold is rounded by the product itself.
        Storage::Operands => (device.put(&normal(1, m * k)), device.put(&normal(2, n * k))),
        _ => (device.store(&a), device.store(&b)),
    };
    let a_stride = a_columns(layout, [m, n, k]);
    device.backend.matmul(Matmul { layout, a: a_view, a_stride, b: b_view, c, m, n, k, accumulate });
    let got: Vec<f32> = if result == Storage::Bf16 { device.stored(c) } else { device.result(c) };

    let square = |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| f64::from(x).powi(2)).collect() };
    let product = twin(layout, &wide(&a), &wide(&b), [m, n, k]);
    let exact: Vec<f64> = product.iter().zip(&before).map(|(p, &b)| p + f64::from(b)).collect();
    let squares = twin(layout, &square(&a), &square(&b), [m, n, k]);
    let scale: Vec<f64> =
        squares.iter().zip(&before).map(|(s, &b)| (s + f64::from(b).powi(2)).sqrt()).collect();
    let left = |i: usize, p: usize| if layout == Layout::Tn { a[p * m + i] } else { a[i * k + p] };
    let right = |p: usize, j: usize| if layout == Layout::Nt { b[j * k + p] } else { b[p * n + j] };
    let naive = naive::matmul(&before, [m, n, k], left, right);
    MATMUL.judge_stored(
        result,
        Comparison {
            case: format!("{layout:?} {m}x{n}x{k}{}", if accumulate { " added" } else { "" }),
            n: k,
            got: &got,
            exact: &exact,
            scale: &scale,
            naive: Some(&naive),
        },
    );
    device.finish()
}

/// Every layout and size, replacing and adding; stored results are only ever replaced.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for layout in LAYOUTS {
        for size in CASES {
            for accumulate in [false, true] {
                let formats = Formats { factors: storage, result: Storage::F32 };
                all.extend(check_case(backend, formats, layout, size, accumulate));
            }
            if storage == Storage::Bf16 {
                let formats = Formats { factors: storage, result: storage };
                all.extend(check_case(backend, formats, layout, size, false));
            }
        }
    }
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::OwnBits, |backend| check(backend, Storage::F32));
}

#[test]
fn products_of_bf16_equal_the_twin_of_rounded_operands() {
    on_every_cpu_in_bf16(|backend| check(backend, Storage::Operands));
}

/// Results too large for a cache, which AMX writes past it where a task has much of them: of one thread or two, not of three.
/// The last panel of columns is not whole.
pub fn check_large<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let formats = Formats { factors: storage, result: Storage::F32 };
    [false, true]
        .into_iter()
        .flat_map(|accumulate| check_case(backend, formats, Layout::Nt, [300, 3088, 40], accumulate))
        .collect()
}

#[test]
fn large_results_equal_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::OwnBits, |backend| check_large(backend, Storage::F32));
    on_every_cpu_in_bf16(|backend| check_large(backend, Storage::Operands));
}

/// A row of C does not depend on how many rows there are, nor on where it is among them.
pub fn check_rows_alone<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let (m, n, k) = (131, 77, 301);
    let mut all = Vec::new();
    for layout in [Layout::Nt, Layout::Nn] {
        let mut device = Device::storing(&mut *backend, storage);
        let (a, b) = (device.store(&storage.normal(1, m * k)), device.store(&storage.normal(2, n * k)));
        let mut run = |first: usize, rows: usize| {
            let c = device.store_out(rows * n);
            let a = a.rows(first..first + rows, k);
            let a_stride = a_columns(layout, [rows, n, k]);
            device.backend.matmul(Matmul { layout, a, a_stride, b, c, m: rows, n, k, accumulate: false });
            bits(&device.stored(c))
        };
        let whole = run(0, m);
        for (first, rows) in [(0, 1), (130, 1), (5, 1), (64, 64), (7, 13), (3, 128)] {
            assert!(whole[first * n..(first + rows) * n] == run(first, rows), "rows {first}, {rows} of {m}");
        }
        all.extend(device.finish());
    }
    all
}

/// A that is some columns of a wider matrix gives the bits of those columns alone; in the layout of weight gradients, those of
/// its rows of the whole product.
pub fn check_columns_of_a<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for layout in LAYOUTS {
        // 96 columns, of which a product takes 48 from the 32nd on.
        let (n, rows, [wide, first, columns]) = (64, 80, [96, 32, 48]);
        let [m, k] = if layout == Layout::Tn { [columns, rows] } else { [rows, columns] };
        let mut device = Device::storing(&mut *backend, storage);
        let values = storage.normal(1, rows * wide);
        let alone: Vec<f32> =
            values.chunks(wide).flat_map(|row| row[first..first + columns].to_vec()).collect();
        let (whole, alone) = (device.store(&values), device.store(&alone));
        let b = device.store(&storage.normal(2, n * k));
        let (part, whole_c) = (device.out(m * n), device.out(wide * n));
        let alone_c = device.out(m * n);
        let a = whole.slice(first..first + (rows - 1) * wide + columns);
        let product = Matmul { layout, a, a_stride: wide, b, c: part, m, n, k, accumulate: false };
        device.backend.matmul(product);
        device.backend.matmul(Matmul { a: alone, a_stride: columns, c: alone_c, ..product });
        let [part, alone] = [part, alone_c].map(|view| bits(&device.result::<f32>(view)));
        assert!(part == alone, "{layout:?}");
        if layout == Layout::Tn {
            device.backend.matmul(Matmul { a: whole, c: whole_c, m: wide, ..product });
            let whole = bits(&device.result::<f32>(whole_c));
            assert!(whole[first * n..(first + columns) * n] == part, "rows of the whole");
        }
        all.extend(part);
    }
    all
}

#[test]
fn columns_of_a_wider_matrix_have_the_bits_of_those_columns_alone() {
    on_every_cpu(Levels::OwnBits, |backend| check_columns_of_a(backend, Storage::F32));
    on_every_cpu_in_bf16(|backend| check_columns_of_a(backend, Storage::Operands));
}

#[test]
fn a_row_has_the_same_bits_whatever_the_other_rows_are() {
    on_every_cpu(Levels::OwnBits, |backend| check_rows_alone(backend, Storage::F32));
    on_every_cpu_in_bf16(|backend| check_rows_alone(backend, Storage::Operands));
}
