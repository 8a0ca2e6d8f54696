//! The kernels as they are embedded, and how one gets onto a device: cubin first, then PTX of the same architecture, then
//! older PTX; where no embedded image serves the device, its source is compiled on first use and kept.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use cudarc::driver::{CudaContext, CudaModule, DriverError, sys::CUresult};
use cudarc::nvrtc::Ptx;
use xxhash_rust::xxh3::xxh3_64;

use super::failed;
use super::libraries::{self, LibraryError};
use super::nvrtc::{self, Compiled, Nvrtc, NvrtcError};
use crate::backend::BackendError;

/// `sources`: ignore the embedded images and compile the sources, as a program built without NVRTC does.
pub const KERNELS_VARIABLE: &str = "ASFT_CUDA_KERNELS";

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
    /// Whether a device of this compute capability (80, 90) can run it. What is named for one architecture alone, by a
    /// letter at its end, runs on that one only.
    fn serves(&self, device: u32) -> bool {
        let digits = self.architecture.trim_start_matches("sm_");
        let number = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        number.parse::<u32>().is_ok_and(|own| own == device || own < device && number == digits)
    }
}

/// The architectures of the embedded images, the oldest first; none if only the sources are embedded.
pub fn architectures() -> Vec<&'static str> {
    let mut all: Vec<&str> = Vec::new();
    for image in IMAGES {
        if !all.contains(&image.architecture) {
            all.push(image.architecture);
        }
    }
    all
}

/// The `.cu` files: what an image can be made of.
pub fn kernel_sources() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".cu"))
}

/// In which form an image went to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Machine code.
    Cubin,
    /// What the driver compiled itself.
    Ptx,
}

/// Where an image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From the program.
    Embedded,
    /// From the cache of compiled kernels.
    Cached,
    /// From the compiler, a moment ago.
    Compiled,
}

/// Which image a device took.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loaded {
    /// Its form.
    pub kind: Kind,
    /// The architecture it was compiled for, e.g. `sm_90a`.
    pub architecture: String,
    /// Where it came from.
    pub origin: Origin,
}

impl fmt::Display for Loaded {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let kind = match self.kind {
            Kind::Cubin => "cubin",
            Kind::Ptx => "PTX",
        };
        let origin = match self.origin {
            Origin::Embedded => "embedded",
            Origin::Cached => "compiled earlier",
            Origin::Compiled => "compiled now",
        };
        write!(formatter, "{kind} of {} ({origin})", self.architecture)
    }
}

/// Why no image can be made for a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There is no compiler.
    #[error("this program holds no kernels for the device, and {0}")]
    NoCompiler(#[from] LibraryError),
    /// It fails.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// It knows no architecture that the device runs.
    #[error(
        "NVRTC {}.{} compiles for no architecture that runs on compute capability {}.{}; a newer one is needed: \
         python3 -m pip install --upgrade nvidia-cuda-nvrtc", version.0, version.1, device / 10, device % 10
    )]
    Architecture {
        /// NVRTC's version.
        version: (u32, u32),
        /// The device's compute capability, times ten.
        device: u32,
    },
}

/// The compute capability of a context's device, times ten: 80, 90.
pub fn capability(context: &CudaContext) -> Result<u32, DriverError> {
    context.compute_capability().map(|(major, minor)| (major * 10 + minor) as u32)
}

/// Whether embedded images serve a device of this compute capability, or sources have to be compiled.
pub fn serves(device: u32) -> bool {
    kernel_sources().all(|source| !embedded(source, device).is_empty())
}

/// The embedded images of a source that the device can run, the best first.
fn embedded(source: &str, device: u32) -> Vec<&'static Image> {
    if std::env::var_os(KERNELS_VARIABLE).is_some_and(|value| value == "sources") {
        return Vec::new();
    }
    // They are listed with the oldest architecture first.
    IMAGES.iter().rev().filter(|image| image.source == source && image.serves(device)).collect()
}

/// Loads the module of one source file.
///
/// # Errors
/// The driver refuses for another reason than the image's architecture or version, or nothing serves the device and its
/// source cannot be compiled ([`ImageError`]).
pub fn load(context: &Arc<CudaContext>, source: &'static str) -> Result<Arc<CudaModule>, BackendError> {
    let (module, loaded) = load_image(context, source)?;
    tracing::debug!("{source}: {loaded}");
    Ok(module)
}

/// As [`load`], and says which image the device took.
pub fn load_image(
    context: &Arc<CudaContext>,
    source: &'static str,
) -> Result<(Arc<CudaModule>, Loaded), BackendError> {
    let device = capability(context).map_err(failed("cuDeviceGetAttribute"))?;
    for image in embedded(source, device) {
        if let Some((module, kind)) = offer(context, image.cubin, image.ptx)? {
            let architecture = image.architecture.to_owned();
            return Ok((module, Loaded { kind, architecture, origin: Origin::Embedded }));
        }
    }
    let problem = |reason: String| BackendError::Device { operation: format!("loading {source}"), reason };
    let driver = crate::backend::probe::driver_version().map(|(major, _)| major);
    let (nvrtc, _) =
        libraries::nvrtc(driver).map_err(|e| problem(ImageError::from(e.clone()).to_string()))?;
    let made = compile(nvrtc, source, device, cache_folder().as_deref());
    let (compiled, architecture, origin) = made.map_err(|error| problem(error.to_string()))?;
    let (module, kind) = offer(context, &compiled.cubin, &compiled.ptx)?.ok_or_else(|| {
        problem(format!("the driver takes neither cubin nor PTX of {architecture}; a newer driver may"))
    })?;
    Ok((module, Loaded { kind, architecture, origin }))
}

/// Offers an image in both forms; none if neither was made for this device or driver.
fn offer(
    context: &Arc<CudaContext>,
    cubin: &[u8],
    ptx: &str,
) -> Result<Option<(Arc<CudaModule>, Kind)>, BackendError> {
    let forms = [(Ptx::from_binary(cubin.to_vec()), Kind::Cubin), (Ptx::from_src(ptx), Kind::Ptx)];
    for (image, kind) in forms {
        match context.load_module(image) {
            Ok(module) => return Ok(Some((module, kind))),
            Err(DriverError(
                CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            )) => {}
            Err(error) => return Err(failed("cuModuleLoadData")(error)),
        }
    }
    Ok(None)
}

/// Compiles a source of [`SOURCES`] for a device of this compute capability (80, 90), or takes what an earlier call left
/// in the folder `cache`. An entry that is damaged is made anew; a folder that cannot be written is warned of once and done
/// without. Gives the image, its architecture and whether it was compiled now.
///
/// # Errors
/// NVRTC fails or does not know the device.
pub fn compile(
    nvrtc: &Nvrtc,
    source: &str,
    device: u32,
    cache: Option<&Path>,
) -> Result<(Compiled, String, Origin), ImageError> {
    let version = nvrtc.version()?;
    let known = nvrtc.architectures()?;
    let newest = known.into_iter().filter(|capability| *capability <= device).max();
    let newest = newest.ok_or(ImageError::Architecture { version, device })?;
    // Hopper's own instructions, and those of the families after it, are only in the architecture of that name.
    let letter = if newest == device && device >= 90 { "a" } else { "" };
    let architecture = format!("sm_{newest}{letter}");
    let text = SOURCES.iter().find(|(name, _)| *name == source).map_or("", |(_, text)| text);
    let headers: Vec<(&str, &str)> =
        SOURCES.iter().copied().filter(|(name, _)| name.ends_with(".cuh")).collect();
    let made_of = format!("{version:?} {:?} {source} {text} {headers:?}", nvrtc::options(&architecture));
    let entry = cache.map(|folder| folder.join(format!("{source}.{:016x}", xxh3_64(made_of.as_bytes()))));
    if let Some(compiled) = entry.as_deref().and_then(read_entry) {
        return Ok((compiled, architecture, Origin::Cached));
    }
    let compiled = nvrtc.compile(source, text, &headers, &architecture)?;
    if let Some(entry) = entry {
        static WARNED: Once = Once::new();
        if let Err(error) = write_entry(&entry, &compiled) {
            WARNED.call_once(|| {
                tracing::warn!("compiled kernels cannot be kept and are compiled at every start: {error}");
            });
        }
    }
    Ok((compiled, architecture, Origin::Compiled))
}

/// Where compiled kernels are kept: `$XDG_CACHE_HOME/asft/kernels`, else below `~/.cache`.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("asft/kernels"))
}

// An entry: its checksum (8 bytes) over the rest, the length of the cubin (8 bytes), the cubin, the PTX; little endian.

/// The image of an entry; none if there is none or it is damaged.
fn read_entry(entry: &Path) -> Option<Compiled> {
    let bytes = std::fs::read(entry).ok()?;
    let (checksum, rest) = bytes.split_first_chunk()?;
    if u64::from_le_bytes(*checksum) != xxh3_64(rest) {
        return None;
    }
    let (length, images) = rest.split_first_chunk()?;
    let (cubin, ptx) = images.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Compiled { cubin: cubin.to_vec(), ptx: String::from_utf8(ptx.to_vec()).ok()? })
}

/// Writes an entry whole or not at all: another process may be doing the same.
fn write_entry(entry: &Path, compiled: &Compiled) -> std::io::Result<()> {
    let folder = entry.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    let length = (compiled.cubin.len() as u64).to_le_bytes();
    let rest = [&length, compiled.cubin.as_slice(), compiled.ptx.as_bytes()].concat();
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(&xxh3_64(&rest).to_le_bytes())?;
    aside.write_all(&rest)?;
    aside.persist(entry).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_serves_its_own_device_and_newer_ones_unless_it_is_for_one_alone() {
        let image = |architecture| Image { source: "a.cu", architecture, cubin: &[], ptx: "" };
        let serves = |architecture| [75, 80, 89, 90, 100].map(|device| image(architecture).serves(device));
        assert_eq!(serves("sm_80"), [false, true, true, true, true]);
        assert_eq!(serves("sm_90a"), [false, false, false, true, false]);
    }
}
