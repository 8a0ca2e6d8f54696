//! Asynchronous copies of single threads (`cp.async`): issued, committed to groups, waited for.
//!
//! To the checks a copy touches its source and destination from issue to wait. The bytes move at one of the two ends, by
//! [`AsyncCompletion`]; a correct kernel cannot tell.

use super::access::{load, row_or, store};
use super::error::FindingKind;
use super::execute::{Executor, Fault};
use super::ir::CopyAsync;
use super::lower::lanes;
use super::options::AsyncCompletion;
use super::registers::LANES;
use super::warp::Copy;

impl Executor<'_, '_> {
    pub(super) fn copy_async(&mut self, copy: &CopyAsync, active: u32) -> Result<(), Fault> {
        let mut source_bytes = row_or(self, copy.source_bytes, copy.bytes);
        if let Some(lane) = lanes(active).find(|lane| source_bytes[*lane] > copy.bytes) {
            let message = format!("{} source bytes for a copy of {}", source_bytes[lane], copy.bytes);
            return Err(Fault::new(FindingKind::InvalidOperand, lane, message));
        }
        if let Some(condition) = copy.ignore_source {
            let ignored = condition.lanes(&self.warp.registers);
            lanes(ignored).for_each(|lane| source_bytes[lane] = 0);
        }
        let (target, source) = self.resolve_copy(&copy.to, &copy.from, copy.bytes, &source_bytes, active)?;
        for lane in lanes(active) {
            let from = match &source {
                Some((source, reading)) if reading >> lane & 1 != 0 => {
                    Some((source.owner[lane] as usize, source.offset[lane], source_bytes[lane]))
                }
                _ => None,
            };
            let copy =
                Copy { block: target.owner[lane] as usize, to: target.offset[lane], bytes: copy.bytes, from };
            self.begin_copy(lane, &copy);
            if self.launch.options.asynchronous == AsyncCompletion::Issue {
                self.move_bytes(&copy);
            }
            self.warp.copies[lane].open.push(copy);
        }
        Ok(())
    }

    fn begin_copy(&mut self, lane: usize, copy: &Copy) {
        if !self.launch.options.checks {
            return;
        }
        if let Some((allocation, offset, bytes)) = copy.from
            && let Some(at) =
                self.launch.allocations[allocation].first_uninitialised(offset, u64::from(bytes))
        {
            let allocation = &self.launch.allocations[allocation];
            let message = format!("nobody wrote byte {at} of the allocation of {allocation:?}");
            self.report_finding(Fault::new(FindingKind::Uninitialised, lane, message));
        }
        let line = self.line();
        if let Some(checks) = &mut self.checks {
            let findings = checks.begin_copy(self.launch, self.warp.index, lane, copy, line);
            for (kind, message) in findings {
                self.report_finding(Fault::new(kind, lane, message));
            }
        }
    }

    fn move_bytes(&mut self, copy: &Copy) {
        let shared = &mut self.blocks[copy.block].shared;
        let read = copy.from.map_or(0, |(_, _, bytes)| bytes);
        // Both ends are multiples of the copy's size, which is 4 at least; only what is read may end anywhere.
        let step = if read.is_multiple_of(4) { 4 } else { 1 };
        for at in (0..copy.bytes).step_by(step as usize) {
            let value = match copy.from {
                Some((allocation, offset, _)) if at < read => {
                    let allocation = &self.launch.allocations[allocation];
                    // SAFETY: the issuing instruction checked the source's bounds and its alignment to the copy's size.
                    unsafe { load(allocation.base().add(offset as usize + at as usize), step) }
                }
                _ => 0,
            };
            // SAFETY: the issuing instruction checked the destination's bounds and its alignment to the copy's size.
            unsafe { store(shared.base().add(copy.to as usize + at as usize), step, value) };
        }
        shared.mark_initialised(copy.to, u64::from(copy.bytes));
    }

    pub(super) fn commit_copies(&mut self, active: u32) {
        for lane in lanes(active) {
            let copies = &mut self.warp.copies[lane];
            let open = std::mem::take(&mut copies.open);
            copies.groups.push_back(open);
        }
    }

    /// Completes all but the newest `pending` groups; all copies, committed or not, for `u32::MAX` (`wait_all`).
    pub(super) fn wait_copies(&mut self, pending: u32, active: u32) -> Result<(), Fault> {
        for lane in lanes(active) {
            let everything = pending == u32::MAX;
            let keep = if everything { 0 } else { pending as usize };
            while self.warp.copies[lane].groups.len() > keep {
                let group = self.warp.copies[lane].groups.pop_front().unwrap_or_default();
                self.complete(lane, &group);
            }
            if everything {
                let open = std::mem::take(&mut self.warp.copies[lane].open);
                self.complete(lane, &open);
            }
        }
        Ok(())
    }

    /// What a thread leaves behind when it ends still arrives.
    pub(super) fn finish_copies(&mut self, active: u32) -> Result<(), Fault> {
        let busy = (0..LANES).any(|lane| {
            let copies = &self.warp.copies[lane];
            !copies.open.is_empty() || !copies.groups.is_empty()
        });
        if busy { self.wait_copies(u32::MAX, active) } else { Ok(()) }
    }

    fn complete(&mut self, lane: usize, copies: &[Copy]) {
        for copy in copies {
            if self.launch.options.asynchronous == AsyncCompletion::Wait {
                self.move_bytes(copy);
            }
            if let Some(checks) = &mut self.checks {
                checks.end_copy(self.launch, self.warp.index, lane, copy);
            }
        }
    }
}
