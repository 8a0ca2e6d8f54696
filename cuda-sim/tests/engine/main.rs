//! Tests of the PTX engine. One file per subject; `harness` compiles CUDA with NVRTC and launches.
//!
//! Tests that need NVRTC say so and do nothing where it is absent, unless `ASFT_REQUIRE_NVRTC=1`.

mod arithmetic;
mod basics;
mod checks;
mod counters;
mod coverage;
mod harness;
mod math;
mod matrix;
mod text;
mod triton;
