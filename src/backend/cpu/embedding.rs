//! Embedding on the CPU: rows copied, or mixed from two, forward; backward each distinct token is one task that adds its rows
//! in order.

use rayon::prelude::*;

use super::memory::{Memory, SharedMatrix};
use crate::backend::{EmbeddingBackward, EmbeddingForward};

/// The operation [`EmbeddingForward`].
pub fn forward(memory: &mut Memory, arguments: EmbeddingForward) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (ids, table) = (access.read::<u32>(arguments.ids), access.read::<f32>(arguments.table));
    let out = access.write::<f32>(arguments.out);
    let row = |id: u32| &table[id as usize * h..][..h];
    let Some(mix) = arguments.mix else {
        return out.par_chunks_exact_mut(h).zip(ids).for_each(|(out, &id)| out.copy_from_slice(row(id)));
    };
    let others = access.read::<u32>(mix.ids);
    let (weight, rest) = (mix.weight, 1.0 - mix.weight);
    out.par_chunks_exact_mut(h).zip(ids).zip(others).for_each(|((out, &id), &other)| {
        if other == id {
            return out.copy_from_slice(row(id));
        }
        for (out, (&own, &other)) in out.iter_mut().zip(row(id).iter().zip(row(other))) {
            *out = rest * own + weight * other;
        }
    });
}

/// The operation [`EmbeddingBackward`].
pub fn backward(memory: &mut Memory, arguments: EmbeddingBackward) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (ids, offsets) =
        (access.read::<u32>(arguments.token_ids), access.read::<u32>(arguments.token_offsets));
    let rows = access.read::<u32>(arguments.token_rows);
    let scale = arguments.scale.map(|view| access.read::<f32>(view));
    let dout = access.read::<f32>(arguments.dout);
    let dtable = SharedMatrix::new(access.write::<f32>(arguments.dtable), h);
    ids.par_iter().zip(offsets.par_windows(2)).for_each(|(&id, bounds)| {
        // SAFETY: the ids are distinct, so each task writes a row of its own.
        let total = unsafe { dtable.row(id as usize, 0..h) };
        for entry in bounds[0] as usize..bounds[1] as usize {
            let values = &dout[rows[entry] as usize * h..][..h];
            match scale {
                None => total.iter_mut().zip(values).for_each(|(total, &value)| *total += value),
                Some(scale) => {
                    let factor = scale[entry];
                    total.iter_mut().zip(values).for_each(|(total, &value)| *total += factor * value);
                }
            }
        }
    });
}
