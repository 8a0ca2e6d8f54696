//! NVRTC, NVIDIA's run-time compiler: the functions that are needed, and the one list of options kernels are compiled with.
//!
//! Boundary: the build script includes this file as well as the library does, so that an image is the same wherever it is
//! made; hence it depends on `libloading` alone. Which NVRTC is taken is decided in `build.rs` and in `libraries.rs`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::null_mut;

use libloading::{Library, Symbol};

/// What every kernel is compiled with, beside its architecture. Headers are handed over in memory: no include path.
const OPTIONS: [&str; 2] = ["--std=c++17", "--generate-line-info"];

/// All options of a compilation, in NVRTC's order and spelling.
pub fn options(architecture: &str) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={architecture}")];
    options.extend(OPTIONS.map(str::to_owned));
    options
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvrtcError {
    /// The library cannot be opened.
    Open(String),
    /// The library lacks a function of nvrtc.h, or the function failed.
    Function {
        /// Its name.
        name: String,
        /// What the loader or NVRTC answered.
        reason: String,
    },
    /// The source is not accepted.
    Compile {
        /// The file.
        source: String,
        /// The architecture, e.g. `sm_90a`.
        architecture: String,
        /// The compiler's own words.
        log: String,
    },
}

impl fmt::Display for NvrtcError {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Open(reason) => write!(formatter, "cannot open NVRTC: {reason}"),
            Self::Function { name, reason } => write!(formatter, "{name} failed: {reason}"),
            Self::Compile { source, architecture, log } => {
                write!(formatter, "{source} for {architecture}:\n{log}")
            }
        }
    }
}

impl std::error::Error for NvrtcError {}

/// What one compilation gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code for exactly the architecture.
    pub cubin: Vec<u8>,
    /// What a driver can compile for it, and for newer ones unless the architecture's name ends in a letter.
    pub ptx: String,
}

/// A loaded NVRTC.
#[derive(Debug)]
pub struct Nvrtc(Library);

type Program = *mut c_void;
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
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Count = unsafe extern "C" fn(*mut c_int) -> c_int;

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

fn c_string(text: &str) -> Result<CString, NvrtcError> {
    let zero = |_| NvrtcError::Function {
        name: "nvrtcCreateProgram".to_owned(),
        reason: format!("a zero byte in {:?}", text.chars().take(40).collect::<String>()),
    };
    CString::new(text).map_err(zero)
}

impl Nvrtc {
    /// Opens the library of this path, or of this name where the loader looks.
    pub fn open(file: &Path) -> Result<Self, NvrtcError> {
        // SAFETY: NVIDIA's library; its initialisers have no requirements.
        let library = unsafe { Library::new(file) };
        library.map(Self).map_err(|error| NvrtcError::Open(error.to_string()))
    }

    fn symbol<T>(&self, name: &CStr) -> Result<Symbol<'_, T>, NvrtcError> {
        // SAFETY: every caller names a function of nvrtc.h with its type there.
        unsafe { self.0.get(name.to_bytes_with_nul()) }.map_err(|error| NvrtcError::Function {
            name: name.to_string_lossy().into_owned(),
            reason: error.to_string(),
        })
    }

    /// Any address inside the library: from it the system tells which file it is.
    pub fn address(&self) -> Option<usize> {
        self.symbol::<Version>(c"nvrtcVersion").ok().map(|function| *function as usize)
    }

    /// Major and minor version of the CUDA toolkit it comes from.
    pub fn version(&self) -> Result<(u32, u32), NvrtcError> {
        let (mut major, mut minor) = (0, 0);
        let version = self.symbol::<Version>(c"nvrtcVersion")?;
        // SAFETY: two places to write to.
        succeeded(c"nvrtcVersion", unsafe { version(&mut major, &mut minor) })?;
        Ok((major as u32, minor as u32))
    }

    /// The compute capabilities that it can compile for, ascending: 75, 80, ...
    pub fn architectures(&self) -> Result<Vec<u32>, NvrtcError> {
        let mut count = 0;
        let number = self.symbol::<Count>(c"nvrtcGetNumSupportedArchs")?;
        let fill = self.symbol::<Count>(c"nvrtcGetSupportedArchs")?;
        // SAFETY: a place for the number, then as many places as it says.
        unsafe {
            succeeded(c"nvrtcGetNumSupportedArchs", number(&mut count))?;
            let mut all = vec![0 as c_int; count.max(0) as usize];
            succeeded(c"nvrtcGetSupportedArchs", fill(all.as_mut_ptr()))?;
            Ok(all.into_iter().map(|capability| capability as u32).collect())
        }
    }

    /// Compiles a source for an architecture (`sm_80`, `sm_90a`). `headers` are names as the source includes them, with
    /// their texts.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        architecture: &str,
    ) -> Result<Compiled, NvrtcError> {
        let create = self.symbol::<Create>(c"nvrtcCreateProgram")?;
        let compile = self.symbol::<Compile>(c"nvrtcCompileProgram")?;
        let destroy = self.symbol::<Destroy>(c"nvrtcDestroyProgram")?;
        let (text, label) = (c_string(source)?, c_string(name)?);
        let names = headers.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = headers.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
        let options = options(architecture).iter().map(|o| c_string(o)).collect::<Result<Vec<_>, _>>()?;
        let (names, texts, options) = (pointers(&names), pointers(&texts), (pointers(&options), options));
        let mut program: Program = null_mut();
        // SAFETY: strings that outlive the calls, as many headers as names, and a program that is destroyed once.
        unsafe {
            let count = names.len() as c_int;
            let created =
                create(&mut program, text.as_ptr(), label.as_ptr(), count, texts.as_ptr(), names.as_ptr());
            succeeded(c"nvrtcCreateProgram", created)?;
            let status = compile(program, options.0.len() as c_int, options.0.as_ptr());
            let result = self.result(program, status, name, architecture);
            destroy(&mut program);
            result
        }
    }

    /// # Safety
    /// `program` must be live, and `status` what its compilation returned.
    unsafe fn result(
        &self,
        program: Program,
        status: c_int,
        source: &str,
        architecture: &str,
    ) -> Result<Compiled, NvrtcError> {
        // SAFETY: by this function's contract, with pairs of functions of nvrtc.h.
        unsafe {
            if status != 0 {
                let log = self.fetch(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
                let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
                let (source, architecture) = (source.to_owned(), architecture.to_owned());
                return Err(NvrtcError::Compile { source, architecture, log });
            }
            let cubin = self.fetch(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?;
            let ptx = self.fetch(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX")?;
            // NVRTC counts a closing zero.
            let ptx = String::from_utf8_lossy(&ptx).trim_end_matches('\0').to_owned();
            Ok(Compiled { cubin, ptx })
        }
    }

    /// # Safety
    /// `program` must be live, and the names those of a pair of nvrtc.h functions.
    unsafe fn fetch(&self, program: Program, size: &CStr, fill: &CStr) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0usize;
        // SAFETY: by this function's contract; the buffer has the size that was asked for.
        unsafe {
            succeeded(size, self.symbol::<Size>(size)?(program, &mut bytes))?;
            let mut buffer = vec![0u8; bytes];
            succeeded(fill, self.symbol::<Fill>(fill)?(program, buffer.as_mut_ptr().cast()))?;
            Ok(buffer)
        }
    }
}

fn succeeded(name: &CStr, status: c_int) -> Result<(), NvrtcError> {
    if status == 0 {
        return Ok(());
    }
    Err(NvrtcError::Function {
        name: name.to_string_lossy().into_owned(),
        reason: format!("nvrtcResult {status}"),
    })
}
