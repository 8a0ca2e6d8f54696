//! From a data file to packed batches: rows, columns, templates, tokens, data sets, batches, the loader.
//!
//! `golden/` holds what Hugging Face transformers makes of the same folder, texts, conversations and rows (see
//! `golden/make_golden.py`), `files/` the same rows in every form (see `files/make_files.py`); the other modules check the rules one by one.

#[path = "data/fixture.rs"]
mod fixture;

#[path = "data/bad_files.rs"]
mod bad_files;
#[path = "data/cache.rs"]
mod cache;
#[path = "data/dataset.rs"]
mod dataset;
#[path = "data/encode.rs"]
mod encode;
#[path = "data/files.rs"]
mod files;
#[path = "data/folder.rs"]
mod folder;
#[path = "data/golden.rs"]
mod golden;
#[path = "data/hh.rs"]
mod hh;
#[path = "data/llama3.rs"]
mod llama3;
#[path = "data/loader.rs"]
mod loader;
#[path = "data/masks.rs"]
mod masks;
#[path = "data/mixing.rs"]
mod mixing;
#[path = "data/mixtures.rs"]
mod mixtures;
#[path = "data/needs.rs"]
mod needs;
#[path = "data/packing.rs"]
mod packing;
#[path = "data/rows.rs"]
mod rows;
#[path = "data/shapes.rs"]
mod shapes;
#[path = "skip/mod.rs"]
mod skip;
