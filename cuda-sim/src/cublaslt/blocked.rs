//! The arithmetic: a blocked, threaded product of f32 matrices with one fixed order of additions.
//!
//! Every element of the result is the chain `s = fma(a[k], b[k], s)` from `s = 0` over ascending `k`. Blocks, lanes and
//! threads only decide where a chain is computed, so the bits depend neither on the number of threads nor on the size
//! of the matrices around an element, nor on the machine (a processor without fused multiply-add computes it in
//! software, slowly). Products of bf16 or f16 values are exact in f32, so for them the chain is one of plain additions.

use std::sync::{Mutex, PoisonError};
use std::{array, thread};

/// Rows and columns of one task, and the depth that is worked off before the next column panel: 128 x 256 and 256 x 96
/// floats of the operands stay in a core's caches.
const TASK_ROWS: usize = 128;
const TASK_COLUMNS: usize = 96;
const DEPTH_BLOCK: usize = 256;

/// Below this many multiply-adds, starting threads costs more than they save.
const THREADED_FROM: usize = 1 << 20;

/// An operand cut into panels of `width` rows (or columns), each stored depth by depth, padded with zeros.
pub(super) struct Panels {
    values: Vec<f32>,
    width: usize,
    depth: usize,
}

/// Rows, columns and depth of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
}

/// What receives results: first row, column, and the sums of that piece of the column.
pub(super) type Store<'a> = dyn Fn(usize, usize, &[f32]) + Sync + 'a;

/// Fills `lanes` (at `[depth][lane]`, `width` lanes apart) for the panel that begins at an outer index.
pub(super) type Fill<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

/// The instructions that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Simd {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Simd {
    pub(super) fn detect() -> Simd {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Simd::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Simd::Avx2;
            }
        }
        Simd::Portable
    }

    /// Rows and columns of the sums that are kept in registers.
    pub(super) fn tile(self) -> (usize, usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => (32, 12),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => (16, 6),
            Simd::Portable => (16, 6),
        }
    }
}

/// Adds the products of a run of depths to a tile of sums.
#[inline(always)]
fn accumulate<const ROWS: usize, const COLUMNS: usize>(
    a: &[f32],
    b: &[f32],
    tile: &mut [[f32; ROWS]; COLUMNS],
) {
    let mut sums = *tile;
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
        for (sums, &b) in sums.iter_mut().zip(b) {
            for (sum, &a) in sums.iter_mut().zip(a) {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    *tile = sums;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn accumulate_avx512(a: &[f32], b: &[f32], tile: &mut [[f32; 32]; 12]) {
    accumulate(a, b, tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_avx2(a: &[f32], b: &[f32], tile: &mut [[f32; 16]; 6]) {
    accumulate(a, b, tile);
}

/// Runs `work` on every item, on `threads` threads.
fn spread<T: Send>(threads: usize, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    if threads <= 1 {
        items.for_each(work);
        return;
    }
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

impl Panels {
    /// Packs an operand of `count` rows (or columns) of `depth` values.
    pub(super) fn pack(count: usize, depth: usize, width: usize, threads: usize, fill: &Fill<'_>) -> Panels {
        let mut values = vec![0.0; count.div_ceil(width) * width * depth];
        let threads = if values.len() < THREADED_FROM { 1 } else { threads };
        let panels = values.chunks_mut(width * depth).enumerate();
        spread(threads, panels, |(panel, lanes)| fill(panel * width, lanes));
        Panels { values, width, depth }
    }

    /// Panel `index`, from depth `from` to `to`.
    fn part(&self, index: usize, from: usize, to: usize) -> &[f32] {
        let start = index * self.width * self.depth;
        &self.values[start + from * self.width..start + to * self.width]
    }
}

/// Computes the product of two packed operands, piece by piece, on up to `threads` threads.
pub(super) fn multiply(simd: Simd, shape: Shape, a: &Panels, b: &Panels, threads: usize, store: &Store<'_>) {
    match simd {
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => multiply_tiled::<32, 12>(shape, a, b, threads, store, |a, b, tile| {
            // SAFETY: `detect` found the instructions.
            unsafe { accumulate_avx512(a, b, tile) }
        }),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => multiply_tiled::<16, 6>(shape, a, b, threads, store, |a, b, tile| {
            // SAFETY: `detect` found the instructions.
            unsafe { accumulate_avx2(a, b, tile) }
        }),
        Simd::Portable => multiply_tiled::<16, 6>(shape, a, b, threads, store, accumulate),
    }
}

fn multiply_tiled<const ROWS: usize, const COLUMNS: usize>(
    shape: Shape,
    a: &Panels,
    b: &Panels,
    threads: usize,
    store: &Store<'_>,
    accumulate: impl Fn(&[f32], &[f32], &mut [[f32; ROWS]; COLUMNS]) + Sync,
) {
    let work = shape.rows.saturating_mul(shape.columns).saturating_mul(shape.depth);
    let threads = if work < THREADED_FROM { 1 } else { threads };
    let tasks = (0..shape.columns)
        .step_by(TASK_COLUMNS)
        .flat_map(|column| (0..shape.rows).step_by(TASK_ROWS).map(move |row| (row, column)));
    spread(threads, tasks, |(first_row, first_column)| {
        let rows = TASK_ROWS.min(shape.rows - first_row);
        let columns = TASK_COLUMNS.min(shape.columns - first_column);
        let row_panels = rows.div_ceil(ROWS);
        let mut tiles = vec![[[0.0; ROWS]; COLUMNS]; row_panels * columns.div_ceil(COLUMNS)];
        for from in (0..shape.depth).step_by(DEPTH_BLOCK) {
            let to = shape.depth.min(from + DEPTH_BLOCK);
            for (at, tile) in tiles.iter_mut().enumerate() {
                let a = a.part(first_row / ROWS + at % row_panels, from, to);
                let b = b.part(first_column / COLUMNS + at / row_panels, from, to);
                accumulate(a, b, tile);
            }
        }
        for column in 0..columns {
            let tiles = &tiles[column / COLUMNS * row_panels..][..row_panels];
            let sums: [f32; TASK_ROWS] = array::from_fn(|row| {
                tiles.get(row / ROWS).map_or(0.0, |tile| tile[column % COLUMNS][row % ROWS])
            });
            store(first_row, first_column + column, &sums[..rows]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Values that make every order of additions give different bits.
    fn value(seed: usize) -> f32 {
        let bits = (seed as u32).wrapping_mul(2_654_435_761);
        f32::from_bits(0x3f00_0000 | bits >> 9 & 0x7f_ffff) * if bits & 1 == 0 { 1.0 } else { -1.0 }
    }

    fn product(simd: Simd, shape: Shape, threads: usize) -> Vec<f32> {
        let (tile_rows, tile_columns) = simd.tile();
        let pack = |count: usize, width: usize, salt: usize| {
            Panels::pack(count, shape.depth, width, threads, &|first, lanes: &mut [f32]| {
                for (at, lane) in lanes.iter_mut().enumerate() {
                    let (depth, outer) = (at / width, first + at % width);
                    if outer < count {
                        *lane = value(salt + outer * 7919 + depth);
                    }
                }
            })
        };
        let (a, b) = (pack(shape.rows, tile_rows, 1), pack(shape.columns, tile_columns, 1_000_003));
        let result = Mutex::new(vec![f32::NAN; shape.rows * shape.columns]);
        multiply(simd, shape, &a, &b, threads, &|row, column, sums: &[f32]| {
            result.lock().unwrap()[column * shape.rows + row..][..sums.len()].copy_from_slice(sums);
        });
        result.into_inner().unwrap()
    }

    #[test]
    fn every_way_of_computing_gives_the_same_bits_as_the_chain() {
        let shapes = [(1, 1, 1), (7, 5, 3), (33, 13, 300), (129, 97, 257), (130, 200, 64)];
        for (rows, columns, depth) in shapes {
            let shape = Shape { rows, columns, depth };
            let mut expected = Vec::new();
            for column in 0..columns {
                for row in 0..rows {
                    expected.push((0..depth).fold(0.0f32, |sum, k| {
                        value(1 + row * 7919 + k).mul_add(value(1_000_003 + column * 7919 + k), sum)
                    }));
                }
            }
            for simd in [Simd::Portable, Simd::detect()] {
                for threads in [1, 3] {
                    let got = product(simd, shape, threads);
                    let same = got.iter().zip(&expected).all(|(got, want)| got.to_bits() == want.to_bits());
                    assert!(same, "{simd:?}, {threads} threads, {shape:?}");
                }
            }
        }
    }

    /// `cargo test -p cuda-sim --lib -- --ignored --nocapture speed`
    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let shape = Shape { rows: 1024, columns: 1024, depth: 1024 };
        let simd = Simd::detect();
        let (tile_rows, tile_columns) = simd.tile();
        let pack = |count, width| Panels::pack(count, shape.depth, width, 1, &|_, lanes| lanes.fill(0.5));
        let (a, b) = (pack(shape.rows, tile_rows), pack(shape.columns, tile_columns));
        for threads in [1, thread::available_parallelism().map_or(1, |n| n.get())] {
            let best = (0..5)
                .map(|_| {
                    let start = std::time::Instant::now();
                    multiply(simd, shape, &a, &b, threads, &|_, _, sums| assert_eq!(sums[0], 256.0));
                    start.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min);
            println!("{simd:?}, {threads} thread(s): {:.1} GFLOP/s", 2.0 * 1024f64.powi(3) / best * 1e-9);
        }
    }
}
