//! What the checks and the counters see of an access whose addresses `access` has resolved: reads of bytes that nobody wrote,
//! races, traffic.

use super::access::Places;
use super::checks::{Kind, Region, Row, Touch};
use super::error::FindingKind;
use super::execute::{Executor, Fault};
use super::ir::Element;
use super::lower::lanes;
use super::memory::for_bits;
use super::registers::{LANES, Registers, Source};
use super::traffic::{count_global, count_shared};
use super::types::Space;

impl Executor<'_, '_> {
    /// Uninitialised bytes and races. `stored` is what a plain store writes; no elements for other accesses.
    pub(super) fn check(
        &mut self,
        space: Space,
        mask: u32,
        places: &Places,
        bytes: u64,
        touch: Touch,
        stored: &[Element],
    ) {
        if !self.launch.options.checks {
            return;
        }
        if touch.kind != Kind::Write {
            self.check_written(space, mask, places, bytes);
        }
        let mut left = mask;
        while left != 0 {
            // Nearly always all lanes are in one allocation, or in the memory of one block.
            let owner = places.owner[left.trailing_zeros() as usize];
            let same = lanes(left)
                .filter(|lane| places.owner[*lane] == owner)
                .fold(0, |bits, lane| bits | 1 << lane);
            left &= !same;
            let region = match space {
                Space::Global if self.launch.allocations[owner as usize].read_only => continue,
                Space::Global => Region::Global(owner as usize),
                Space::Shared | Space::SharedCluster => Region::Shared(owner as usize),
                _ => return,
            };
            self.check_order(region, same, places, bytes, touch, stored);
        }
    }

    /// Races of the lanes whose bytes are in one region.
    fn check_order(
        &mut self,
        region: Region,
        mask: u32,
        places: &Places,
        bytes: u64,
        touch: Touch,
        stored: &[Element],
    ) {
        let line = self.line();
        let (launch, warp) = (self.launch, self.warp.index);
        let Some(checks) = &mut self.checks else { return };
        let registers = &self.warp.registers;
        // Lanes that together store the same: whichever of them the hardware takes, the result is one.
        let stored_with = |other: usize, lane: usize| {
            mask >> other & 1 != 0
                && places.offset[other] == places.offset[lane]
                && store_the_same(registers, stored, bytes, other, lane)
        };
        let found = if touch.is_strong() {
            let one = |lane| {
                let found = checks.touch(launch, warp, lane, region, places.offset[lane], bytes, touch, line);
                found.map(|finding| (lane, finding))
            };
            lanes(mask).filter_map(one).collect()
        } else {
            let row = Row {
                warp,
                mask,
                region,
                offsets: &places.offset,
                bytes,
                writes: touch.kind == Kind::Write,
                line,
            };
            checks.touch_together(launch, &row, stored_with)
        };
        for (lane, (kind, message)) in found {
            self.report_finding(Fault::new(kind, lane, message));
        }
    }

    /// Reads of bytes that nobody wrote.
    fn check_written(&mut self, space: Space, mask: u32, places: &Places, bytes: u64) {
        for lane in lanes(mask) {
            let (owner, offset) = (places.owner[lane] as usize, places.offset[lane]);
            let missing = match space {
                Space::Global => self.launch.allocations[owner].first_uninitialised(offset, bytes),
                Space::Shared | Space::SharedCluster => {
                    self.blocks[owner].shared.first_uninitialised(offset, bytes)
                }
                Space::Local => {
                    let bits = self.warp.local.initialised(lane);
                    let mut first = None;
                    for_bits(offset, bytes, |index, mask| {
                        let missing = mask & !bits[index];
                        if missing != 0 && first.is_none() {
                            first = Some(index as u64 * 8 + u64::from(missing.trailing_zeros()));
                        }
                    });
                    first
                }
                _ => None,
            };
            let Some(at) = missing else { continue };
            let message = match space {
                Space::Global => {
                    let allocation = &self.launch.allocations[owner];
                    format!("nobody wrote byte {at} of the allocation of {allocation:?}")
                }
                Space::Local => format!("the thread never wrote byte {at} of its local memory"),
                _ => format!("nobody wrote byte {at} of the block's shared memory"),
            };
            self.report_finding(Fault::new(FindingKind::Uninitialised, lane, message));
        }
    }

    /// After a strong read: what its writer released is acquired.
    pub(super) fn acquire(&mut self, space: Space, mask: u32, places: &Places, touch: Touch) {
        if !touch.is_strong() || touch.kind == Kind::Write {
            return;
        }
        let Some(checks) = &mut self.checks else { return };
        for lane in lanes(mask) {
            let owner = places.owner[lane] as usize;
            let region = match space {
                Space::Global => Region::Global(owner),
                Space::Shared | Space::SharedCluster => Region::Shared(owner),
                _ => return,
            };
            checks.acquire(self.launch, (self.warp.index, lane), region, places.offset[lane], touch);
        }
    }

    /// Marks bytes as written; costs nothing without checks.
    pub(super) fn mark(&mut self, space: Space, mask: u32, places: &Places, bytes: u64) {
        if !self.launch.options.checks {
            return;
        }
        for lane in lanes(mask) {
            let (owner, offset) = (places.owner[lane] as usize, places.offset[lane]);
            match space {
                Space::Global => self.launch.allocations[owner].mark_initialised(offset, bytes),
                Space::Shared | Space::SharedCluster => {
                    self.blocks[owner].shared.mark_initialised(offset, bytes)
                }
                Space::Local => {
                    let bits = self.warp.local.initialised(lane);
                    for_bits(offset, bytes, |index, mask| bits[index] |= mask);
                }
                _ => {}
            }
        }
    }

    /// The current instruction's line in the PTX text.
    pub(super) fn line(&self) -> u32 {
        self.launch.program.functions[self.function as usize].code[self.pc as usize].line
    }

    /// Records a finding and goes on.
    pub(super) fn report_finding(&mut self, fault: Fault) {
        let block = &self.blocks[self.warp.block];
        let thread = self.warp.first_thread + fault.lane as u32;
        self.launch.record(&fault, block.ctaid, thread, self.function, self.pc);
    }

    pub(super) fn count(
        &mut self,
        space: Space,
        mask: u32,
        addresses: &[u64; LANES],
        bytes: u64,
        kind: Kind,
    ) {
        match (space, kind) {
            (Space::Global, Kind::Read) => count_global(&mut self.report.global_read, addresses, mask, bytes),
            (Space::Global, Kind::Write) => {
                count_global(&mut self.report.global_write, addresses, mask, bytes)
            }
            (Space::Global, Kind::Atomic) => {
                count_global(&mut self.report.global_atomic, addresses, mask, bytes)
            }
            (Space::Shared | Space::SharedCluster, Kind::Read) => {
                count_shared(&mut self.report.shared_read, addresses, mask, bytes);
            }
            (Space::Shared | Space::SharedCluster, Kind::Write) => {
                count_shared(&mut self.report.shared_write, addresses, mask, bytes);
            }
            (Space::Shared | Space::SharedCluster, Kind::Atomic) => {
                count_shared(&mut self.report.shared_atomic, addresses, mask, bytes);
            }
            (Space::Local, _) => self.report.local_bytes += bytes * u64::from(mask.count_ones()),
            _ => {}
        }
    }
}

/// Whether two lanes store the same `bytes` bytes.
fn store_the_same(registers: &Registers, stored: &[Element], bytes: u64, one: usize, other: usize) -> bool {
    let width = bytes * 8 / (stored.len() as u64).max(1);
    let differ = |source: Source, bits: u64| {
        let kept = if bits < 64 { (1 << bits) - 1 } else { u64::MAX };
        let value = |lane| registers.read_lane::<u64>(source, lane) & kept;
        value(one) != value(other)
    };
    !stored.is_empty()
        && stored.iter().all(|element| match *element {
            Element::Store(source) => !differ(source, width),
            Element::StorePair([low, high]) => !differ(low, 64) && !differ(high, 64),
            Element::Load(_) | Element::LoadPair(_) => false,
        })
}
