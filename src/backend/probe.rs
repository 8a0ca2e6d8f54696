//! Is there a CUDA driver, and a device worth taking? Asks before cudarc would panic, and turns absence into a reason.

use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::cuda::images;
use super::cuda::libraries::{self, LibraryError};

/// The name by which the stand-in of `cuda-sim/` calls its device: test equipment, taken only when asked for.
pub const SIMULATOR: &str = "cuda-sim";

/// The oldest compute capability that the kernels run on: bf16 arithmetic and asynchronous copies begin there.
pub const OLDEST: (i32, i32) = (8, 0);

/// Why there is no CUDA device to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// The driver's library cannot be loaded.
    #[error("no CUDA driver (libcuda.so.1 cannot be loaded)")]
    NoDriver,
    /// The driver is there and finds no device, or fails.
    #[error("the CUDA driver finds no device: {0}")]
    Driver(String),
    /// Only the stand-in, and nobody asked for it.
    #[error("only the stand-in {SIMULATOR} is there; --device cuda takes it")]
    Simulator,
    /// The device is older than the kernels.
    #[error("{name} has compute capability {}.{}, the kernels need {}.{} or newer", found.0, found.1, OLDEST.0, OLDEST.1)]
    TooOld {
        /// The device's name.
        name: String,
        /// Its compute capability.
        found: (i32, i32),
    },
    /// cublasLt cannot be loaded, or no embedded image serves the device and NVRTC cannot.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// The first CUDA device, if there is one and its libraries are there. `asked` says that it was asked for by name.
pub fn cuda(asked: bool) -> Result<Arc<CudaContext>, NoDevice> {
    let context = first_device()?;
    let failed = |error: result::DriverError| NoDevice::Driver(error.to_string());
    let name = context.name().map_err(failed)?;
    if !asked && name == SIMULATOR {
        return Err(NoDevice::Simulator);
    }
    let found = context.compute_capability().map_err(failed)?;
    if found < OLDEST {
        return Err(NoDevice::TooOld { name, found });
    }
    let driver = driver_version().map(|(major, _)| major);
    libraries::cublas_lt(driver).map_err(Clone::clone)?;
    if !images::serves(images::capability(&context).map_err(failed)?) {
        libraries::nvrtc(driver).map_err(Clone::clone)?;
    }
    Ok(context)
}

/// The first CUDA device, whether it can be used or not.
pub fn first_device() -> Result<Arc<CudaContext>, NoDevice> {
    // SAFETY: loads the library by its usual names, or finds that it cannot.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoDevice::NoDriver);
    }
    CudaContext::new(0).map_err(|error| NoDevice::Driver(error.to_string()))
}

/// The newest CUDA that the driver knows: major and minor version; none without a driver.
pub fn driver_version() -> Option<(u32, u32)> {
    // SAFETY: as in `first_device`.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let mut version = 0;
    // SAFETY: a place to write to; the function needs no initialised driver.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().ok()?;
    let version = u32::try_from(version).ok()?;
    Some((version / 1000, version % 1000 / 10))
}

/// The driver's file, if there is a driver and the system tells.
pub fn driver_file() -> Option<PathBuf> {
    // SAFETY: as in `first_device`.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    // SAFETY: the library is there, as was just seen; only the address of the function is looked at.
    let function = unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"cuDriverGetVersion\0") };
    libraries::file_of(*function.ok()? as usize)
}
