//! Streams: made, asked, waited for, destroyed.
//!
//! Work is done when it is enqueued, so a stream is always idle; what is left of waiting is the error that broke the
//! context and the rules of capture.

use std::ffi::{c_int, c_uint, c_void};

use super::abi::{ContextHandle, EventHandle, HostFunction, Out, StreamHandle};
use super::capture::CapturePoint;
use super::codes::{Code, Outcome};
use super::command::{Command, HostCall};
use super::context::PRIORITIES;
use super::state::{Current, current, entry};

/// One stream that the client made.
pub(crate) struct Stream {
    pub(crate) context: ContextHandle,
    /// Whether it ignores the legacy default stream.
    pub(crate) non_blocking: bool,
    priority: c_int,
    pub(crate) capturing: Option<CapturePoint>,
}

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

impl StreamHandle {
    /// Whether this names a default stream (null, `CU_STREAM_LEGACY`, `CU_STREAM_PER_THREAD`).
    pub(crate) fn is_default(self) -> bool {
        self.0 <= 2
    }
}

impl Current {
    /// Checks that a handle names a stream.
    pub(crate) fn check_stream(&self, stream: StreamHandle) -> Outcome {
        if stream.is_default() { Ok(()) } else { self.state.streams.get(stream).map(|_| ()) }
    }

    /// What every wait for a stream comes to.
    fn synchronize(&mut self, stream: StreamHandle) -> Outcome {
        self.forbid_on_capturing_stream(stream)?;
        self.release_unused_pool_memory();
        Ok(())
    }
}

fn create(stream: Out<StreamHandle>, flags: c_uint, priority: c_int) -> Outcome {
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut current = current()?;
    let made = Stream {
        context: current.context,
        non_blocking: flags & NON_BLOCKING != 0,
        // Out of range is brought into it, not refused.
        priority: priority.clamp(PRIORITIES.1, PRIORITIES.0),
        capturing: None,
    };
    stream.put(current.state.streams.insert(made))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<StreamHandle>, flags: c_uint) -> Code {
    entry(|| create(stream, flags, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(stream: Out<StreamHandle>, flags: c_uint, priority: c_int) -> Code {
    entry(|| create(stream, flags, priority))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: StreamHandle) -> Code {
    entry(|| {
        let mut current = current()?;
        let removed = current.state.streams.remove(stream)?;
        if let Some(point) = removed.capturing {
            current.invalidate(point.capture, Code::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: StreamHandle) -> Code {
    entry(|| current()?.synchronize(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: StreamHandle) -> Code {
    entry(|| current()?.forbid_on_capturing_stream(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: StreamHandle, event: EventHandle, flags: c_uint) -> Code {
    entry(|| {
        let mut current = current()?;
        match flags {
            0 => current.wait_in_capture(stream, event),
            // CU_EVENT_WAIT_EXTERNAL: a wait node of the event outside the capture, which is over when it is recorded.
            1 => current.state.events.get(event).map(|_| ()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetFlags(stream: StreamHandle, flags: Out<c_uint>) -> Code {
    entry(|| {
        let current = current()?;
        if stream.is_default() {
            return flags.put(0);
        }
        flags.put(c_uint::from(current.state.streams.get(stream)?.non_blocking))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetPriority(stream: StreamHandle, priority: Out<c_int>) -> Code {
    entry(|| {
        let current = current()?;
        if stream.is_default() {
            return priority.put(0);
        }
        priority.put(current.state.streams.get(stream)?.priority)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetId(stream: StreamHandle, id: Out<u64>) -> Code {
    entry(|| {
        current()?.check_stream(stream)?;
        id.put(stream.0 as u64)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCtx(stream: StreamHandle, context: Out<ContextHandle>) -> Code {
    entry(|| {
        let current = current()?;
        if stream.is_default() {
            return context.put(current.context);
        }
        context.put(current.state.streams.get(stream)?.context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetDevice(stream: StreamHandle, ordinal: Out<c_int>) -> Code {
    entry(|| {
        current()?.check_stream(stream)?;
        ordinal.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: StreamHandle,
    function: Option<HostFunction>,
    argument: *mut c_void,
) -> Code {
    entry(|| {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        current()?.enqueue(stream, Command::Host(HostCall { function, argument }))
    })
}
