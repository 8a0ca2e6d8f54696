//! The calls: handle, heuristic, product.
//!
//! There is one algorithm and it needs no workspace; the heuristic checks that a product can be computed and names it.
//! A product is done by its stream, like a kernel, and is one line of the report.

use std::collections::HashSet;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use super::blocked::{self, Panels, Shape, Simd};
use super::descriptor::{DescriptorHandle, Kind, find};
use super::element::Element;
use super::product::{Handles, Matrix, Product};
use super::status::{Outcome, Status};
use crate::driver::abi::{In, Out, StreamHandle};
use crate::driver::codes::Code;
use crate::driver::command::{Command, Fault, Work};
use crate::driver::state::{Driver, current, driver, fresh_number, guarded};
use crate::engine::{DeviceMemory, MemoryError};

/// `cublasLtGetVersion`: 13.0.0.
const VERSION: usize = 130_000;

/// A `cublasLtHandle_t`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct LibraryHandle(usize);

/// `cublasLtMatmulAlgo_t`: opaque to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Algorithm([u64; 8]);

/// The only one.
const ALGORITHM: Algorithm = Algorithm([u64::from_ne_bytes(*b"cuda-sim"), 0, 0, 0, 0, 0, 0, 0]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
struct HeuristicResult {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// Where the matrices are.
#[derive(Clone, Copy)]
struct Addresses {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

/// alpha and beta: the numbers, or where the device has them.
#[derive(Clone, Copy)]
enum Scalars {
    Host(f32, f32),
    Device(u64, u64),
}

/// One product, ready to be done as often as a graph wants.
struct Matmul {
    product: Product,
    at: Addresses,
    scalars: Scalars,
}

fn handles() -> MutexGuard<'static, HashSet<usize>> {
    static HANDLES: LazyLock<Mutex<HashSet<usize>>> = LazyLock::new(Mutex::default);
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_handle(handle: LibraryHandle) -> Outcome {
    if handles().contains(&handle.0) { Ok(()) } else { Err(Status::NOT_INITIALIZED) }
}

fn simd() -> Simd {
    static SIMD: OnceLock<Simd> = OnceLock::new();
    *SIMD.get_or_init(Simd::detect)
}

/// A fault as a kernel would have it: the product reads or writes where there is no memory.
fn out_of_memory_range(name: &str, error: MemoryError) -> Fault {
    Fault {
        code: Code::ILLEGAL_ADDRESS,
        sticky: true,
        message: format!("cublasLtMatmul: matrix {name}: {error}"),
    }
}

/// Refuses bytes that nobody wrote, as the engine refuses such reads of a kernel: `count` runs of `run` bytes, each `step`
/// bytes after the one before. A matrix's gaps between its runs are not read, so they need not be written.
fn check_written(
    driver: &Driver,
    name: &str,
    address: u64,
    (run, step, count): (u64, u64, u64),
) -> Result<(), Fault> {
    if !driver.options.checks || run == 0 || count == 0 {
        return Ok(());
    }
    // What is not there at all is refused by whoever reads it.
    let Ok((around, first)) = driver.memory.locate(address, (count - 1) * step + run) else { return Ok(()) };
    let missing = (0..count).find_map(|at| around.first_uninitialised(first + at * step, run));
    match missing {
        None => Ok(()),
        Some(offset) => {
            let message = format!(
                "cublasLtMatmul: matrix {name}: nobody wrote byte {offset} of the allocation of {around:?}"
            );
            Err(Fault { code: Code::LAUNCH_FAILED, sticky: true, message })
        }
    }
}

/// The same for all elements of one batch of a matrix.
fn check_matrix(driver: &Driver, name: &str, matrix: &Matrix, address: u64) -> Result<(), Fault> {
    let (run, step, count) = matrix.runs();
    let size = matrix.element.bytes();
    check_written(driver, name, address, ((run * size) as u64, (step * size) as u64, count as u64))
}

/// One batch of a matrix as bytes, its runs (the elements that lie side by side) without the gaps between them.
struct Loaded {
    bytes: Vec<u8>,
    matrix: Matrix,
}

impl Loaded {
    fn new(driver: &Driver, name: &str, matrix: Matrix, address: u64) -> Result<Loaded, Fault> {
        let memory = &driver.memory;
        let (run, step, count) = matrix.runs();
        let size = matrix.element.bytes();
        let mut bytes = vec![0; run * count * size];
        let outcome = if run == step {
            memory.read(address, &mut bytes)
        } else {
            let starts = (0..count).map(|at| address + (at * step * size) as u64);
            bytes.chunks_mut(run * size).zip(starts).try_for_each(|(run, start)| memory.read(start, run))
        };
        outcome.map_err(|error| out_of_memory_range(name, error))?;
        check_matrix(driver, name, &matrix, address)?;
        Ok(Loaded { bytes, matrix: matrix.packed() })
    }

    /// The elements of a run that starts at `[row, column]`.
    fn decode(&self, row: usize, column: usize, to: &mut [f32]) {
        let size = self.matrix.element.bytes();
        let start = (row * self.matrix.row_step + column * self.matrix.column_step) * size;
        self.matrix.element.decode(&self.bytes[start..start + to.len() * size], to);
    }

    /// Packs the rows of the matrix; its columns are the depth.
    fn panels(&self, product: &Product, width: usize, threads: usize) -> Panels {
        let Matrix { rows, columns: depth, row_step, .. } = self.matrix;
        Panels::pack(rows, depth, width, threads, &|first, lanes: &mut [f32]| {
            let count = width.min(rows - first);
            if row_step == 1 {
                for (at, lanes) in lanes.chunks_mut(width).enumerate() {
                    self.decode(first, at, &mut lanes[..count]);
                }
            } else {
                let mut run = vec![0.0; depth];
                for lane in 0..count {
                    self.decode(first + lane, 0, &mut run);
                    lanes.iter_mut().skip(lane).step_by(width).zip(&run).for_each(|(to, from)| *to = *from);
                }
            }
            product.rounding.apply(lanes);
        })
    }
}

impl Matmul {
    /// Refuses a matrix that is not inside one allocation, before anything is computed.
    fn check_range(memory: &DeviceMemory, name: &str, matrix: &Matrix, address: u64) -> Result<(), Fault> {
        let (from, bytes) = (address, matrix.extent());
        let inside = memory
            .allocation(from)
            .is_some_and(|(start, length)| from.checked_add(bytes).is_some_and(|end| end <= start + length));
        if inside {
            return Ok(());
        }
        let reason = "not inside one live allocation".to_owned();
        Err(out_of_memory_range(name, MemoryError::OutOfBounds { address: from, bytes, reason }))
    }

    fn scalars(&self, driver: &Driver) -> Result<(f32, f32), Fault> {
        let read = |name, address| {
            let mut bytes = [0; 4];
            driver.memory.read(address, &mut bytes).map_err(|error| out_of_memory_range(name, error))?;
            check_written(driver, name, address, (4, 4, 1))?;
            Ok(f32::from_ne_bytes(bytes))
        };
        match self.scalars {
            Scalars::Host(alpha, beta) => Ok((alpha, beta)),
            Scalars::Device(alpha, beta) => Ok((read("alpha", alpha)?, read("beta", beta)?)),
        }
    }

    /// The bias of a batch, one value per row of D, or per column where the operands were exchanged.
    fn bias(&self, driver: &Driver, batch: usize) -> Result<Vec<f32>, Fault> {
        let Some(bias) = self.product.bias else { return Ok(Vec::new()) };
        let size = bias.element.bytes();
        let count = if bias.along_rows { self.product.d.rows } else { self.product.d.columns };
        let address = bias.address.wrapping_add_signed(bias.batch_step.wrapping_mul((batch * size) as i64));
        let mut bytes = vec![0; count * size];
        driver.memory.read(address, &mut bytes).map_err(|error| out_of_memory_range("bias", error))?;
        check_written(driver, "bias", address, (bytes.len() as u64, bytes.len() as u64, 1))?;
        let mut values = vec![0.0; count];
        bias.element.decode(&bytes, &mut values);
        Ok(values)
    }

    fn run_batch(&self, driver: &Driver, batch: usize, (alpha, beta): (f32, f32)) -> Result<(), Fault> {
        let Product { a, b, c, d, relu, .. } = self.product;
        let (memory, threads) = (&driver.memory, driver.options.thread_count());
        let [at_a, at_b, at_c, at_d] = [(a, self.at.a), (b, self.at.b), (c, self.at.c), (d, self.at.d)]
            .map(|(m, at)| m.batch(at, batch));
        Self::check_range(memory, "D", &d, at_d)?;
        if beta != 0.0 {
            Self::check_range(memory, "C", &c, at_c)?;
            check_matrix(driver, "C", &c, at_c)?;
        }
        let bias = self.bias(driver, batch)?;
        let (tile_rows, tile_columns) = simd().tile();
        let pack = |name, matrix, address, width| {
            Ok(Loaded::new(driver, name, matrix, address)?.panels(&self.product, width, threads))
        };
        let (name_a, name_b) = if self.product.exchanged { ("B", "A") } else { ("A", "B") };
        let a = pack(name_a, a, at_a, tile_rows)?;
        let b = pack(name_b, b.transposed(), at_b, tile_columns)?;
        let shape = Shape { rows: d.rows, columns: d.columns, depth: self.product.a.columns };
        let failed = Mutex::new(None);
        blocked::multiply(simd(), shape, &a, &b, threads, &|row, column, sums: &[f32]| {
            let outcome = (|| {
                let mut values: Vec<f32> = sums.iter().map(|sum| alpha * sum).collect();
                if beta != 0.0 {
                    let old = read_column(memory, c.element, c.at(at_c, row, column), values.len())?;
                    values.iter_mut().zip(old).for_each(|(value, old)| *value = beta.mul_add(old, *value));
                }
                self.finish(&mut values, &bias, row, column, relu);
                let mut bytes = Vec::with_capacity(values.len() * d.element.bytes());
                d.element.encode(&values, &mut bytes);
                memory.write(d.at(at_d, row, column), &bytes)
            })();
            if let Err(error) = outcome {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), |error| Err(out_of_memory_range("C or D", error)))
    }

    /// The epilogue over a piece of a column.
    fn finish(&self, values: &mut [f32], bias: &[f32], row: usize, column: usize, relu: bool) {
        match self.product.bias {
            Some(own) if own.along_rows => {
                values.iter_mut().zip(&bias[row..]).for_each(|(value, bias)| *value += bias);
            }
            Some(_) => values.iter_mut().for_each(|value| *value += bias[column]),
            None => {}
        }
        if relu {
            values.iter_mut().for_each(|value| *value = value.max(0.0));
        }
    }

    fn report(&self) -> String {
        let Product { a, b, d, batches, exchanged, .. } = &self.product;
        let (rows, columns) = if *exchanged { (d.columns, d.rows) } else { (d.rows, d.columns) };
        format!(
            "{{\"kernel\":\"cublasLtMatmul\",\"m\":{rows},\"n\":{columns},\"k\":{},\"batches\":{batches},\
             \"operands\":\"{}\",\"result\":\"{}\"}}",
            a.columns,
            b.element.name(),
            d.element.name(),
        )
    }
}

fn read_column(
    memory: &DeviceMemory,
    element: Element,
    address: u64,
    count: usize,
) -> Result<Vec<f32>, MemoryError> {
    let mut bytes = vec![0; count * element.bytes()];
    memory.read(address, &mut bytes)?;
    let mut values = vec![0.0; count];
    element.decode(&bytes, &mut values);
    Ok(values)
}

impl Work for Matmul {
    fn run(&self, driver: &Driver) -> Result<(), Fault> {
        let scalars = self.scalars(driver)?;
        (0..self.product.batches).try_for_each(|batch| self.run_batch(driver, batch, scalars))?;
        driver.report(&self.report());
        Ok(())
    }
}

/// Runs an entry point's body as the driver runs its own.
fn entry(body: impl FnOnce() -> Outcome) -> Status {
    guarded(body).unwrap_or(Err(Status::INTERNAL_ERROR)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtCreate(handle: Out<LibraryHandle>) -> Status {
    entry(|| {
        driver()?;
        let number = fresh_number();
        handle.put(LibraryHandle(number))?;
        handles().insert(number);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: LibraryHandle) -> Status {
    entry(|| if handles().remove(&handle.0) { Ok(()) } else { Err(Status::NOT_INITIALIZED) })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetCudartVersion() -> usize {
    13_000
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: LibraryHandle,
    operation: DescriptorHandle,
    a: DescriptorHandle,
    b: DescriptorHandle,
    c: DescriptorHandle,
    d: DescriptorHandle,
    preference: DescriptorHandle,
    requested: c_int,
    results: Out<HeuristicResult>,
    count: Out<c_int>,
) -> Status {
    entry(|| {
        check_handle(handle)?;
        find(preference, Kind::Preference)?;
        if requested < 1 {
            return Err(Status::INVALID_VALUE);
        }
        count.put(0)?;
        Product::new(Handles { operation, a, b, c, d })?;
        results.put(HeuristicResult {
            algorithm: ALGORITHM,
            workspace_bytes: 0,
            state: Status::SUCCESS,
            waves: 1.0,
            reserved: [0; 4],
        })?;
        Ok(count.put(1)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmul(
    handle: LibraryHandle,
    operation: DescriptorHandle,
    alpha: In<f32>,
    a: u64,
    a_layout: DescriptorHandle,
    b: u64,
    b_layout: DescriptorHandle,
    beta: In<f32>,
    c: u64,
    c_layout: DescriptorHandle,
    d: u64,
    d_layout: DescriptorHandle,
    algorithm: In<Algorithm>,
    _workspace: *mut c_void,
    _workspace_bytes: usize,
    stream: StreamHandle,
) -> Status {
    entry(|| {
        check_handle(handle)?;
        let product =
            Product::new(Handles { operation, a: a_layout, b: b_layout, c: c_layout, d: d_layout })?;
        // Null asks for the heuristic's choice; anything else must have come from it.
        if !algorithm.is_null() && algorithm.get()? != ALGORITHM {
            return Err(Status::INVALID_VALUE);
        }
        let scalars = if product.device_scalars {
            Scalars::Device(alpha.address(), beta.address())
        } else {
            Scalars::Host(alpha.get()?, beta.get()?)
        };
        let aligned = |address: u64, matrix: &Matrix| address.is_multiple_of(matrix.element.bytes() as u64);
        let (first, second) = if product.exchanged { (b, a) } else { (a, b) };
        let at = Addresses { a: first, b: second, c, d };
        let matrices = [(at.a, &product.a), (at.b, &product.b), (at.c, &product.c), (at.d, &product.d)];
        if !matrices.into_iter().all(|(address, matrix)| aligned(address, matrix)) {
            return Err(Status::INVALID_VALUE);
        }
        Ok(current()?.enqueue(stream, Command::Work(Arc::new(Matmul { product, at, scalars })))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::cublaslt::sys;

    #[test]
    fn the_result_of_the_heuristic_has_the_header_s_layout() {
        assert_eq!(size_of::<HeuristicResult>(), size_of::<sys::cublasLtMatmulHeuristicResult_t>());
        assert_eq!(
            std::mem::offset_of!(HeuristicResult, state),
            std::mem::offset_of!(sys::cublasLtMatmulHeuristicResult_t, state)
        );
        assert_eq!(size_of::<Algorithm>(), size_of::<sys::cublasLtMatmulAlgo_t>());
    }
}
