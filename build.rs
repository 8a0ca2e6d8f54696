//! Compiles `kernels/*.cu` with NVRTC for every architecture below and embeds cubin and PTX of each; without NVRTC only
//! the sources are embedded, and the program compiles them on first use. Never downloads, never fails for want of a GPU.

use std::env;
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::{Library, Symbol};

/// The oldest architecture first: its PTX runs on everything that is newer.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

type Program = *mut c_void;

fn main() {
    for name in ["ASFT_NVRTC", "CUDA_HOME", "CUDA_PATH", "CARGO_TARGET_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = Path::new("kernels");
    let images = match find_nvrtc() {
        Some(path) => compile_all(&path, kernels, &out).unwrap_or_else(|error| {
            // cargo shows one line per directive.
            for line in format!("compiling the CUDA kernels with {}: {error}", path.display()).lines() {
                println!("cargo::error={line}");
            }
            String::new()
        }),
        None => {
            println!(
                "cargo::warning=no NVRTC found: kernels will be compiled on first use (./test.sh --setup brings one)"
            );
            String::new()
        }
    };
    let sources: String = sources(kernels)
        .iter()
        .map(|name| {
            let path = kernels.join(name).canonicalize().expect("listed a moment ago");
            format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string())
        })
        .collect();
    let text = format!(
        "/// What was compiled at build time.\npub static IMAGES: &[Image] = &[\n{images}];\n\n\
         /// Every file of `kernels/`.\npub static SOURCES: &[(&str, &str)] = &[\n{sources}];\n"
    );
    fs::write(out.join("images.rs"), text).expect("OUT_DIR can be written");
}

/// The first NVRTC of the places that somebody chose on purpose; never a Python found by chance.
fn find_nvrtc() -> Option<PathBuf> {
    if let Some(file) = env::var_os("ASFT_NVRTC") {
        return Some(PathBuf::from(file));
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or(manifest.join("target"), PathBuf::from);
    let set_up = target.join("nvrtc");
    // A path that does not exist would make every build start over; test.sh touches this file after its set-up.
    if set_up.exists() {
        println!("cargo::rerun-if-changed={}", set_up.join("asft-wheels.txt").display());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let folders = homes.chain([PathBuf::from("/usr/local/cuda")]).map(|home| home.join("lib64"));
    folders.chain([set_up.join("nvidia/cuda_nvrtc/lib")]).find_map(|folder| library_in(&folder))
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Paths below `kernels/`, sorted.
fn sources(kernels: &Path) -> Vec<String> {
    let list = |folder: &Path, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).expect("kernels/ is part of the source");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.ends_with(".cu") || name.ends_with(".cuh"))
            .map(|name| format!("{prefix}{name}"))
            .collect()
    };
    let mut all = list(kernels, "");
    all.extend(list(&kernels.join("lib"), "lib/"));
    all.sort();
    all
}

/// The text of the `IMAGES` entries.
fn compile_all(nvrtc: &Path, kernels: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    let nvrtc = Nvrtc::open(nvrtc)?;
    let mut entries = String::new();
    for name in sources(kernels).iter().filter(|name| name.ends_with(".cu")) {
        let source = fs::read_to_string(kernels.join(name))?;
        for architecture in ARCHITECTURES {
            let (cubin, ptx) = nvrtc.compile(&source, name, architecture, kernels)?;
            let stem = out.join(format!("{}.{architecture}", name.trim_end_matches(".cu")));
            let (cubin_path, ptx_path) =
                (stem.with_added_extension("cubin"), stem.with_added_extension("ptx"));
            fs::write(&cubin_path, cubin)?;
            // NVRTC counts a closing zero.
            fs::write(&ptx_path, ptx.strip_suffix(&[0]).unwrap_or(&ptx))?;
            writeln!(
                entries,
                "    Image {{ source: {name:?}, architecture: {architecture:?}, cubin: include_bytes!({:?}), ptx: include_str!({:?}) }},",
                cubin_path.display().to_string(),
                ptx_path.display().to_string(),
            )?;
        }
    }
    Ok(entries)
}

/// The functions of libnvrtc that are needed, without a binding crate: a build script must not panic where cudarc does.
struct Nvrtc(Library);

type Sized = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Filled = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Nvrtc {
    fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        // SAFETY: NVIDIA's library; its initialisers have no requirements.
        Ok(Self(unsafe { Library::new(path) }?))
    }

    fn symbol<T>(&self, name: &CStr) -> Result<Symbol<'_, T>, libloading::Error> {
        // SAFETY: every caller names a function of nvrtc.h with its type there.
        unsafe { self.0.get(name.to_bytes_with_nul()) }
    }

    fn compile(
        &self,
        source: &str,
        name: &str,
        architecture: &str,
        include: &Path,
    ) -> Result<(Vec<u8>, Vec<u8>), Box<dyn Error>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let create = self.symbol::<Create>(c"nvrtcCreateProgram")?;
        let compile = self.symbol::<Compile>(c"nvrtcCompileProgram")?;
        let destroy = self.symbol::<Destroy>(c"nvrtcDestroyProgram")?;
        let (source, label) = (CString::new(source)?, CString::new(name)?);
        let options = [
            CString::new(format!("--gpu-architecture={architecture}"))?,
            CString::new(format!("--include-path={}", include.canonicalize()?.display()))?,
            c"--std=c++17".to_owned(),
            c"--generate-line-info".to_owned(),
        ];
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = null_mut();
        // SAFETY: strings that outlive the calls, no headers, and a program that is destroyed once.
        unsafe {
            if create(&mut program, source.as_ptr(), label.as_ptr(), 0, null_mut(), null_mut()) != 0 {
                return Err(format!("{name}: nvrtcCreateProgram failed").into());
            }
            let status = compile(program, pointers.len() as c_int, pointers.as_ptr());
            let result = if status == 0 {
                self.fetch(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")
                    .and_then(|cubin| Ok((cubin, self.fetch(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX")?)))
            } else {
                let log = self.fetch(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
                Err(format!("{name} for {architecture}:\n{}", String::from_utf8_lossy(&log)).into())
            };
            destroy(&mut program);
            result
        }
    }

    /// # Safety
    /// `program` must be live, and the names those of a pair of nvrtc.h functions.
    unsafe fn fetch(&self, program: Program, size: &CStr, fill: &CStr) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut bytes = 0usize;
        // SAFETY: by this function's contract; the buffer has the size that was asked for.
        unsafe {
            self.symbol::<Sized>(size)?(program, &mut bytes);
            let mut buffer = vec![0u8; bytes];
            if self.symbol::<Filled>(fill)?(program, buffer.as_mut_ptr().cast()) != 0 {
                return Err(format!("{fill:?} failed").into());
            }
            Ok(buffer)
        }
    }
}
