//! Launches of `kernels/head.cu` and `kernels/head_statistics.cu`.

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{CudaFunction, DriverError};

use super::CudaBackend;
use super::kernels::Kernels;
use super::launch::{arguments, row_threads, stored};
use crate::backend::{Element, HeadRows, HeadStatistics, TargetLogits};

/// The parts of a row: blocks of a cluster where there are clusters, else quarters of one block.
const QUARTERS: usize = 4;
/// Threads of a quarter.
const QUARTER_THREADS: u32 = 256;

/// The operation [`TargetLogits`].
pub fn target_logits(backend: &mut CudaBackend, a: TargetLogits) {
    assert_eq!((a.x.len, a.out.len), (a.targets.len * a.hidden, a.targets.len));
    let element = stored([Some(a.x), Some(a.weight)]);
    let (x, weight) = (backend.at(a.x), backend.at(a.weight));
    let (targets, out) = (backend.at(a.targets), backend.at(a.out));
    // SAFETY: one block per row; targets are below V, as the operation asks.
    unsafe {
        backend.launch(
            |k| k.target_logits.of(element),
            (a.targets.len, 1),
            (row_threads(element, a.hidden), 1),
            arguments![x, weight, targets, out, a.hidden],
        );
    }
}

/// Threads of the statistics of a row.
const STATISTICS_THREADS: u32 = 512;

/// The operation [`HeadStatistics`].
pub fn statistics(backend: &mut CudaBackend, a: HeadStatistics) {
    let rows = a.out.entropy.len;
    assert_eq!((a.logits.len, a.out.log_sum_squares.len), (rows * a.vocabulary, rows));
    assert_eq!(a.out.mean_logit.len, rows);
    let element = a.logits.element;
    let (logits, squares) = (backend.at(a.logits), backend.at(a.out.log_sum_squares));
    let (entropy, mean) = (backend.at(a.out.entropy), backend.at(a.out.mean_logit));
    // SAFETY: one block per row; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| k.head_statistics.of(element),
            (rows, 1),
            (STATISTICS_THREADS, 1),
            arguments![logits, squares, entropy, mean, a.vocabulary],
        );
    }
}

/// How the row kernel is launched on a device.
struct Geometry {
    blocks_per_row: usize,
    threads: u32,
    /// Dynamic shared memory: a quarter of a row, or nothing where it does not stay there.
    shared: u32,
}

/// The geometry that the loaded image asks for: a cluster per row if it demands one, else a block per row.
fn geometry(backend: &CudaBackend, function: &CudaFunction, a: &HeadRows) -> Result<Geometry, DriverError> {
    let cluster = function.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH)?;
    if cluster as usize != QUARTERS {
        return Ok(Geometry { blocks_per_row: 1, threads: QUARTERS as u32 * QUARTER_THREADS, shared: 0 });
    }
    let room = backend
        .context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    let own = function.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    let quarter = a.vocabulary.div_ceil(8 * QUARTERS) * 8 * a.logits.element.bytes();
    let whole_pieces = (a.vocabulary * a.logits.element.bytes()).is_multiple_of(16);
    let fits = whole_pieces && quarter + own.max(0) as usize <= room.max(0) as usize;
    let shared = if fits { quarter as u32 } else { 0 };
    Ok(Geometry { blocks_per_row: QUARTERS, threads: QUARTER_THREADS, shared })
}

/// The kernel for logits and a unit gradient of these formats, for one target per row or for up to two.
fn kernel<'k>(kernels: &'k Kernels, a: &HeadRows) -> &'k CudaFunction {
    let (logits, two) = (a.logits.element, a.second.is_some());
    match (logits, a.unit.map_or(logits, |unit| unit.element)) {
        (Element::F32, Element::Bf16) if two => &kernels.head_rows_two_f32_bf16,
        (Element::F32, Element::Bf16) => &kernels.head_rows_f32_bf16,
        (logits, unit) if logits == unit && two => kernels.head_rows_two.of(logits),
        (logits, unit) if logits == unit => kernels.head_rows.of(logits),
        (logits, unit) => panic!("no row kernel from {} to {}", logits.name(), unit.name()),
    }
}

/// The operation [`HeadRows`].
pub fn rows(backend: &mut CudaBackend, a: HeadRows) {
    let rows = a.targets.len;
    assert_eq!(a.logits.len, rows * a.vocabulary);
    assert_eq!((a.target_logits.len, a.logp.len, a.lse.len, a.argmax.len), (rows, rows, rows, rows));
    assert!(a.unit.is_none_or(|unit| unit.len == a.logits.len), "the unit gradient's place");
    let (logits, unit) = (backend.at(a.logits), backend.at_or_null(a.unit));
    let (target_logits, targets) = (backend.at(a.target_logits), backend.at(a.targets));
    let (logp, lse, argmax) = (backend.at(a.logp), backend.at(a.lse), backend.at(a.argmax));
    let geometry = match geometry(backend, kernel(&backend.kernels, &a), &a) {
        Ok(geometry) => geometry,
        Err(error) => return backend.keep("cuFuncGetAttribute", Err(error)),
    };
    let hold = geometry.shared > 0;
    let (v, grid) = (a.vocabulary, (rows * geometry.blocks_per_row, 1));
    let Some(second) = a.second else {
        // SAFETY: the blocks that the kernel wants for each row, and the shared memory of which `hold` speaks; the sizes
        // are asserted.
        return unsafe {
            backend.launch_shared(
                |k| kernel(k, &a),
                grid,
                (geometry.threads, 1),
                geometry.shared,
                arguments![logits, unit, target_logits, targets, logp, lse, argmax, v, hold],
            );
        };
    };
    assert_eq!((second.targets.len, second.logits.len, second.weights.len), (rows, rows, rows));
    let (others, weights) = (backend.at(second.targets), backend.at(second.weights));
    let other_logits = backend.at(second.logits);
    // SAFETY: as above; the second targets are below V, too.
    unsafe {
        backend.launch_shared(
            |k| kernel(k, &a),
            grid,
            (geometry.threads, 1),
            geometry.shared,
            arguments![
                logits,
                unit,
                target_logits,
                targets,
                other_logits,
                others,
                weights,
                logp,
                lse,
                argmax,
                v,
                hold
            ],
        );
    }
}
