//! The PTX engine: from PTX text to results, findings and counters, without a GPU.
//!
//! The order of the data flow: [`Module::load`] parses and decodes PTX and places its globals in a [`DeviceMemory`];
//! [`launch`] runs one grid over that memory under [`Options`] and returns a [`Report`] or a [`LaunchError`].
//! The boundary: no streams, contexts or handles; those are the driver's, built on top of this module.

mod access;
mod ast;
mod call;
mod checks;
mod copies;
mod error;
mod execute;
mod float;
mod flow;
mod fragments;
mod inspect;
mod ir;
mod launch;
mod lexer;
mod lower;
mod memory;
mod module;
mod options;
mod parser;
mod print;
mod registers;
mod report;
mod traffic;
mod types;
mod unit;
mod warp;

pub use error::{Finding, FindingKind, LaunchError, MemoryError, PtxError, PtxErrorKind};
pub use launch::{Launch, launch};
pub use memory::DeviceMemory;
pub use module::{FunctionAttributes, FunctionId, Module, ParameterLayout};
pub use options::{AsyncCompletion, Options};
pub use report::{GlobalTraffic, Report, SharedTraffic};
