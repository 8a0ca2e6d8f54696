//! Contexts: the device's primary one and those made by hand, which is current on each thread, limits and flags.
//!
//! A context owns what was made while it was current; when it goes, that goes too. A kernel that fails leaves its error
//! in the context, and every later call that works on the context answers with it (CUDA C++ Programming Guide, "Error
//! Checking").

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};

use super::abi::{ContextHandle, Out};
use super::codes::{Code, Outcome};
use super::device;
use super::state::{Driver, State, current, driver, entry, fresh_number};

/// One context.
pub(crate) struct Context {
    /// References to the primary context; one made by hand has one.
    references: usize,
    flags: c_uint,
    id: u64,
    cache_config: c_uint,
    limits: HashMap<c_uint, usize>,
    /// What a kernel left behind; the context answers nothing else any more.
    pub(crate) sticky: Option<Code>,
}

/// `CUlimit`s with the values a new context has: stack, printf buffer, heap, and the two of device-side launches.
const LIMITS: [(c_uint, usize); 7] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)];

/// `CUctx_flags` that have a meaning.
const FLAGS: c_uint = 0xff;

/// `CUfunc_cache`: four preferences.
const CACHE_CONFIGS: c_uint = 4;

/// Lowest and highest stream priority.
pub(crate) const PRIORITIES: (c_int, c_int) = (0, -5);

impl Context {
    fn new(flags: c_uint) -> Context {
        Context {
            references: 1,
            flags,
            id: fresh_number() as u64,
            cache_config: 0,
            limits: LIMITS.into(),
            sticky: None,
        }
    }
}

thread_local! {
    /// The calling thread's contexts, the current one last.
    static STACK: RefCell<Vec<ContextHandle>> = const { RefCell::new(Vec::new()) };
}

/// The context that is current on this thread, whether it still exists or not.
pub(crate) fn current_handle() -> Option<ContextHandle> {
    STACK.with_borrow(|stack| stack.last().copied())
}

/// Removes a context and all that it owns. The execution lock is taken: what is running may use its memory.
fn destroy(driver: &Driver, mut state: std::sync::MutexGuard<'_, State>, handle: ContextHandle) -> Outcome {
    state.contexts.remove(handle)?;
    if state.primary_context == Some(handle) {
        state.primary_context = None;
    }
    state.captures.retain(|_, capture| capture.context != handle);
    state.streams.retain(|stream| stream.context != handle);
    state.events.retain(|event| event.context != handle);
    let modules: Vec<_> = state
        .modules
        .iter()
        .filter(|(_, module)| module.context == handle)
        .map(|(module, _)| module)
        .collect();
    state.functions.retain(|function| !modules.contains(&function.module));
    state.modules.retain(|module| module.context != handle);
    let owned: Vec<u64> = state
        .allocations
        .iter()
        .filter(|(_, owned)| owned.context == handle)
        .map(|(&address, _)| address)
        .collect();
    for address in owned {
        state.forget_allocation(driver, address)?;
    }
    state.host_blocks.retain(|_, block| block.context != handle);
    Ok(())
}

fn create(context: Out<ContextHandle>, flags: c_uint, ordinal: c_int) -> Outcome {
    device::device(ordinal)?;
    if flags & !FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let handle = driver()?.state().contexts.insert(Context::new(flags));
    context.put(handle)?;
    STACK.with_borrow_mut(|stack| stack.push(handle));
    Ok(())
}

/// The named context, or the calling thread's for null.
fn named_or_current(handle: ContextHandle) -> Outcome<ContextHandle> {
    if handle.0 == 0 { current_handle().ok_or(Code::INVALID_CONTEXT) } else { Ok(handle) }
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<ContextHandle>, ordinal: c_int) -> Code {
    entry(|| {
        device::device(ordinal)?;
        let mut state = driver()?.state();
        let handle = match state.primary_context {
            Some(handle) => {
                state.contexts.get_mut(handle)?.references += 1;
                handle
            }
            None => {
                let flags = state.primary_flags;
                let handle = state.contexts.insert(Context::new(flags));
                state.primary_context = Some(handle);
                handle
            }
        };
        context.put(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) -> Code {
    entry(|| {
        device::device(ordinal)?;
        let driver = driver()?;
        let _running = driver.execution();
        let mut state = driver.state();
        let handle = state.primary_context.ok_or(Code::INVALID_CONTEXT)?;
        let primary = state.contexts.get_mut(handle)?;
        primary.references -= 1;
        if primary.references > 0 { Ok(()) } else { destroy(driver, state, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(ordinal: c_int) -> Code {
    entry(|| {
        device::device(ordinal)?;
        let driver = driver()?;
        let _running = driver.execution();
        let state = driver.state();
        match state.primary_context {
            None => Ok(()),
            Some(handle) => destroy(driver, state, handle),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(ordinal: c_int, flags: Out<c_uint>, active: Out<c_int>) -> Code {
    entry(|| {
        device::device(ordinal)?;
        let state = driver()?.state();
        flags.put(state.primary_flags)?;
        active.put(c_int::from(state.primary_context.is_some()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(ordinal: c_int, flags: c_uint) -> Code {
    entry(|| {
        device::device(ordinal)?;
        if flags & !FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver()?.state();
        state.primary_flags = flags;
        if let Some(handle) = state.primary_context {
            state.contexts.get_mut(handle)?.flags = flags;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: Out<ContextHandle>, flags: c_uint, ordinal: c_int) -> Code {
    entry(|| create(context, flags, ordinal))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v3(
    context: Out<ContextHandle>,
    _affinities: *const c_void,
    affinity_count: c_int,
    flags: c_uint,
    ordinal: c_int,
) -> Code {
    entry(|| {
        if affinity_count == 0 {
            create(context, flags, ordinal)
        } else {
            Err(Code::UNSUPPORTED_EXEC_AFFINITY)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v4(
    context: Out<ContextHandle>,
    parameters: *const c_void,
    flags: c_uint,
    ordinal: c_int,
) -> Code {
    entry(|| {
        if parameters.is_null() {
            create(context, flags, ordinal)
        } else {
            Err(Code::UNSUPPORTED_EXEC_AFFINITY)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: ContextHandle) -> Code {
    entry(|| {
        let driver = driver()?;
        let _running = driver.execution();
        let state = driver.state();
        if state.primary_context == Some(context) {
            return Err(Code::INVALID_CONTEXT);
        }
        destroy(driver, state, context).map_err(|_| Code::INVALID_CONTEXT)?;
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: ContextHandle) -> Code {
    entry(|| {
        let state = driver()?.state();
        STACK.with_borrow_mut(|stack| {
            if context.0 == 0 {
                stack.pop();
                return Ok(());
            }
            state.contexts.get(context).map_err(|_| Code::INVALID_CONTEXT)?;
            stack.pop();
            stack.push(context);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<ContextHandle>) -> Code {
    entry(|| {
        driver()?;
        context.put(current_handle().unwrap_or(ContextHandle(0)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: ContextHandle) -> Code {
    entry(|| {
        driver()?.state().contexts.get(context).map_err(|_| Code::INVALID_CONTEXT)?;
        STACK.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: Out<ContextHandle>) -> Code {
    entry(|| {
        driver()?;
        let popped = STACK.with_borrow_mut(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        context.put_if_wanted(popped)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(ordinal: Out<c_int>) -> Code {
    entry(|| {
        driver()?;
        current_handle().ok_or(Code::INVALID_CONTEXT)?;
        ordinal.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> Code {
    entry(|| flags.put(current()?.context()?.flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: c_uint) -> Code {
    entry(|| {
        if flags & !FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        current()?.context()?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetId(context: ContextHandle, id: Out<u64>) -> Code {
    entry(|| {
        let context = named_or_current(context)?;
        let known = driver()?.state().contexts.get(context).map(|context| context.id);
        id.put(known.map_err(|_| Code::CONTEXT_IS_DESTROYED)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetApiVersion(context: ContextHandle, version: Out<c_uint>) -> Code {
    entry(|| {
        let context = named_or_current(context)?;
        driver()?.state().contexts.get(context).map_err(|_| Code::INVALID_CONTEXT)?;
        version.put(3020)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) -> Code {
    entry(|| {
        let known = current()?.context()?.limits.get(&limit).copied();
        value.put(known.ok_or(Code::UNSUPPORTED_LIMIT)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Code {
    entry(|| {
        let mut current = current()?;
        *current.context()?.limits.get_mut(&limit).ok_or(Code::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCacheConfig(config: Out<c_uint>) -> Code {
    entry(|| config.put(current()?.context()?.cache_config))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> Code {
    entry(|| {
        if config >= CACHE_CONFIGS {
            return Err(Code::INVALID_VALUE);
        }
        current()?.context()?.cache_config = config;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> Code {
    entry(|| {
        current()?;
        least.put_if_wanted(PRIORITIES.0)?;
        greatest.put_if_wanted(PRIORITIES.1)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Code {
    entry(|| {
        let mut current = current()?;
        current.forbid_while_capturing()?;
        current.release_unused_pool_memory();
        Ok(())
    })
}

/// There is no profiler to start; a program that marks what to profile goes on.
#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> Code {
    entry(|| current().map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> Code {
    entry(|| current().map(|_| ()))
}
