//! Compiling CUDA with NVRTC, launching kernels on a fresh simulated device, moving typed arrays.

use cuda_sim::engine::{DeviceMemory, Launch, LaunchError, Module, Options, Report, launch};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

/// Where NVRTC is: `ASFT_NVRTC`, or the wheels unpacked in `target/nvrtc`.
fn nvrtc_library() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("ASFT_NVRTC") {
        return Some(PathBuf::from(file));
    }
    let file = nvrtc_folder().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    file.exists().then_some(file)
}

fn nvrtc_folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("nvrtc")
}

/// Folder of the CUDA headers, if NVRTC came with them.
fn headers() -> Option<PathBuf> {
    let beside_library = nvrtc_library()?.ancestors().nth(3)?.join("cuda_runtime/include");
    [beside_library, nvrtc_folder().join("nvidia/cuda_runtime/include")]
        .into_iter()
        .find(|folder| folder.exists())
}

/// Whether a test that needs NVRTC can run; otherwise says why not.
pub fn have_nvrtc() -> bool {
    if nvrtc_library().is_some() {
        return true;
    }
    let message = "no NVRTC: set ASFT_NVRTC or unpack its wheel into target/nvrtc";
    assert!(std::env::var_os("ASFT_REQUIRE_NVRTC").is_none_or(|value| value != "1"), "{message}");
    eprintln!("skipped {}: {message}", std::thread::current().name().unwrap_or("a test"));
    false
}

type Status = c_int;
type Program = *mut c_void;

/// Compiles CUDA source to PTX for `sm_80`, `sm_90a` and so on. A failure is the test's.
pub fn compile(source: &str, name: &str, architecture: &str, options: &[&str]) -> String {
    let library = nvrtc_library().expect("have_nvrtc() was asked before");
    // SAFETY: the library is NVRTC, and the signatures below are those of nvrtc.h of version 12.
    unsafe {
        let library = libloading::Library::new(&library).expect("NVRTC loads");
        let create: libloading::Symbol<
            unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const c_void,
                *const c_void,
            ) -> Status,
        > = library.get(b"nvrtcCreateProgram").expect("nvrtcCreateProgram");
        let compile: libloading::Symbol<
            unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
        > = library.get(b"nvrtcCompileProgram").expect("nvrtcCompileProgram");
        type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
        let text = |size: &[u8], get: &[u8], program: Program| -> String {
            let size: libloading::Symbol<Size> = library.get(size).expect("a size function");
            let get: libloading::Symbol<Get> = library.get(get).expect("a text function");
            let mut bytes = 0;
            assert_eq!(size(program, &mut bytes), 0);
            let mut buffer = vec![0u8; bytes + 1];
            assert_eq!(get(program, buffer.as_mut_ptr().cast()), 0);
            CStr::from_bytes_until_nul(&buffer).expect("a C string").to_string_lossy().into_owned()
        };
        let mut program = ptr::null_mut();
        let (source, name) =
            (CString::new(source).expect("no zero byte"), CString::new(name).expect("no zero byte"));
        let status = create(&mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null());
        assert_eq!(status, 0, "nvrtcCreateProgram");
        let mut all = vec![format!("--gpu-architecture={}", architecture.replace("sm_", "compute_"))];
        all.extend(["-lineinfo", "--std=c++17", "--device-int128"].map(String::from));
        all.extend(headers().map(|folder| format!("-I{}", folder.display())));
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let all: Vec<CString> =
            all.into_iter().map(|option| CString::new(option).expect("no zero byte")).collect();
        let pointers: Vec<_> = all.iter().map(|option| option.as_ptr()).collect();
        let status = compile(program, pointers.len() as c_int, pointers.as_ptr());
        assert_eq!(status, 0, "{}", text(b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog", program));
        text(b"nvrtcGetPTXSize", b"nvrtcGetPTX", program)
    }
}

/// The PTX of a kernel file in `tests/kernels`.
pub fn kernel_file(name: &str, architecture: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(name);
    let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    compile(&source, name, architecture, &[])
}

/// A number that can be moved to and from the device.
pub trait Value: Copy + Default {
    fn to_bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! values {
    ($($ty:ty),*) => {$(impl Value for $ty {
        fn to_bytes(self) -> Vec<u8> { self.to_le_bytes().to_vec() }
        fn from_bytes(bytes: &[u8]) -> Self { <$ty>::from_le_bytes(bytes.try_into().expect("the type's size")) }
    })*};
}
values!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// A simulated device with 1 GiB.
pub struct Device {
    pub memory: DeviceMemory,
    pub options: Options,
}

/// A launch of one kernel, built step by step.
pub struct Call<'d> {
    device: &'d Device,
    module: &'d Module,
    name: String,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    shared: u32,
    parameters: Vec<Vec<u8>>,
}

impl Device {
    pub fn new() -> Device {
        let options = Options { print: false, threads: 1, ..Options::default() };
        Device { memory: DeviceMemory::new(1 << 30), options }
    }

    pub fn load(&self, ptx: &str) -> Module {
        Module::load(ptx, (9, 0), &self.memory).unwrap_or_else(|error| {
            let line = ptx.lines().nth(error.line as usize - 1).unwrap_or("");
            panic!("{error}\n    {line}")
        })
    }

    pub fn upload<T: Value>(&self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_bytes()).collect();
        let address = self.memory.allocate(bytes.len() as u64, 1).expect("room");
        self.memory.write(address, &bytes).expect("in bounds");
        address
    }

    /// Room for `count` values, uninitialised.
    pub fn room<T: Value>(&self, count: usize) -> u64 {
        self.memory.allocate((count * size_of::<T>()) as u64, 1).expect("room")
    }

    pub fn download<T: Value>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.memory.read(address, &mut bytes).expect("in bounds");
        bytes.chunks(size_of::<T>()).map(T::from_bytes).collect()
    }

    pub fn call<'d>(
        &'d self,
        module: &'d Module,
        name: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
    ) -> Call<'d> {
        Call {
            device: self,
            module,
            name: name.to_owned(),
            grid: grid.into().0,
            block: block.into().0,
            cluster: None,
            shared: 0,
            parameters: Vec::new(),
        }
    }
}

/// One to three dimensions.
pub struct Dim([u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Dim {
        Dim([x, 1, 1])
    }
}

impl From<[u32; 2]> for Dim {
    fn from([x, y]: [u32; 2]) -> Dim {
        Dim([x, y, 1])
    }
}

impl From<[u32; 3]> for Dim {
    fn from(dim: [u32; 3]) -> Dim {
        Dim(dim)
    }
}

impl Call<'_> {
    pub fn arg<T: Value>(mut self, value: T) -> Self {
        self.parameters.push(value.to_bytes());
        self
    }

    pub fn args<T: Value>(mut self, values: &[T]) -> Self {
        self.parameters.extend(values.iter().map(|value| value.to_bytes()));
        self
    }

    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    pub fn cluster(mut self, blocks: u32) -> Self {
        self.cluster = Some([blocks, 1, 1]);
        self
    }

    pub fn run(&self) -> Result<Report, LaunchError> {
        self.run_with(&self.device.options)
    }

    pub fn run_with(&self, options: &Options) -> Result<Report, LaunchError> {
        let function =
            self.module.function(&self.name).unwrap_or_else(|| panic!("there is no kernel {}", self.name));
        let parameters: Vec<&[u8]> = self.parameters.iter().map(Vec::as_slice).collect();
        let what = Launch {
            function,
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared_bytes: self.shared,
            parameters: &parameters,
        };
        launch(self.module, &self.device.memory, &what, options)
    }

    /// Runs and fails the test on any finding.
    pub fn ok(&self) -> Report {
        self.run().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}
