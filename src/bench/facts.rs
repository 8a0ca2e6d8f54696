//! What a measurement is worth nothing without: which program, on what.

use serde::Serialize;

use crate::backend::{Backend, DeviceKind};

/// Program and machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The version of this program.
    pub version: &'static str,
    /// The commit it was built from, where that is known.
    pub commit: Option<&'static str>,
    /// How it was built: a debug build measures nothing.
    pub build: &'static str,
    /// As typed.
    pub command: String,
    /// The device's name.
    pub device: String,
    /// `cpu` or `cuda`.
    pub kind: &'static str,
}

impl Facts {
    /// Of this process with this backend.
    pub fn of<B: Backend>(backend: &B) -> Self {
        let command: Vec<String> = std::env::args().collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("ASFT_COMMIT"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            command: command.join(" "),
            device: backend.name(),
            kind: match B::KIND {
                DeviceKind::Cpu => "cpu",
                DeviceKind::Cuda => "cuda",
            },
        }
    }
}
