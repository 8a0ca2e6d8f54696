//! `cuGetProcAddress`: an entry point by its name without a version, as runtime libraries ask for it.

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::abi::{InText, Out};
use super::codes::{Code, Outcome};
use super::state::entry;

/// Entry points with several versions: since which CUDA version (`CUDA_VERSION`) a name means which symbol, newest
/// first. Every other name means its `_v2`, if there is one, since before anything that can ask.
const VERSIONS: &[(&str, &[(c_int, &str)])] = &[
    ("cuCtxCreate", &[(12_050, "_v4"), (11_040, "_v3"), (0, "_v2")]),
    ("cuDeviceGetUuid", &[(11_040, "_v2"), (0, "")]),
    ("cuEventElapsedTime", &[(12_080, "_v2"), (0, "")]),
    ("cuGetProcAddress", &[(12_000, "_v2"), (0, "")]),
];

/// `CUdriverProcAddressQueryResult`.
const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;

/// This library, as the loader knows it.
fn library() -> Option<*mut c_void> {
    struct Handle(*mut c_void);
    // SAFETY: a loader's handle may be used from any thread.
    unsafe impl Send for Handle {}
    // SAFETY: as above.
    unsafe impl Sync for Handle {}
    static LIBRARY: OnceLock<Option<Handle>> = OnceLock::new();
    let handle = LIBRARY.get_or_init(|| {
        let mut info = MaybeUninit::<libc::Dl_info>::uninit();
        let own = cuGetProcAddress_v2 as *const c_void;
        // SAFETY: `info` has room for the answer, which is complete where dladdr returns other than 0.
        let info = unsafe {
            if libc::dladdr(own, info.as_mut_ptr()) == 0 {
                return None;
            }
            info.assume_init()
        };
        // SAFETY: the name comes from the loader; RTLD_NOLOAD only finds what is loaded.
        let handle = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Handle(handle))
    });
    handle.as_ref().map(|handle| handle.0)
}

fn symbol(name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    let symbol = lookup(library()?, &name);
    (!symbol.is_null()).then_some(symbol)
}

fn lookup(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the handle is this library's, the name ends in a NUL.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}

/// The entry point that `name` means to a program built for CUDA `version`.
fn resolve(name: &str, version: c_int) -> Option<*mut c_void> {
    if let Some((_, versions)) = VERSIONS.iter().find(|(known, _)| *known == name) {
        let (_, suffix) = versions.iter().find(|(since, _)| *since <= version)?;
        return symbol(&format!("{name}{suffix}"));
    }
    symbol(&format!("{name}_v2")).or_else(|| symbol(name))
}

fn find(name: &InText, address: Out<*mut c_void>, version: c_int) -> Outcome {
    let found = resolve(name.utf8()?, version);
    address.put(found.unwrap_or(ptr::null_mut()))?;
    found.map(|_| ()).ok_or(Code::NOT_FOUND)
}

/// The flags choose between default streams, which are one and the same here.
#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress_v2(
    name: InText,
    address: Out<*mut c_void>,
    version: c_int,
    _flags: u64,
    status: Out<u32>,
) -> Code {
    entry(|| {
        let outcome = find(&name, address, version);
        status.put_if_wanted(if outcome == Err(Code::NOT_FOUND) { NOT_FOUND } else { FOUND })?;
        outcome
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress(name: InText, address: Out<*mut c_void>, version: c_int, _flags: u64) -> Code {
    entry(|| find(&name, address, version))
}
