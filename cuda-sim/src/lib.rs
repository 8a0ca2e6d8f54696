//! Test equipment: a stand-in for libcuda and libcublasLt that executes PTX on the CPU.
//!
//! [`engine`] is the machine itself: it parses PTX text, interprets it a warp at a time, checks every access and counts
//! what a launch moved. It knows nothing of the CUDA driver's functions.
//! The private modules `driver` and `cublaslt` are what clients of `libcuda.so` and `libcublasLt.so` see of it.

mod cublaslt;
mod driver;
pub mod engine;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
