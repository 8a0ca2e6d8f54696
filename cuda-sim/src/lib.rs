//! Test equipment: a stand-in for libcuda and libcublasLt that executes PTX on the CPU.
//!
//! [`engine`] is the machine itself: it parses PTX text, interprets it a warp at a time, checks every access and counts
//! what a launch moved. It knows nothing of the CUDA driver's functions.

pub mod engine;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
