//! One launch: arguments by value, in the kernel's order.

use std::ffi::c_void;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaFunction, result};

use super::CudaBackend;
use super::kernels::Kernels;
use crate::backend::{Element, View};

/// Bytes of dynamic shared memory that a launch gets without asking for more first.
const SHARED_UNASKED: u32 = 48 << 10;

/// Threads of a block whose work runs along a row.
pub const ROW_THREADS: u32 = 256;

/// Threads for a row of `hidden` stored values that are moved 16 bytes at a time.
pub fn row_threads(element: Element, hidden: usize) -> u32 {
    let pieces = hidden.div_ceil(16 / element.bytes()) as u32;
    pieces.next_multiple_of(32).clamp(32, ROW_THREADS)
}

/// The one format in which all operands are stored.
///
/// # Panics
/// If they differ: a mistake of the caller.
pub fn stored<const N: usize>(operands: [Option<View>; N]) -> Element {
    let mut elements = operands.iter().flatten().map(|view| view.element);
    let element = elements.next().unwrap_or_else(|| panic!("no operand"));
    assert!(elements.all(|other| other == element), "operands in different formats: {operands:?}");
    element
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address, or a 64-bit count.
    U64(u64),
    /// A 32-bit count or flag.
    U32(u32),
    /// A float.
    F32(f32),
    /// A double.
    F64(f64),
}

impl Argument {
    fn address(&mut self) -> *mut c_void {
        match self {
            Argument::U64(value) => (&raw mut *value).cast(),
            Argument::U32(value) => (&raw mut *value).cast(),
            Argument::F32(value) => (&raw mut *value).cast(),
            Argument::F64(value) => (&raw mut *value).cast(),
        }
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::U64(value)
    }
}

impl From<usize> for Argument {
    /// Sizes of the model and the batch: 32 bits on the device.
    fn from(value: usize) -> Self {
        Argument::U32(
            u32::try_from(value).unwrap_or_else(|_| panic!("{value} does not fit a kernel's 32-bit size")),
        )
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Argument::U32(u32::from(value))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::F32(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Argument::F64(value)
    }
}

/// The argument list of [`CudaBackend::launch`].
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &mut [$($crate::backend::cuda::launch::Argument::from($argument)),*] };
}
pub(super) use arguments;

impl CudaBackend {
    /// Enqueues a kernel without dynamic shared memory; see [`Self::launch_shared`].
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn launch(
        &mut self,
        function: impl for<'k> Fn(&'k Kernels) -> &'k CudaFunction,
        grid: (usize, usize),
        block: (u32, u32),
        arguments: &mut [Argument],
    ) {
        // SAFETY: by this function's contract.
        unsafe { self.launch_shared(function, grid, block, 0, arguments) };
    }

    /// Enqueues a kernel with `shared` bytes of dynamic shared memory per block; a grid without blocks is no launch. An
    /// error is kept until somebody waits.
    ///
    /// # Safety
    /// The arguments must be those of the kernel in number, order and type, and every address must be good for what the
    /// kernel does with this grid, these sizes and this much shared memory.
    pub(super) unsafe fn launch_shared(
        &mut self,
        function: impl for<'k> Fn(&'k Kernels) -> &'k CudaFunction,
        grid: (usize, usize),
        block: (u32, u32),
        shared: u32,
        arguments: &mut [Argument],
    ) {
        if grid.0 == 0 || grid.1 == 0 || self.error.is_some() {
            return;
        }
        let grid = (grid.0 as u32, grid.1 as u32, 1);
        let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(Argument::address).collect();
        let function = function(&self.kernels);
        if shared > SHARED_UNASKED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            if let Err(error) = function.set_attribute(most, shared as i32) {
                return self.keep("cuFuncSetAttribute", Err(error));
            }
        }
        let function = function.cu_function();
        let (block, stream) = ((block.0, block.1, 1), self.stream.cu_stream());
        // SAFETY: a loaded function and a live stream; the rest by this function's contract.
        let launched = unsafe { result::launch_kernel(function, grid, block, shared, stream, &mut pointers) };
        self.keep("cuLaunchKernel", launched);
    }
}
