//! The kernels as they are embedded, and how one gets onto a device: cubin first, then PTX of the same architecture, then
//! older PTX; without any image, the sources are compiled on first use and kept.

use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, DriverError, sys::CUresult};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use xxhash_rust::xxh3::xxh3_64;

use super::{CudaBackend, failed};
use crate::backend::BackendError;

/// One compiled `.cu` file.
#[derive(Debug)]
pub struct Image {
    /// The file, e.g. `rmsnorm.cu`.
    pub source: &'static str,
    /// `sm_80`, `sm_90a`.
    pub architecture: &'static str,
    /// Machine code of exactly this architecture.
    pub cubin: &'static [u8],
    /// What a driver can compile for newer ones.
    pub ptx: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

impl Image {
    /// Compute capability as a number: 80, 90.
    fn capability(&self) -> u32 {
        self.architecture.trim_start_matches("sm_").trim_end_matches('a').parse().unwrap_or(u32::MAX)
    }
}

/// Loads the module of one source file.
pub fn load(context: &Arc<CudaContext>, source: &'static str) -> Result<Arc<CudaModule>, BackendError> {
    let (major, minor) = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
    let device = (major * 10 + minor) as u32;
    let mut images: Vec<&Image> = IMAGES.iter().filter(|image| image.source == source).collect();
    images.retain(|image| image.capability() <= device);
    images.sort_by_key(|image| std::cmp::Reverse(image.capability()));
    for image in &images {
        for ptx in [Ptx::from_binary(image.cubin.to_vec()), Ptx::from_src(image.ptx)] {
            match context.load_module(ptx) {
                Ok(module) => return Ok(module),
                // Not made for this device, or for a newer driver: the next one may be.
                Err(DriverError(
                    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                )) => {}
                Err(error) => return Err(failed("cuModuleLoadData")(error)),
            }
        }
    }
    compile(context, source, device)
}

fn compile(context: &Arc<CudaContext>, source: &str, device: u32) -> Result<Arc<CudaModule>, BackendError> {
    let problem = |reason: String| BackendError::Device { operation: format!("compiling {source}"), reason };
    let architecture = if device == 90 { "compute_90a".to_owned() } else { format!("compute_{device}") };
    let text: String = SOURCES.iter().map(|(_, text)| *text).collect();
    let key = xxh3_64(format!("{architecture} {text}").as_bytes());
    let folder = CudaBackend::cache_folder().join(format!("{key:016x}"));
    let cached = folder.join(format!("{source}.ptx"));
    if !cached.is_file() {
        // SAFETY: only looks for the library.
        if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return Err(problem(
                "this program holds no image for the device and libnvrtc cannot be loaded; get it with: python3 -m pip \
                 install nvidia-cuda-nvrtc, and put its lib folder on LD_LIBRARY_PATH"
                    .to_owned(),
            ));
        }
        for (name, text) in SOURCES {
            let path = folder.join(name);
            let parent = path.parent().map_or_else(PathBuf::new, PathBuf::from);
            fs_err::create_dir_all(parent)
                .and_then(|()| fs_err::write(&path, text))
                .map_err(|e| problem(e.to_string()))?;
        }
        let (_, text) = SOURCES
            .iter()
            .find(|(name, _)| *name == source)
            .ok_or_else(|| problem("no such source".to_owned()))?;
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()],
            include_paths: vec![folder.display().to_string()],
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(text, options).map_err(|error| problem(error.to_string()))?;
        fs_err::write(&cached, ptx.to_src()).map_err(|error| problem(error.to_string()))?;
    }
    context.load_module(Ptx::from_file(cached)).map_err(failed("cuModuleLoadData"))
}
