//! cublasLt over the engine's device memory: what `libcublasLt.so` exports.
//!
//! The job: matrix products as a program plans and runs them, computed by the CPU with f32 accumulation in a fixed
//! order. The boundary: a product is one more command of a driver's stream; order and capture are the driver's.
//!
//! In the order of a client's calls: [`descriptor`] (what is asked for), [`product`] (the same, checked), [`matmul`] (the
//! handle, the heuristic, the call), [`element`] (number formats), [`blocked`] (the arithmetic). Beside them [`status`]
//! and [`unsupported`].
#![allow(non_snake_case, reason = "entry points have the names of the C interface")]

mod blocked;
mod descriptor;
mod element;
mod matmul;
mod product;
mod status;
mod unsupported;
