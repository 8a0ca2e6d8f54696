//! Modules: PTX in, functions and globals out.
//!
//! Binary images (cubins, fat binaries) are for GPUs; like a driver whose device they do not fit, this one answers
//! `CUDA_ERROR_NO_BINARY_FOR_GPU`, and a program that also carries PTX goes on with that.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::sync::Arc;

use super::abi::{ContextHandle, DevicePointer, FunctionHandle, In, InText, ModuleHandle, Out};
use super::codes::{Code, Outcome};
use super::function::Function;
use super::state::{Current, Driver, current, driver, entry, say};
use crate::engine::{Module, PtxError, PtxErrorKind};

/// A module and the context that it was loaded into.
pub(crate) struct LoadedModule {
    pub(crate) context: ContextHandle,
    pub(crate) module: Arc<Module>,
}

const ELF_MAGIC: &[u8; 4] = b"\x7fELF";
/// A fat binary, and the wrapper that the compiler puts around one.
const FATBIN_MAGICS: [u32; 2] = [0xba55_ed50, 0x4662_43b1];

/// What an image begins with.
enum Image<'a> {
    Text(&'a CStr),
    Binary(&'static str),
}

/// # Safety
/// `image` points to a whole image of its kind: text ends in a NUL, a binary has at least 4 bytes.
unsafe fn classify<'a>(image: *const c_void) -> Outcome<Image<'a>> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: every image has at least one byte, and text shorter than 4 bytes ends in a NUL that stops the reading.
    let begins_with = |magic: &[u8; 4]| unsafe { (0..4).all(|at| *image.cast::<u8>().add(at) == magic[at]) };
    if begins_with(ELF_MAGIC) {
        return Ok(Image::Binary("an ELF image (cubin)"));
    }
    if FATBIN_MAGICS.iter().any(|magic| begins_with(&magic.to_le_bytes())) {
        return Ok(Image::Binary("a fat binary"));
    }
    // SAFETY: it is no binary, so it is text, which ends in a NUL.
    Ok(Image::Text(unsafe { CStr::from_ptr(image.cast()) }))
}

/// The code for PTX that was refused.
fn refusal(error: &PtxError) -> Code {
    match error.kind {
        PtxErrorKind::Syntax | PtxErrorKind::Semantic => Code::INVALID_PTX,
        PtxErrorKind::Unsupported => Code::NOT_SUPPORTED,
        PtxErrorKind::Target => Code::NO_BINARY_FOR_GPU,
        PtxErrorKind::Memory => Code::OUT_OF_MEMORY,
    }
}

/// Why an image was refused: the code, and the sentence for stderr and the caller's log.
struct Refusal {
    code: Code,
    message: String,
}

fn load(driver: &Driver, image: &Image<'_>) -> Result<Module, Refusal> {
    let text = match image {
        Image::Binary(kind) => {
            let code = Code::NO_BINARY_FOR_GPU;
            return Err(Refusal { code, message: format!("{kind} cannot be executed, only PTX can") });
        }
        Image::Text(text) => text.to_str().map_err(|error| Refusal {
            code: Code::INVALID_PTX,
            message: format!("the PTX is not UTF-8: {error}"),
        })?,
    };
    let capability = (driver.device.major, driver.device.minor);
    Module::load(text, capability, &driver.memory)
        .map_err(|error| Refusal { code: refusal(&error), message: error.to_string() })
}

impl Current {
    /// Loads an image. Parsing can take long, so the tables are unlocked meanwhile.
    fn load(mut self, image: &Image<'_>, log: impl FnOnce(&str)) -> Outcome<ModuleHandle> {
        self.forbid_while_capturing()?;
        let Current { driver, state, context } = self;
        drop(state);
        let module = load(driver, image).map_err(|refusal| {
            // A binary is what every program tries first; that it does not fit is no news to anybody.
            if !matches!(image, Image::Binary(_)) {
                say(&format!("{} ({})", refusal.message, refusal.code.name()));
            }
            log(&refusal.message);
            refusal.code
        })?;
        Ok(driver.state().modules.insert(LoadedModule { context, module: Arc::new(module) }))
    }
}

/// `CUjit_option`s that are honoured: the log for errors. The others tune code that is not generated here.
#[derive(Default)]
struct ErrorLog {
    buffer: Option<*mut c_char>,
    bytes: usize,
}

impl ErrorLog {
    fn from_options(count: c_uint, options: In<c_uint>, values: In<*mut c_void>) -> Outcome<ErrorLog> {
        const BUFFER: c_uint = 5;
        const BYTES: c_uint = 6;
        let mut log = ErrorLog::default();
        for at in 0..count as usize {
            match options.at(at)? {
                BUFFER => log.buffer = Some(values.at(at)?.cast()),
                BYTES => log.bytes = values.at(at)? as usize,
                _ => {}
            }
        }
        Ok(log)
    }

    fn write(&self, message: &str) {
        let Some(buffer) = self.buffer.filter(|buffer| !buffer.is_null() && self.bytes > 0) else { return };
        let text = &message.as_bytes()[..message.len().min(self.bytes - 1)];
        // SAFETY: the client gave a buffer of `bytes` bytes with CU_JIT_ERROR_LOG_BUFFER; the text and its NUL fit.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
            buffer.add(text.len()).write(0);
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: Out<ModuleHandle>, image: *const c_void) -> Code {
    entry(|| {
        let current = current()?;
        // SAFETY: the client hands over an image (documentation of cuModuleLoadData).
        let image = unsafe { classify(image) }?;
        module.put(current.load(&image, |_| {})?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: Out<ModuleHandle>,
    image: *const c_void,
    option_count: c_uint,
    options: In<c_uint>,
    values: In<*mut c_void>,
) -> Code {
    entry(|| {
        let current = current()?;
        let log = ErrorLog::from_options(option_count, options, values)?;
        // SAFETY: the client hands over an image (documentation of cuModuleLoadDataEx).
        let image = unsafe { classify(image) }?;
        module.put(current.load(&image, |message| log.write(message))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadFatBinary(module: Out<ModuleHandle>, image: *const c_void) -> Code {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoad(module: Out<ModuleHandle>, path: InText) -> Code {
    entry(|| {
        let current = current()?;
        let path = path.utf8()?;
        let mut bytes = fs::read(path).map_err(|error| {
            say(&format!("cannot read the module {path}: {error}"));
            Code::FILE_NOT_FOUND
        })?;
        // What follows a NUL is not text, and a binary needs its four bytes.
        bytes.extend([0; 4]);
        // SAFETY: `bytes` ends in four NULs.
        let image = unsafe { classify(bytes.as_ptr().cast()) }?;
        module.put(current.load(&image, |_| {})?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: ModuleHandle) -> Code {
    entry(|| {
        let driver = driver()?;
        let _running = driver.execution();
        let mut current = current()?;
        current.forbid_while_capturing()?;
        let removed = current.state.modules.remove(module)?;
        current.state.functions.retain(|function| function.module != module);
        // Its globals are freed with it, unless a graph still holds one of its functions.
        drop(removed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(function: Out<FunctionHandle>, module: ModuleHandle, name: InText) -> Code {
    entry(|| {
        let mut current = current()?;
        let loaded = Arc::clone(&current.state.modules.get(module)?.module);
        let name = name.utf8()?;
        let known =
            current.state.functions.iter().find(|(_, known)| known.module == module && known.name == name);
        if let Some((handle, _)) = known {
            return function.put(handle);
        }
        let id = loaded.function(name).ok_or(Code::NOT_FOUND)?;
        function.put(current.state.functions.insert(Function::new(module, loaded, id, name)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunctionCount(count: Out<c_uint>, module: ModuleHandle) -> Code {
    entry(|| count.put(current()?.state.modules.get(module)?.module.functions().count() as c_uint))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    address: Out<DevicePointer>,
    bytes: Out<usize>,
    module: ModuleHandle,
    name: InText,
) -> Code {
    entry(|| {
        let current = current()?;
        let (start, size) =
            current.state.modules.get(module)?.module.global(name.utf8()?).ok_or(Code::NOT_FOUND)?;
        address.put_if_wanted(start)?;
        bytes.put_if_wanted(size)
    })
}

/// `CU_MODULE_EAGER_LOADING`.
#[unsafe(no_mangle)]
extern "C" fn cuModuleGetLoadingMode(mode: Out<c_int>) -> Code {
    entry(|| driver().and_then(|_| mode.put(1)))
}
