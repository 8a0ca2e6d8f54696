//! What the design says is equal: the same numbers, or the same bits, from two ways of computing one thing, on small
//! random models.
//!
//! - [`packing`]: a shared prompt = separate sequences; a row's log-prob wherever it is packed.
//! - [`head`]: unit gradients kept = logits computed twice; how rows are cut into chunks.
//! - [`half`]: half of the parameters frozen = none, but for what is frozen.
//! - [`step`]: a step cut into micro-batches; threads; seeds; what is not finite.
//! - [`objectives`]: ASFT without its align term = SFT; DPO's first loss.
//! - [`coupling`]: objectives on whole steps, however those are cut.
//! - [`every`]: every objective's coefficients, on the CPU and on CUDA.
//! - [`memory`]: recomputing and padding change no bit; [`cuda`]: nor on a GPU in bf16.
//! - [`mixed_inputs`]: inputs mixed with predictions, without a mix = SFT; cut, recomputed and padded.
//! - [`mixture`]: rows mixed in their hidden states.
//! - [`masks`]: tokens that are only context; a mask of every token.
//! - [`twin`]: the whole model's gradients = the f64 twin's.

#[path = "../reference/mod.rs"]
mod reference;

mod coupling;
mod cuda;
mod every;
mod fixture;

mod half;
mod head;
mod masks;
mod memory;
mod mixed_inputs;
mod mixture;
mod objectives;
mod packing;
#[path = "../simulator/mod.rs"]
mod simulator;
mod step;
mod twin;
