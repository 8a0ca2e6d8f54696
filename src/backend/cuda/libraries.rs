//! Where libcublasLt and libnvrtc come from at run time.
//!
//! What the loader finds by itself (`LD_LIBRARY_PATH`, the system's folders) goes first. Else the places where CUDA's
//! libraries lie on machines whose loader does not know them are searched, and the first file that can be loaded is
//! opened by its absolute path: the loader then resolves cudarc's own later request by soname to that very file.
//! cublasLt needs nothing of CUDA's beside it; NVRTC finds its built-ins in its own folder.
//!
//! Boundary: nothing is downloaded, and the driver (libcuda) is the system's: only the loader may find it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::nvrtc::Nvrtc;

/// The variable with folders to search, separated by colons.
pub const FOLDERS_VARIABLE: &str = "ASFT_CUDA_LIBS";

/// The majors in which NVIDIA names these libraries, the newest first.
const MAJORS: [u32; 2] = [13, 12];

/// A library that the program opens at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaLibrary {
    /// Matrix products.
    CublasLt,
    /// The compiler, for devices that no embedded image serves.
    Nvrtc,
}

impl CudaLibrary {
    fn stem(self) -> &'static str {
        match self {
            Self::CublasLt => "libcublasLt.so",
            Self::Nvrtc => "libnvrtc.so",
        }
    }

    /// The package of PyPI that brings it for every driver the kernels run on; the first brings the second.
    fn package(self) -> &'static str {
        match self {
            Self::CublasLt => "nvidia-cublas-cu12",
            Self::Nvrtc => "nvidia-cuda-nvrtc-cu12",
        }
    }

    /// The names of its files for a driver of CUDA `driver_major`, the best first. A library of a newer major than the
    /// driver's loads and then fails.
    fn names(self, driver_major: Option<u32>) -> Vec<String> {
        let fits = |major: &u32| driver_major.is_none_or(|driver| *major <= driver);
        let mut names: Vec<String> =
            MAJORS.iter().filter(|m| fits(m)).map(|m| format!("{}.{m}", self.stem())).collect();
        names.push(self.stem().to_owned());
        names
    }
}

impl fmt::Display for CudaLibrary {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.stem())
    }
}

/// A library that has been opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its file, with links followed, if the system tells.
    pub file: Option<PathBuf>,
    /// What led to it, e.g. `CUDA_HOME`.
    pub place: &'static str,
}

/// A library that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{library} is needed and cannot be loaded{}; get it with: python3 -m pip install {}, or name its folder in \
     {FOLDERS_VARIABLE}",
    listed(refused),
    library.package()
)]
pub struct LibraryError {
    /// Which.
    pub library: CudaLibrary,
    /// Files of that name that the loader refused, with its words.
    pub refused: Vec<(PathBuf, String)>,
}

fn listed(refused: &[(PathBuf, String)]) -> String {
    if refused.is_empty() {
        return " (searched: the loader's path, ASFT_CUDA_LIBS, CUDA_HOME, CUDA_PATH, /usr/local/cuda, \
                ${CARGO_TARGET_DIR:-target}/nvrtc, VIRTUAL_ENV, python3's site-packages)"
            .to_owned();
    }
    let lines: Vec<String> =
        refused.iter().map(|(file, reason)| format!("{}: {reason}", file.display())).collect();
    format!(" ({})", lines.join("; "))
}

/// What the loader finds without help.
const LOADER: &str = "the loader's path";

/// Makes cublasLt available to cudarc. `driver_major` is the driver's CUDA major version, if known. The first call
/// decides for the whole process.
///
/// # Errors
/// No file of that name in any of the places, or none that can be loaded.
pub fn cublas_lt(driver_major: Option<u32>) -> Result<&'static Found, &'static LibraryError> {
    static FOUND: OnceLock<Result<Found, LibraryError>> = OnceLock::new();
    let present = || {
        // SAFETY: loads the library by its usual names, or finds that it cannot.
        unsafe { cudarc::cublaslt::sys::is_culib_present() }
    };
    let find = || {
        let library = CudaLibrary::CublasLt;
        let place = if present() {
            LOADER
        } else {
            let open = |file: &Path| {
                // SAFETY: NVIDIA's library; its initialisers have no requirements. It stays open for good.
                let opened = unsafe { libloading::Library::new(file) }.map_err(|error| error.to_string())?;
                std::mem::forget(opened);
                // What does not carry the name it lies under is not found by that name.
                present().then_some(()).ok_or_else(|| format!("its soname is not {library} with a version"))
            };
            let (place, ()) = search(library, driver_major, open)?;
            place
        };
        // SAFETY: the library is there, as was just seen; only the address of the function is looked at.
        let address = unsafe {
            cudarc::cublaslt::sys::culib().get::<unsafe extern "C" fn() -> usize>(b"cublasLtGetVersion\0")
        };
        Ok(Found { file: address.ok().and_then(|function| file_of(*function as usize)), place })
    };
    FOUND.get_or_init(find).as_ref()
}

/// The version of cublasLt that [`cublas_lt`] found: major, minor, patch; none if it found none.
pub fn cublas_lt_version() -> Option<[usize; 3]> {
    // SAFETY: loads the library by its usual names, or finds that it cannot.
    if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        return None;
    }
    // SAFETY: the function of the library that is there; it takes nothing and always answers.
    let version = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() };
    // 120903 is 12.9.3; before version 12 a minor had one digit less, and no such library loads here.
    Some([version / 10_000, version / 100 % 100, version % 100])
}

/// The compiler, and where it was found. `driver_major` as for [`cublas_lt`].
///
/// # Errors
/// As for [`cublas_lt`].
pub fn nvrtc(driver_major: Option<u32>) -> Result<&'static (Nvrtc, Found), &'static LibraryError> {
    static FOUND: OnceLock<Result<(Nvrtc, Found), LibraryError>> = OnceLock::new();
    let find = || {
        let library = CudaLibrary::Nvrtc;
        let names = library.names(driver_major);
        let by_name = names.iter().find_map(|name| Nvrtc::open(Path::new(name)).ok());
        let (place, nvrtc) = match by_name {
            Some(nvrtc) => (LOADER, nvrtc),
            None => search(library, driver_major, |file| Nvrtc::open(file).map_err(|e| e.to_string()))?,
        };
        let file = nvrtc.address().and_then(file_of);
        Ok((nvrtc, Found { file, place }))
    };
    FOUND.get_or_init(find).as_ref()
}

/// Opens the first file of the library that can be opened.
fn search<T>(
    library: CudaLibrary,
    driver_major: Option<u32>,
    open: impl Fn(&Path) -> Result<T, String>,
) -> Result<(&'static str, T), LibraryError> {
    let mut refused = Vec::new();
    let names = library.names(driver_major);
    // Python is asked last, and only if all else has failed: starting it takes a while.
    let places: [&dyn Fn() -> Vec<Place>; 2] =
        [&|| named_folders(|name| std::env::var_os(name)), &python_folders];
    for (place, folder) in places.iter().flat_map(|list| list()) {
        for file in names.iter().map(|name| folder.join(name)).filter(|file| file.is_file()) {
            match open(&file) {
                Ok(opened) => return Ok((place, opened)),
                Err(reason) => refused.push((file, reason)),
            }
        }
    }
    Err(LibraryError { library, refused })
}

/// What led to a folder, and the folder.
type Place = (&'static str, PathBuf);

/// The folders that variables and conventions name, in the order of the search.
fn named_folders(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut all: Vec<Place> = Vec::new();
    if let Some(folders) = variable(FOLDERS_VARIABLE) {
        // An empty entry would be the current folder.
        let named = std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
        all.extend(named.flat_map(std::path::absolute).map(|folder| (FOLDERS_VARIABLE, folder)));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        let home = variable(name).map(PathBuf::from);
        all.extend(home.iter().flat_map(|home| ["lib64", "lib"].map(|lib| (name, home.join(lib)))));
    }
    all.push(("/usr/local/cuda", PathBuf::from("/usr/local/cuda/lib64")));
    // Where ./test.sh puts it. Not the target folder of whatever folder the program is started in: what lies there need
    // not be the user's own.
    let set_up = variable("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("ASFT_BUILD_NVRTC")),
        |target| PathBuf::from(target).join("nvrtc"),
    );
    all.extend(wheels(&set_up).into_iter().map(|folder| ("target/nvrtc", folder)));
    if let Some(environment) = variable("VIRTUAL_ENV") {
        let versions = children(&Path::new(&environment).join("lib"));
        let sites = versions.into_iter().map(|python| python.join("site-packages"));
        all.extend(sites.flat_map(|site| wheels(&site)).map(|folder| ("VIRTUAL_ENV", folder)));
    }
    all
}

/// The folders of NVIDIA's wheels where the Python on the path has its packages. Python is asked once.
fn python_folders() -> Vec<Place> {
    static SITES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let ask = || {
        let code = "import site; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))";
        // -I: neither the current folder nor PYTHON* variables decide what is imported.
        let output = Command::new("python3").args(["-I", "-c", code]).output().ok();
        let text = output.filter(|output| output.status.success()).map(|output| output.stdout);
        String::from_utf8(text.unwrap_or_default()).unwrap_or_default().lines().map(PathBuf::from).collect()
    };
    let sites = SITES.get_or_init(ask);
    sites.iter().flat_map(|site| wheels(site)).map(|folder| ("python3's site-packages", folder)).collect()
}

/// The library folders of NVIDIA's wheels below a folder of packages.
fn wheels(packages: &Path) -> Vec<PathBuf> {
    children(&packages.join("nvidia")).into_iter().map(|wheel| wheel.join("lib")).collect()
}

/// The entries of a folder, sorted; none if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// The file that is mapped at an address of this process.
pub(crate) fn file_of(address: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    file_in_maps(&maps, address)
}

/// As [`file_of`], in a text of the form of `/proc/self/maps` (proc_pid_maps(5)).
fn file_in_maps(maps: &str, address: usize) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let (start, rest) = line.split_once('-')?;
        let (end, rest) = rest.split_once(' ')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let name = rest.find('/').filter(|_| range.contains(&address))?;
        Some(PathBuf::from(&rest[name..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(variables: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let all = named_folders(lookup).into_iter();
        all.map(|(place, folder)| (place, folder.display().to_string())).collect()
    }

    #[test]
    fn the_places_are_searched_in_this_order() {
        let packages = tempfile::tempdir().expect("a temporary folder");
        let packages = packages.path().to_str().expect("a name in UTF-8");
        for wheel in [
            "target/nvrtc/nvidia/cuda_nvrtc/lib",
            "venv/lib/python3.11/site-packages/nvidia/cublas/lib",
            "venv/lib/python3.11/site-packages/nvidia/cu13/lib",
        ] {
            std::fs::create_dir_all(format!("{packages}/{wheel}")).expect("a writable folder");
        }
        let site = format!("{packages}/venv/lib/python3.11/site-packages/nvidia");
        let found = folders(&[
            ("ASFT_CUDA_LIBS", "/a::/b"),
            ("CUDA_HOME", "/home"),
            ("CUDA_PATH", ""),
            ("CARGO_TARGET_DIR", &format!("{packages}/target")),
            ("VIRTUAL_ENV", &format!("{packages}/venv")),
        ]);
        let expected = [
            ("ASFT_CUDA_LIBS", "/a".to_owned()),
            ("ASFT_CUDA_LIBS", "/b".to_owned()),
            ("CUDA_HOME", "/home/lib64".to_owned()),
            ("CUDA_HOME", "/home/lib".to_owned()),
            ("/usr/local/cuda", "/usr/local/cuda/lib64".to_owned()),
            ("target/nvrtc", format!("{packages}/target/nvrtc/nvidia/cuda_nvrtc/lib")),
            ("VIRTUAL_ENV", format!("{site}/cu13/lib")),
            ("VIRTUAL_ENV", format!("{site}/cublas/lib")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn no_library_is_newer_than_the_driver() {
        let names = |major| CudaLibrary::CublasLt.names(major);
        assert_eq!(names(None), ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]);
        assert_eq!(names(Some(13)), names(None));
        assert_eq!(names(Some(12)), ["libcublasLt.so.12", "libcublasLt.so"]);
    }

    #[test]
    fn the_file_of_an_address() {
        let maps =
            "7f00-7f10 r-xp 00000000 fe:00 17 /opt/a b/libx.so\n7f10-7f20 rw-p 00000000 00:00 0 [heap]\n";
        assert_eq!(file_in_maps(maps, 0x7f0f), Some(PathBuf::from("/opt/a b/libx.so")));
        assert_eq!(file_in_maps(maps, 0x7f10), None);
        assert_eq!(file_in_maps(maps, 0x7eff), None);
        let own = file_of(file_of as *const () as usize).expect("Linux tells");
        assert_eq!(own, std::env::current_exe().expect("a path"));
    }

    #[test]
    fn what_is_missing_is_said_with_the_command_that_brings_it() {
        let missing = LibraryError { library: CudaLibrary::CublasLt, refused: Vec::new() }.to_string();
        assert!(missing.contains("python3 -m pip install nvidia-cublas-cu12"), "{missing}");
        let refused = vec![(PathBuf::from("/a/libnvrtc.so.12"), "file too short".to_owned())];
        let broken = LibraryError { library: CudaLibrary::Nvrtc, refused }.to_string();
        assert!(broken.contains("/a/libnvrtc.so.12: file too short"), "{broken}");
        assert!(broken.contains("python3 -m pip install nvidia-cuda-nvrtc-cu12"), "{broken}");
    }
}
