//! Graphs that came from a capture: instantiated, launched, destroyed.
//!
//! A graph keeps its commands in the order of their capture, which is one of the orders that its edges allow; a launch
//! does them in that order. What a launch needs (parameters, sizes, addresses) was copied when it was captured.

use std::ffi::c_uint;
use std::sync::Arc;

use super::abi::{GraphExecHandle, GraphHandle, Out, StreamHandle};
use super::codes::{Code, Outcome};
use super::command::Command;
use super::state::{current, driver, entry};

/// One command of a graph and the nodes that must come first.
pub(crate) struct Node {
    pub(crate) command: Command,
    pub(crate) after: Vec<usize>,
}

/// A graph.
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

/// A graph that can be launched.
pub(crate) struct GraphExec {
    commands: Arc<[Command]>,
    flags: u64,
}

/// `CUgraphInstantiate_flags`: free on launch, upload, device launch, node priorities.
const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

fn instantiate(graph: GraphHandle, flags: u64) -> Outcome<GraphExecHandle> {
    if flags & !KNOWN_FLAGS != 0 || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH {
        return Err(Code::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        super::state::say("graphs launched from the device are not implemented");
        return Err(Code::NOT_SUPPORTED);
    }
    let mut current = current()?;
    let commands = current.state.graphs.get(graph)?.nodes.iter().map(|node| node.command.clone()).collect();
    Ok(current.state.graph_execs.insert(GraphExec { commands, flags }))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(
    exec: Out<GraphExecHandle>,
    graph: GraphHandle,
    flags: u64,
) -> Code {
    entry(|| exec.put(instantiate(graph, flags)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecGetFlags(exec: GraphExecHandle, flags: Out<u64>) -> Code {
    entry(|| flags.put(driver()?.state().graph_execs.get(exec)?.flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(exec: GraphExecHandle, stream: StreamHandle) -> Code {
    entry(|| {
        let mut current = current()?;
        current.state.graph_execs.get(exec)?;
        current.forbid_on_capturing_stream(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(exec: GraphExecHandle, stream: StreamHandle) -> Code {
    entry(|| {
        let mut current = current()?;
        let commands = Arc::clone(&current.state.graph_execs.get(exec)?.commands);
        match current.capture_of(stream)? {
            None => current.run(&commands),
            Some(capture) => {
                commands.iter().try_for_each(|command| current.captured(capture, stream, command.clone()))
            }
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetNodes(graph: GraphHandle, nodes: Out<usize>, count: Out<usize>) -> Code {
    entry(|| {
        let known = driver()?.state().graphs.get(graph)?.nodes.len();
        if !nodes.is_null() {
            super::state::say("cuGraphGetNodes counts the nodes of a graph, it does not hand them out");
            return Err(Code::NOT_SUPPORTED);
        }
        count.put(known)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(exec: GraphExecHandle) -> Code {
    entry(|| driver()?.state().graph_execs.remove(exec).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: GraphHandle) -> Code {
    entry(|| driver()?.state().graphs.remove(graph).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiate_v2(
    exec: Out<GraphExecHandle>,
    graph: GraphHandle,
    _error_node: Out<usize>,
    _log: *mut u8,
    _log_bytes: usize,
) -> Code {
    entry(|| exec.put(instantiate(graph, 0)?))
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`, of which only the flags are read and the result is written.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct InstantiateParameters {
    flags: u64,
    upload_stream: StreamHandle,
    error_node: usize,
    result: c_uint,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithParams(
    exec: Out<GraphExecHandle>,
    graph: GraphHandle,
    parameters: Out<InstantiateParameters>,
) -> Code {
    entry(|| {
        let given = parameters.read()?;
        exec.put(instantiate(graph, given.flags)?)?;
        parameters.put(InstantiateParameters { error_node: 0, result: 0, ..given })
    })
}
