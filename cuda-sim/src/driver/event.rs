//! Events: points in a stream, with the time at which they were passed.

use std::ffi::c_uint;
use std::time::Instant;

use super::abi::{ContextHandle, EventHandle, Out, StreamHandle};
use super::capture::CapturePoint;
use super::codes::{Code, Outcome};
use super::state::{Current, current, entry};

/// One event.
pub(crate) struct Event {
    pub(crate) context: ContextHandle,
    timed: bool,
    /// When it was last passed.
    passed: Option<Instant>,
    /// Where it was last recorded, if that was in a capture.
    pub(crate) captured: Option<CapturePoint>,
}

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: c_uint = 2;
/// All of `CUevent_flags` but IPC.
const KNOWN_FLAGS: c_uint = 3;

impl Event {
    /// Whether it was recorded outside of any capture.
    pub(crate) fn is_recorded(&self) -> bool {
        self.passed.is_some()
    }

    /// Refuses an event that exists in a capture only.
    fn outside_captures(&self) -> Outcome<&Event> {
        if self.captured.is_some() { Err(Code::CAPTURED_EVENT) } else { Ok(self) }
    }
}

impl Current {
    fn record(&mut self, event: EventHandle, stream: StreamHandle) -> Outcome {
        let capturing = match self.capture_of(stream)? {
            None => None,
            Some(_) => self.state.streams.get(stream)?.capturing.clone(),
        };
        let event = self.state.events.get_mut(event)?;
        if capturing.is_none() {
            event.passed = Some(Instant::now());
        }
        event.captured = capturing;
        Ok(())
    }

    fn passed(&self, event: EventHandle) -> Outcome<Instant> {
        let event = self.state.events.get(event)?.outside_captures()?;
        if !event.timed {
            return Err(Code::INVALID_HANDLE);
        }
        event.passed.ok_or(Code::INVALID_HANDLE)
    }
}

fn elapsed(milliseconds: Out<f32>, start: EventHandle, end: EventHandle) -> Outcome {
    let current = current()?;
    let (start, end) = (current.passed(start)?, current.passed(end)?);
    let forward = end.saturating_duration_since(start).as_secs_f64();
    let backward = start.saturating_duration_since(end).as_secs_f64();
    milliseconds.put(((forward - backward) * 1e3) as f32)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<EventHandle>, flags: c_uint) -> Code {
    entry(|| {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut current = current()?;
        let made = Event {
            context: current.context,
            timed: flags & DISABLE_TIMING == 0,
            passed: None,
            captured: None,
        };
        event.put(current.state.events.insert(made))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: EventHandle) -> Code {
    entry(|| current()?.state.events.remove(event).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: EventHandle, stream: StreamHandle) -> Code {
    entry(|| current()?.record(event, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: EventHandle, stream: StreamHandle, flags: c_uint) -> Code {
    entry(|| {
        if flags != 0 {
            // CU_EVENT_RECORD_EXTERNAL makes a node that records the event at every launch.
            super::state::say("cuEventRecordWithFlags: flags are not implemented");
            return Err(Code::NOT_SUPPORTED);
        }
        current()?.record(event, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: EventHandle) -> Code {
    entry(|| current()?.state.events.get(event)?.outside_captures().map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: EventHandle) -> Code {
    entry(|| {
        let mut current = current()?;
        current.state.events.get(event)?.outside_captures()?;
        current.release_unused_pool_memory();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: EventHandle, end: EventHandle) -> Code {
    entry(|| elapsed(milliseconds, start, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: EventHandle, end: EventHandle) -> Code {
    entry(|| elapsed(milliseconds, start, end))
}
