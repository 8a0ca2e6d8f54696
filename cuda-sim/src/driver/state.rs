//! The driver of this process: the device, its memory, the tables of handles, and the locks around them.
//!
//! Two locks: `execution` is held while the device works, so that one thing runs at a time and a free waits for what
//! may still use the memory; `state` guards the tables and is held for moments. Who needs both takes `execution` first.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::abi::{
    ContextHandle, EventHandle, FunctionHandle, GraphExecHandle, GraphHandle, ModuleHandle, PoolHandle,
    StreamHandle,
};
use super::capture::Capture;
use super::codes::{Code, Outcome};
use super::context::{self, Context};
use super::device::Device;
use super::event::Event;
use super::function::Function;
use super::graph::{Graph, GraphExec};
use super::memory::{Allocation, HostBlock};
use super::module::LoadedModule;
use super::pool::Pool;
use super::stream::Stream;
use crate::engine::{DeviceMemory, Options};

/// What lives as long as the process, once `cuInit` was called.
pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) memory: DeviceMemory,
    pub(crate) options: Options,
    report: Option<Mutex<File>>,
    state: Mutex<State>,
    execution: Mutex<()>,
}

/// Everything a handle can name.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) contexts: Table<ContextHandle, Context>,
    pub(crate) streams: Table<StreamHandle, Stream>,
    pub(crate) events: Table<EventHandle, Event>,
    pub(crate) modules: Table<ModuleHandle, LoadedModule>,
    pub(crate) functions: Table<FunctionHandle, Function>,
    pub(crate) pools: Table<PoolHandle, Pool>,
    pub(crate) graphs: Table<GraphHandle, Graph>,
    pub(crate) graph_execs: Table<GraphExecHandle, GraphExec>,
    /// Captures under way, by their number.
    pub(crate) captures: BTreeMap<usize, Capture>,
    /// Device memory by its first address.
    pub(crate) allocations: BTreeMap<u64, Allocation>,
    /// Pinned host memory by its first address.
    pub(crate) host_blocks: BTreeMap<usize, HostBlock>,
    /// From the first address of device memory ever given out to the end of the last.
    pub(crate) device_span: Range<u64>,
    pub(crate) primary_context: Option<ContextHandle>,
    pub(crate) primary_flags: u32,
    pub(crate) default_pool: Option<PoolHandle>,
    pub(crate) current_pool: Option<PoolHandle>,
}

/// Handles of one kind. A handle is never given out twice, so a stale one is refused.
pub(crate) struct Table<H, T> {
    entries: HashMap<usize, T>,
    kind: std::marker::PhantomData<H>,
}

impl<H, T> Default for Table<H, T> {
    fn default() -> Self {
        Table { entries: HashMap::new(), kind: std::marker::PhantomData }
    }
}

/// A number for the next handle (or capture). Far from null and from the special stream handles, and not a multiple of
/// anything a client may test for but 16.
pub(crate) fn fresh_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0x100);
    NEXT.fetch_add(1, Ordering::Relaxed) * 16
}

impl<H: From<usize> + Into<usize>, T> Table<H, T> {
    pub(crate) fn insert(&mut self, value: T) -> H {
        let number = fresh_number();
        self.entries.insert(number, value);
        H::from(number)
    }

    pub(crate) fn get(&self, handle: H) -> Outcome<&T> {
        self.entries.get(&handle.into()).ok_or(Code::INVALID_HANDLE)
    }

    pub(crate) fn get_mut(&mut self, handle: H) -> Outcome<&mut T> {
        self.entries.get_mut(&handle.into()).ok_or(Code::INVALID_HANDLE)
    }

    pub(crate) fn remove(&mut self, handle: H) -> Outcome<T> {
        self.entries.remove(&handle.into()).ok_or(Code::INVALID_HANDLE)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (H, &T)> {
        self.entries.iter().map(|(&number, value)| (H::from(number), value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.values_mut()
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.entries.retain(|_, value| keep(value));
    }
}

static DRIVER: OnceLock<Outcome<Driver>> = OnceLock::new();

impl Driver {
    /// Reads the environment. A variable that makes no sense is said on stderr and makes `cuInit` fail.
    fn new() -> Outcome<Driver> {
        let refuse = |message: String| {
            say(&message);
            Code::INVALID_VALUE
        };
        let device = Device::from_lookup(|name| env::var(name).ok()).map_err(refuse)?;
        let options = Options::from_env().map_err(refuse)?;
        let report = match env::var_os("CUDA_SIM_REPORT").filter(|path| !path.is_empty()) {
            None => None,
            Some(path) => {
                let file = File::options().append(true).create(true).open(&path).map_err(|error| {
                    refuse(format!(
                        "CUDA_SIM_REPORT is `{}`, which cannot be opened: {error}",
                        path.display()
                    ))
                })?;
                Some(Mutex::new(file))
            }
        };
        Ok(Driver {
            memory: DeviceMemory::new(device.memory_bytes),
            device,
            options,
            report,
            state: Mutex::default(),
            execution: Mutex::default(),
        })
    }

    /// The tables. A panic while they were held is a defect that was reported then; carrying on is better than
    /// failing every later call.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to make the device work.
    pub(crate) fn execution(&self) -> MutexGuard<'_, ()> {
        self.execution.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one line to the file that `CUDA_SIM_REPORT` names.
    pub(crate) fn report(&self, line: &str) {
        let Some(file) = &self.report else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write per line: several processes may append to the same file.
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            say(&format!("cannot write to the file that CUDA_SIM_REPORT names: {error}"));
        }
    }
}

/// The driver, after `cuInit`.
pub(crate) fn driver() -> Outcome<&'static Driver> {
    match DRIVER.get() {
        None => Err(Code::NOT_INITIALIZED),
        Some(made) => made.as_ref().map_err(|&code| code),
    }
}

/// One line on stderr, recognisable as this library's.
pub(crate) fn say(message: &str) {
    eprintln!("cuda-sim: {message}");
}

/// Runs an entry point's body; `None` if it panicked. That is a defect of this library, and must not unwind into C.
pub(crate) fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    if outcome.is_err() {
        say("a defect in cuda-sim: the panic above");
    }
    outcome.ok()
}

/// Runs an entry point of the driver.
pub(crate) fn entry(body: impl FnOnce() -> Outcome) -> Code {
    guarded(body).unwrap_or(Err(Code::UNKNOWN)).into()
}

/// The driver's tables together with the context that is current on the calling thread.
pub(crate) struct Current {
    pub(crate) driver: &'static Driver,
    pub(crate) state: MutexGuard<'static, State>,
    pub(crate) context: ContextHandle,
}

/// Locks the tables for a call that works on the current context.
///
/// # Errors
/// No `cuInit`, no current context, a destroyed one, or the sticky error of one that a kernel has broken.
pub(crate) fn current() -> Outcome<Current> {
    let driver = driver()?;
    let state = driver.state();
    let context = context::current_handle().ok_or(Code::INVALID_CONTEXT)?;
    let known = state.contexts.get(context).map_err(|_| Code::CONTEXT_IS_DESTROYED)?;
    known.sticky.map_or(Ok(()), Err)?;
    Ok(Current { driver, state, context })
}

impl Current {
    /// The current context's entry.
    pub(crate) fn context(&mut self) -> Outcome<&mut Context> {
        self.state.contexts.get_mut(self.context)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> Code {
    entry(|| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        DRIVER.get_or_init(Driver::new).as_ref().map(|_| ()).map_err(|&code| code)
    })
}
