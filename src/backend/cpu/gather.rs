//! Gathering rows, its adjoint, and row copies on the CPU.

use rayon::prelude::*;

use super::memory::{Memory, SharedMatrix};
use crate::backend::{CopyRows, GatherRows, ScatterRows};

/// The operation [`GatherRows`].
pub fn gather(memory: &mut Memory, arguments: GatherRows) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (source, rows) = (access.read::<f32>(arguments.source), access.read::<u32>(arguments.rows));
    let second =
        arguments.second.map(|second| (access.read::<u32>(second.rows), access.read::<f32>(second.weights)));
    let scale = arguments.scale.map(|view| access.read::<f32>(view));
    let out = access.write::<f32>(arguments.out);
    let hidden = |row: u32| &source[row as usize * h..][..h];
    out.par_chunks_exact_mut(h).zip(rows).enumerate().for_each(|(r, (out, &row))| {
        let source = hidden(row);
        match (second.filter(|(rows, _)| rows[r] != row), scale) {
            (None, None) => out.copy_from_slice(source),
            (None, Some(scale)) => {
                out.iter_mut().zip(source).for_each(|(out, &value)| *out = scale[r] * value);
            }
            (Some((rows, weights)), scale) => {
                let (first, rest, factor) =
                    (weights[r], 1.0 - weights[r], scale.map_or(1.0, |scale| scale[r]));
                for ((out, &value), &other) in out.iter_mut().zip(source).zip(hidden(rows[r])) {
                    *out = factor * (first * value + rest * other);
                }
            }
        }
    });
}

/// The operation [`ScatterRows`].
pub fn scatter(memory: &mut Memory, arguments: ScatterRows) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let source = access.read::<f32>(arguments.source);
    let (offsets, rows) = (access.read::<u32>(arguments.offsets), access.read::<u32>(arguments.rows));
    let weights = arguments.weights.map(|view| access.read::<f32>(view));
    let scale = arguments.scale.map(|view| access.read::<f32>(view));
    let out = access.write::<f32>(arguments.out);
    out.par_chunks_exact_mut(h).zip(offsets.par_windows(2)).for_each(|(out, bounds)| {
        out.fill(0.0);
        for entry in bounds[0] as usize..bounds[1] as usize {
            let row = rows[entry];
            let factor = scale.map_or(1.0, |scale| scale[row as usize])
                * weights.map_or(1.0, |weights| weights[entry]);
            for (out, &value) in out.iter_mut().zip(&source[row as usize * h..][..h]) {
                *out += factor * value;
            }
        }
    });
}

/// The operation [`CopyRows`].
pub fn copy(memory: &mut Memory, arguments: CopyRows) {
    let CopyRows { source_stride, source_column, out_column, width, .. } = arguments;
    let mut access = memory.access();
    let (source, rows) = (access.read::<f32>(arguments.source), access.read::<u32>(arguments.rows));
    let out = SharedMatrix::new(access.write::<f32>(arguments.out), arguments.out_stride);
    for (source, &row) in source.chunks_exact(source_stride).zip(rows) {
        // SAFETY: one slice at a time.
        let out = unsafe { out.row(row as usize, out_column..out_column + width) };
        out.copy_from_slice(&source[source_column..source_column + width]);
    }
}
