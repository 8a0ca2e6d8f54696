//! Is there a CUDA driver, and a device worth taking? Asks before cudarc would panic, and turns absence into a reason.

use cudarc::driver::{CudaContext, sys};

/// The name by which the stand-in of `cuda-sim/` calls its device: test equipment, taken only when asked for.
pub const SIMULATOR: &str = "cuda-sim";

/// Why there is no CUDA device to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// The driver's library cannot be loaded.
    #[error("no CUDA driver (libcuda.so.1 cannot be loaded)")]
    NoDriver,
    /// cublasLt cannot be loaded.
    #[error(
        "no cublasLt (libcublasLt cannot be loaded); get it with: python3 -m pip install nvidia-cublas, and put its \
         lib folder on LD_LIBRARY_PATH"
    )]
    NoCublasLt,
    /// The driver is there and finds no device, or fails.
    #[error("the CUDA driver finds no device: {0}")]
    Driver(String),
    /// Only the stand-in, and nobody asked for it.
    #[error("only the stand-in {SIMULATOR} is there; --device cuda takes it")]
    Simulator,
}

/// The first CUDA device, if there is one and its libraries are there. `asked` says that it was asked for by name.
pub fn cuda(asked: bool) -> Result<std::sync::Arc<CudaContext>, NoDevice> {
    // SAFETY: loads the library by its usual names, or finds that it cannot.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoDevice::NoDriver);
    }
    let failed = |error: cudarc::driver::DriverError| NoDevice::Driver(error.to_string());
    let context = CudaContext::new(0).map_err(failed)?;
    if !asked && context.name().map_err(failed)? == SIMULATOR {
        return Err(NoDevice::Simulator);
    }
    // SAFETY: as above.
    if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        return Err(NoDevice::NoCublasLt);
    }
    Ok(context)
}
