//! Embedding on the CPU: row copies forward; backward each distinct token is one task that adds its rows in order.

use rayon::prelude::*;

use super::memory::{Memory, SharedMatrix};
use crate::backend::{EmbeddingBackward, EmbeddingForward};

/// The operation [`EmbeddingForward`].
pub fn forward(memory: &mut Memory, arguments: EmbeddingForward) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (ids, table) = (access.read::<u32>(arguments.ids), access.read::<f32>(arguments.table));
    let out = access.write::<f32>(arguments.out);
    out.par_chunks_exact_mut(h)
        .zip(ids)
        .for_each(|(out, &id)| out.copy_from_slice(&table[id as usize * h..][..h]));
}

/// The operation [`EmbeddingBackward`].
pub fn backward(memory: &mut Memory, arguments: EmbeddingBackward) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (ids, offsets) =
        (access.read::<u32>(arguments.token_ids), access.read::<u32>(arguments.token_offsets));
    let rows = access.read::<u32>(arguments.token_rows);
    let dout = access.read::<f32>(arguments.dout);
    let dtable = SharedMatrix::new(access.write::<f32>(arguments.dtable), h);
    ids.par_iter().zip(offsets.par_windows(2)).for_each(|(&id, bounds)| {
        // SAFETY: the ids are distinct, so each task writes a row of its own.
        let total = unsafe { dtable.row(id as usize, 0..h) };
        for &row in &rows[bounds[0] as usize..bounds[1] as usize] {
            for (total, &value) in total.iter_mut().zip(&dout[row as usize * h..][..h]) {
                *total += value;
            }
        }
    });
}
