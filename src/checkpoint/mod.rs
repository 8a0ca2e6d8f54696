//! Models and runs on disk: the Hugging Face folder in and out, saves that a kill cannot spoil, the state a
//! resumed run starts from, and the rules of the run folder.
//!
//! Boundary: host memory and files only. What the tensors mean is `model`'s, where they live while training is
//! `backend`'s; both hand over and take f32 slices.
//!
//! - [`tensor_file`]: one safetensors file, mapped and checked.
//! - [`tensor_writer`]: one safetensors file, written tensor by tensor.
//! - [`hub`]: a name of the Hugging Face Hub, found in the local cache.
//! - [`folder`]: a model folder, read.
//! - [`export`]: a model folder, written.
//! - [`gguf`]: a model folder as one file of llama.cpp's.
//! - [`atomic`]: a folder or file appears whole or not at all.
//! - [`resume`]: the `asft/` folder of a checkpoint; the newest checkpoint; pruning.
//! - [`run_folder`]: whether a run may write where it was told to.
//! - [`space`]: how much room there is.

pub mod atomic;
pub mod error;
pub mod export;
pub mod folder;
pub mod gguf;
pub mod hub;
pub mod resume;
pub mod run_folder;
pub mod space;
pub mod tensor_file;
pub mod tensor_writer;

pub use error::{CheckpointError, Names};
pub use export::ModelExport;
pub use folder::ModelFolder;
pub use tensor_writer::{SourceError, TensorSource};
