//! Every operation of a backend against the slow f64 twin in `tests/reference`, one file per operation, named as the
//! operation is named everywhere else.
//!
//! A file's `check` is generic over the backend and runs the operation on random inputs of awkward sizes. It gives back
//! the bits of everything computed, so that its driver ([`device::on_every_cpu`] here) can ask for the same bits whatever
//! the number of threads. How far a result may be from the twin stands in one table, [`tolerance`].

#[path = "../reference/mod.rs"]
mod reference;
#[path = "../simulator/mod.rs"]
mod simulator;

mod device;
mod naive;
mod tolerance;

mod adamw;
mod adamw_formats;
mod attention;
mod attention_counters;
mod attention_spread;
mod counters;
mod cuda;
mod embedding;
mod gather;
mod gradient_norm;
mod head;
mod head_statistics;
mod matmul;
mod objective;
mod rmsnorm;
mod rope;
mod swiglu;
