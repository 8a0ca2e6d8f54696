//! The CUDA driver API over the engine: what `libcuda.so` exports.
//!
//! The job: handles, contexts, memory, streams, events, graphs, modules and launches as a client sees them, with the
//! driver's checks and status codes. The boundary: what a kernel computes is the engine's; this module turns a client's
//! arguments into the engine's and its findings into status codes.
//!
//! In the order of a client's calls: [`state`] (`cuInit`) and [`device`], [`context`], [`memory`] and [`pool`],
//! [`transfer`], [`stream`], [`event`], [`module`], [`function`] and [`occupancy`], [`launch`], [`capture`] and
//! [`graph`]. Beside them [`abi`] (what crosses the C boundary), [`codes`] (status codes), [`command`] (what a stream
//! does), [`proc_address`], and [`unsupported`] (the entry points that say so).
#![allow(non_snake_case, reason = "entry points have the names of the C interface")]

pub(crate) mod abi;
mod capture;
pub(crate) mod codes;
pub(crate) mod command;
mod context;
mod device;
mod event;
mod function;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod proc_address;
pub(crate) mod state;
mod stream;
mod transfer;
mod unsupported;
