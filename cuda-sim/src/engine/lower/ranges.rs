//! How many registers a function needs at once: an estimate from live ranges, as a linear-scan allocator sees them.

use crate::engine::ir::{Instruction, Operation};
use crate::engine::types::Type;
use std::collections::HashMap;

/// First and last instruction that names each register, by its bytes and row.
#[derive(Debug, Default)]
pub(super) struct LiveRanges {
    ranges: HashMap<(u64, u32), (u32, u32)>,
}

impl LiveRanges {
    pub fn touch(&mut self, ty: Type, row: u32, at: u32) {
        // Predicates have a file of their own; narrow types share the 32-bit rows.
        if ty != Type::Pred {
            let range = self.ranges.entry((ty.bytes().max(4), row)).or_insert((at, at));
            range.1 = at;
        }
    }

    /// The most 32-bit registers alive at one place. What lives into a loop lives until the loop's end.
    pub fn most_alive(&self, code: &[Instruction], labels: &[u32]) -> u32 {
        let mut loops: Vec<(u32, u32)> = Vec::new();
        for (at, instruction) in code.iter().enumerate() {
            if let Operation::Branch(label) = instruction.operation
                && labels[label as usize] <= at as u32
            {
                loops.push((labels[label as usize], at as u32));
            }
        }
        // Inner loops end first, so one pass in the order of their ends carries a range outwards.
        loops.sort_by_key(|(_, end)| *end);
        let mut change = vec![0i64; code.len() + 2];
        for ((bytes, _), (first, last)) in &self.ranges {
            let mut last = *last;
            for (start, end) in &loops {
                if first < start && (*start..*end).contains(&last) {
                    last = *end;
                }
            }
            change[*first as usize] += (bytes / 4) as i64;
            change[last as usize + 1] -= (bytes / 4) as i64;
        }
        let alive = change.iter().scan(0, |alive, change| {
            *alive += change;
            Some(*alive)
        });
        alive.max().unwrap_or(0) as u32
    }
}
