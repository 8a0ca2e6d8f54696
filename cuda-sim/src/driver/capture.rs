//! Stream capture: commands are kept as the nodes of a graph instead of being done.
//!
//! The rules are those of the driver API's "Stream Management" (`cuStreamBeginCapture`, `cuThreadExchangeStreamCaptureMode`)
//! and of the programming guide's "Creating a Graph Using Stream Capture": another stream joins by waiting for an event
//! that was recorded in the capture and must be joined back before the end; calls that are not safe while capturing
//! fail and invalidate the captures they endanger.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::c_uint;
use std::thread::{self, ThreadId};

use super::abi::{ContextHandle, EventHandle, GraphHandle, Out, StreamHandle};
use super::codes::{Code, Outcome};
use super::command::Command;
use super::graph::{Graph, Node};
use super::state::{Current, State, current, entry, fresh_number};

/// `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn from_number(number: c_uint) -> Outcome<Mode> {
        Ok(match number {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Code::INVALID_VALUE),
        })
    }
}

/// A capture under way.
pub(crate) struct Capture {
    pub(crate) context: ContextHandle,
    mode: Mode,
    thread: ThreadId,
    origin: StreamHandle,
    invalid: bool,
    nodes: Vec<Node>,
}

/// A place in a capture: which one, and the nodes that come before whatever follows.
#[derive(Clone, Debug, Default)]
pub(crate) struct CapturePoint {
    pub(crate) capture: usize,
    after: BTreeSet<usize>,
}

thread_local! {
    /// How this thread's unsafe calls are judged (`cuThreadExchangeStreamCaptureMode`).
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

impl Capture {
    /// Whether a call on this thread that is not safe while capturing endangers this capture.
    fn endangered_by_this_thread(&self) -> bool {
        let own = self.thread == thread::current().id();
        match (THREAD_MODE.get(), self.mode) {
            (Mode::Relaxed, _) | (_, Mode::Relaxed) => false,
            (Mode::Global, Mode::Global) => true,
            _ => own,
        }
    }

    /// Whether every node comes before (or is one of) `ends`.
    fn all_joined(&self, ends: &BTreeSet<usize>) -> bool {
        let mut reached = vec![false; self.nodes.len()];
        let mut open: Vec<usize> = ends.iter().copied().collect();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        reached.into_iter().all(|reached| reached)
    }
}

impl Current {
    /// Refuses a call that is not safe while something is being captured, and invalidates that.
    pub(crate) fn forbid_while_capturing(&mut self) -> Outcome {
        let mut outcome = Ok(());
        for capture in self.state.captures.values_mut().filter(|capture| capture.endangered_by_this_thread())
        {
            capture.invalid = true;
            outcome = Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        outcome
    }

    /// The capture that `stream` takes part in.
    ///
    /// # Errors
    /// No such stream, an invalidated capture, or the legacy stream while a stream that waits for it is capturing.
    pub(crate) fn capture_of(&mut self, stream: StreamHandle) -> Outcome<Option<usize>> {
        if stream.is_default() {
            let blocking = self
                .state
                .streams
                .iter()
                .filter(|(_, other)| other.context == self.context && !other.non_blocking)
                .find_map(|(_, other)| other.capturing.as_ref().map(|point| point.capture));
            return match blocking.and_then(|number| self.state.captures.get_mut(&number)) {
                None => Ok(None),
                Some(capture) => {
                    capture.invalid = true;
                    Err(Code::STREAM_CAPTURE_IMPLICIT)
                }
            };
        }
        let Some(point) = &self.state.streams.get(stream)?.capturing else { return Ok(None) };
        let number = point.capture;
        match self.state.captures.get(&number) {
            Some(capture) if !capture.invalid => Ok(Some(number)),
            _ => Err(Code::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Refuses to wait for a stream whose work is only being captured.
    pub(crate) fn forbid_on_capturing_stream(&mut self, stream: StreamHandle) -> Outcome {
        match self.capture_of(stream)? {
            None => Ok(()),
            Some(number) => Err(self.invalidate(number, Code::STREAM_CAPTURE_UNSUPPORTED)),
        }
    }

    /// Invalidates a capture and gives back the reason.
    pub(crate) fn invalidate(&mut self, number: usize, reason: Code) -> Code {
        if let Some(capture) = self.state.captures.get_mut(&number) {
            capture.invalid = true;
        }
        reason
    }

    /// Adds a command to a capture, after what its stream has captured so far.
    pub(crate) fn captured(&mut self, number: usize, stream: StreamHandle, command: Command) -> Outcome {
        let State { captures, streams, .. } = &mut *self.state;
        let capture = captures.get_mut(&number).ok_or(Code::STREAM_CAPTURE_INVALIDATED)?;
        let point = streams.get_mut(stream)?.capturing.as_mut().ok_or(Code::STREAM_CAPTURE_INVALIDATED)?;
        let node = capture.nodes.len();
        let after = std::mem::replace(&mut point.after, BTreeSet::from([node]));
        capture.nodes.push(Node { command, after: after.into_iter().collect() });
        Ok(())
    }

    /// `stream` waits for `event`: the part of it that concerns captures.
    pub(crate) fn wait_in_capture(&mut self, stream: StreamHandle, event: EventHandle) -> Outcome {
        let event = self.state.events.get(event)?;
        let (recorded, point) = (event.is_recorded(), event.captured.clone());
        match (self.capture_of(stream)?, point) {
            (None, None) => Ok(()),
            (Some(number), None) if recorded => Err(self.invalidate(number, Code::STREAM_CAPTURE_ISOLATION)),
            (Some(_), None) => Ok(()),
            (None, Some(point)) => {
                if self.state.captures.get(&point.capture).is_none_or(|capture| capture.invalid) {
                    return Err(Code::STREAM_CAPTURE_INVALIDATED);
                }
                if stream.is_default() {
                    return Err(self.invalidate(point.capture, Code::STREAM_CAPTURE_IMPLICIT));
                }
                self.state.streams.get_mut(stream)?.capturing = Some(point);
                Ok(())
            }
            (Some(number), Some(point)) if point.capture == number => {
                if let Some(own) = self.state.streams.get_mut(stream)?.capturing.as_mut() {
                    own.after.extend(point.after);
                }
                Ok(())
            }
            (Some(number), Some(point)) => {
                self.invalidate(number, Code::STREAM_CAPTURE_MERGE);
                Err(self.invalidate(point.capture, Code::STREAM_CAPTURE_MERGE))
            }
        }
    }

    fn begin_capture(&mut self, stream: StreamHandle, mode: c_uint) -> Outcome {
        let mode = Mode::from_number(mode)?;
        if stream.is_default() {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let captured = self.state.streams.get_mut(stream)?;
        if captured.capturing.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        let number = fresh_number();
        captured.capturing = Some(CapturePoint { capture: number, after: BTreeSet::new() });
        let capture = Capture {
            context: self.context,
            mode,
            thread: thread::current().id(),
            origin: stream,
            invalid: false,
            nodes: Vec::new(),
        };
        self.state.captures.insert(number, capture);
        Ok(())
    }

    /// Ends the capture that began on `stream`, whatever its outcome, unless this is the wrong stream or thread.
    fn end_capture(&mut self, stream: StreamHandle) -> Outcome<GraphHandle> {
        if stream.is_default() {
            return Err(Code::ILLEGAL_STATE);
        }
        let point = self.state.streams.get(stream)?.capturing.clone().ok_or(Code::ILLEGAL_STATE)?;
        let capture = self.state.captures.get_mut(&point.capture).ok_or(Code::ILLEGAL_STATE)?;
        if capture.origin != stream {
            capture.invalid = true;
            return Err(Code::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let joined = capture.all_joined(&point.after);
        let capture = self.state.captures.remove(&point.capture).ok_or(Code::ILLEGAL_STATE)?;
        for stream in self.state.streams.values_mut() {
            stream.capturing.take_if(|other| other.capture == point.capture);
        }
        for event in self.state.events.values_mut() {
            event.captured.take_if(|other| other.capture == point.capture);
        }
        if capture.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        if !joined {
            return Err(Code::STREAM_CAPTURE_UNJOINED);
        }
        Ok(self.state.graphs.insert(Graph { nodes: capture.nodes }))
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: StreamHandle, mode: c_uint) -> Code {
    entry(|| current()?.begin_capture(stream, mode))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: StreamHandle, graph: Out<GraphHandle>) -> Code {
    entry(|| {
        // The client finds null where there is no graph.
        let (handle, outcome) = match current()?.end_capture(stream) {
            Ok(handle) => (handle, Ok(())),
            Err(code) => (GraphHandle(0), Err(code)),
        };
        graph.put_if_wanted(handle)?;
        outcome
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: StreamHandle, status: Out<c_uint>) -> Code {
    entry(|| {
        let mut current = current()?;
        match current.capture_of(stream) {
            Ok(None) => status.put(0),
            Ok(Some(_)) => status.put(1),
            Err(Code::STREAM_CAPTURE_INVALIDATED) => status.put(2),
            Err(code) => Err(code),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) -> Code {
    entry(|| {
        let wanted = Mode::from_number(mode.read()?)?;
        mode.put(match THREAD_MODE.replace(wanted) {
            Mode::Global => 0,
            Mode::ThreadLocal => 1,
            Mode::Relaxed => 2,
        })
    })
}
