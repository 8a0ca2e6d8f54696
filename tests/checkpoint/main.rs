//! Models and runs on disk. One module per source file:
//!
//! - `dtype`: the conversions, over every bit pattern of 16 bits.
//! - `config`: what a `config.json` may say.
//! - `tensor_file`: what a safetensors file may claim, against the reference implementation.
//! - `folder`: good and bad model folders.
//! - `gguf`: files for llama.cpp, against its own package.
//! - `hub`: names of the Hugging Face Hub in a local cache.
//! - `export`: written folders, read by the reference implementation.
//! - `atomic`, `resume`, `run_folder`: saves that fail half way, checkpoints, what may be overwritten.

mod atomic;
mod config;
mod dtype;
mod export;
mod fixture;
mod folder;
mod gguf;
mod hub;
mod resume;
mod run_folder;
mod tensor_file;
