//! Races, found by happens-before: every access is compared with the earlier ones of the same bytes, and must be ordered
//! after them unless both only read or both are atomic.
//!
//! Order comes from barriers of blocks, warps and clusters, from warp-wide communication (`shfl.sync` and its relatives),
//! from fences around atomics and strong accesses, and from waiting for asynchronous copies. Scope: one unit (a block or a
//! cluster) has one [`Checks`]; what units tell each other through global memory lies in [`LaunchShadow`].

mod clocks;
mod shadow;

use super::error::FindingKind;
use super::ir::{Order, Scope};
use super::launch::LaunchState;
use super::warp::Copy;
use clocks::{Knowledge, Published, Thread, WarpClock};
use shadow::{ASYNC, CELL_BYTES, PAGE_CELLS, Page, Stamp, for_cells};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Atomic,
}

/// Memory that several threads can reach: an allocation, or the shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Region {
    Global(usize),
    Shared(usize),
}

/// An access's kind and its place in the memory model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    pub kind: Kind,
    pub order: Order,
    pub scope: Scope,
}

impl Touch {
    /// Atomic, volatile, relaxed or stronger: it can synchronise.
    pub fn is_strong(self) -> bool {
        self.kind == Kind::Atomic || self.order != Order::Weak
    }
}

/// A plain access of several lanes of one warp to one region: where each lane's bytes are, and how many.
pub(crate) struct Row<'r> {
    pub warp: usize,
    pub mask: u32,
    pub region: Region,
    pub offsets: &'r [u64; 32],
    pub bytes: u64,
    pub writes: bool,
    /// PTX line of the instruction.
    pub line: u32,
}

/// Shadow pages of one allocation, made as they are touched.
type Pages = Box<[Mutex<Option<Box<Page>>>]>;

/// What all units of a launch share: the shadow of global memory, and what was published through it.
#[derive(Debug)]
pub(crate) struct LaunchShadow {
    allocations: Vec<OnceLock<Pages>>,
    published: Mutex<HashMap<(usize, u64), Published>>,
}

impl LaunchShadow {
    pub fn new(allocations: usize) -> LaunchShadow {
        let allocations = (0..allocations).map(|_| OnceLock::new()).collect();
        LaunchShadow { allocations, published: Mutex::default() }
    }

    fn page(
        &self,
        launch: &LaunchState<'_>,
        allocation: usize,
        page: usize,
    ) -> MutexGuard<'_, Option<Box<Page>>> {
        let pages = self.allocations[allocation].get_or_init(|| {
            let count = launch.allocations[allocation].bytes / (CELL_BYTES * PAGE_CELLS) + 1;
            (0..count).map(|_| Mutex::new(None)).collect()
        });
        pages[page].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fence's effect waits for the next strong write, a strong read's for the next fence.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// What the last fence of this thread released, and how far.
    released: Option<(Box<Published>, Scope)>,
    /// What strong reads saw inside the unit, and from the device.
    seen_here: Published,
    seen_anywhere: Published,
}

/// A barrier that is filling up.
#[derive(Clone, Debug, Default)]
struct Gathering {
    knowledge: Knowledge,
    waiting: Vec<(usize, u32, u32)>,
}

/// The checks of one unit.
pub(crate) struct Checks {
    unit: u32,
    warps: Vec<WarpClock>,
    pending: HashMap<Thread, Pending>,
    barriers: HashMap<(usize, u32), Gathering>,
    cluster: Gathering,
    cluster_done: Knowledge,
    shared: Vec<Vec<Option<Box<Page>>>>,
    /// Published inside the unit.
    published: HashMap<(Region, u64), Published>,
    warps_per_block: usize,
}

/// The place of an access, for the stamp.
#[derive(Clone, Copy)]
struct Who {
    warp: usize,
    lane: usize,
    line: u32,
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

fn thread(warp: usize, lane: usize) -> Thread {
    (warp * 32 + lane) as Thread
}

impl Checks {
    pub fn new(launch: &LaunchState<'_>, unit: u64, blocks: usize, warps_per_block: usize) -> Checks {
        let warps = blocks * warps_per_block;
        let pages = u64::from(launch.shared_bytes) / (CELL_BYTES * PAGE_CELLS) + 1;
        Checks {
            unit: unit as u32,
            warps: vec![WarpClock::new(warps); warps],
            pending: HashMap::new(),
            barriers: HashMap::new(),
            cluster: Gathering::default(),
            cluster_done: Knowledge::default(),
            shared: vec![vec![None; pages as usize]; blocks],
            published: HashMap::new(),
            warps_per_block,
        }
    }

    // ---- synchronisation ----

    /// These lanes of a warp have met.
    pub fn warp_synchronised(&mut self, warp: usize, lanes: u32, live: u32) {
        self.warps[warp].synchronise(warp, lanes, live);
    }

    /// Lanes arrive at a barrier of their block; they learn from it only if they also wait.
    pub fn arrive(&mut self, warp: usize, block: usize, number: u32, (lanes, live): (u32, u32), waits: bool) {
        let knowledge = self.warps[warp].gather(warp, lanes, live);
        let gathering = self.barriers.entry((block, number)).or_default();
        gathering.knowledge.join(&knowledge);
        if waits {
            gathering.waiting.push((warp, lanes, live));
        }
    }

    pub fn barrier_completed(&mut self, block: usize, number: u32) {
        if let Some(gathering) = self.barriers.remove(&(block, number)) {
            for (warp, lanes, live) in gathering.waiting {
                // Whoever arrived has nothing that the barrier does not have.
                self.warps[warp].spread(lanes, live, &gathering.knowledge, true);
            }
        }
    }

    /// `barrier.cluster.arrive`; the relaxed form gives nothing away.
    pub fn cluster_arrive(&mut self, warp: usize, lanes: u32, live: u32, release: bool) {
        let knowledge = self.warps[warp].gather(warp, lanes, live);
        if release {
            self.cluster.knowledge.join(&knowledge);
        }
    }

    pub fn cluster_completed(&mut self) {
        self.cluster_done = std::mem::take(&mut self.cluster).knowledge;
    }

    pub fn cluster_passed(&mut self, warp: usize, lanes: u32, live: u32) {
        self.warps[warp].spread(lanes, live, &self.cluster_done, false);
    }

    /// A fence: what strong reads saw before is acquired, what was done before can be released by strong writes.
    pub fn fence(&mut self, warp: usize, mask: u32, scope: Scope) {
        for lane in lanes(mask) {
            self.fence_lane(warp, lane, scope);
        }
        // Accesses after the fence are not covered by it.
        self.warps[warp].clock += 1;
    }

    fn fence_lane(&mut self, warp: usize, lane: usize, scope: Scope) {
        let pending = self.pending.entry(thread(warp, lane)).or_default();
        if !pending.seen_here.is_empty() {
            let seen = std::mem::take(&mut pending.seen_here);
            self.warps[warp].of_mut(lane).join_published(self.unit, &seen);
        }
        if scope == Scope::Device && !pending.seen_anywhere.is_empty() {
            let seen = std::mem::take(&mut pending.seen_anywhere);
            self.warps[warp].of_mut(lane).join_published(self.unit, &seen);
        }
        let released = self.release(warp, lane);
        self.pending.entry(thread(warp, lane)).or_default().released = Some((Box::new(released), scope));
    }

    /// Everything that a thread could hand on now, its own accesses included.
    fn release(&self, warp: usize, lane: usize) -> Published {
        let mut released = Published::new();
        self.warps[warp].of(lane).publish(self.unit, &mut released);
        let own = released.entry(self.unit).or_default();
        own.learn_lane(thread(warp, lane), self.warps[warp].clock);
        released
    }

    /// The acquiring side of a strong read. It comes after the read itself: whatever value another host thread had stored
    /// by then was published before.
    pub fn acquire(
        &mut self,
        launch: &LaunchState<'_>,
        (warp, lane): (usize, usize),
        region: Region,
        offset: u64,
        touch: Touch,
    ) {
        let acquires = matches!(touch.order, Order::Acquire | Order::AcquireRelease);
        let who = thread(warp, lane);
        if let Some(found) = self.published.get(&(region, offset)) {
            if acquires {
                self.warps[warp].of_mut(lane).join_published(self.unit, found);
            } else {
                merge(&mut self.pending.entry(who).or_default().seen_here, found);
            }
        }
        let Region::Global(allocation) = region else { return };
        let published = launch.shadow.published.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = published.get(&(allocation, offset)) {
            if acquires && touch.scope == Scope::Device {
                self.warps[warp].of_mut(lane).join_published(self.unit, found);
            } else {
                merge(&mut self.pending.entry(who).or_default().seen_anywhere, found);
            }
        }
    }

    /// The releasing side of a strong write. It comes before the write itself.
    fn publish(
        &mut self,
        launch: &LaunchState<'_>,
        who: (usize, usize),
        region: Region,
        offset: u64,
        touch: Touch,
    ) {
        let (warp, lane) = who;
        let (released, scope) = if matches!(touch.order, Order::Release | Order::AcquireRelease) {
            let released = self.release(warp, lane);
            self.warps[warp].clock += 1;
            (released, touch.scope)
        } else {
            match self.pending.get(&thread(warp, lane)).and_then(|pending| pending.released.as_ref()) {
                Some((released, scope)) => ((**released).clone(), (*scope).min(touch.scope)),
                None => return,
            }
        };
        merge(self.published.entry((region, offset)).or_default(), &released);
        if let (Region::Global(allocation), Scope::Device) = (region, scope) {
            let mut published = launch.shadow.published.lock().unwrap_or_else(PoisonError::into_inner);
            merge(published.entry((allocation, offset)).or_default(), &released);
        }
    }

    // ---- accesses ----

    /// Enters a strong access of one lane; gives a finding if it races.
    #[allow(clippy::too_many_arguments)]
    pub fn touch(
        &mut self,
        launch: &LaunchState<'_>,
        warp: usize,
        lane: usize,
        region: Region,
        offset: u64,
        bytes: u64,
        touch: Touch,
        line: u32,
    ) -> Option<(FindingKind, String)> {
        if touch.kind != Kind::Read {
            self.publish(launch, (warp, lane), region, offset, touch);
        }
        let flags = Stamp::flags_of(touch.scope);
        let who = Who { warp, lane, line };
        self.enter(launch, who, region, offset, bytes, touch.kind != Kind::Read, flags, |_| false)
    }

    /// Enters a plain access of several lanes, and gives the findings by lane. It does what [`Self::touch`] does lane by lane,
    /// but nearly all accesses are to bytes whose last accesses are this thread's or known to it, and those are entered with
    /// little more than a comparison. `stored_with` says whether two lanes store the same value to the same place in this
    /// very instruction, which is no race.
    pub fn touch_together(
        &mut self,
        launch: &LaunchState<'_>,
        row: &Row<'_>,
        stored_with: impl Fn(usize, usize) -> bool,
    ) -> Vec<(usize, (FindingKind, String))> {
        let &Row { warp, region, bytes, writes, line, .. } = row;
        let mut findings = Vec::new();
        let mut left = row.mask;
        while left != 0 {
            let Some(lane) = self.touch_quickly(launch, row, left) else { break };
            let together = |other| stored_with(other, lane);
            let who = Who { warp, lane, line };
            let found = self.enter(launch, who, region, row.offsets[lane], bytes, writes, 0, together);
            findings.extend(found.map(|finding| (lane, finding)));
            left &= u32::MAX.checked_shl(lane as u32 + 1).unwrap_or(0);
        }
        findings
    }

    /// Enters the access for these lanes in their order, up to the first that needs a closer look; gives that lane, of whose
    /// access a part may have been entered.
    fn touch_quickly(&mut self, launch: &LaunchState<'_>, row: &Row<'_>, left: u32) -> Option<usize> {
        let (unit, clocks) = (self.unit, &self.warps[row.warp]);
        let mut held: Option<(usize, MutexGuard<'_, Option<Box<Page>>>)> = None;
        for lane in lanes(left) {
            let me = thread(row.warp, lane);
            let known = clocks.of(lane).own.whole.as_slice();
            let stamp = Stamp { unit, clock: clocks.clock, thread: me, bytes: 0, flags: 0, line: row.line };
            let is_ordered = |old: &Stamp| {
                old.clock == 0
                    || old.unit == unit
                        && old.flags & ASYNC == 0
                        && (old.thread == me
                            || known.get(usize::from(old.thread / 32)).is_some_and(|k| *k >= old.clock))
            };
            let mut quick = true;
            for_cells(row.offsets[lane], row.bytes, |number, cell, bytes| {
                let stamp = Stamp { bytes, ..stamp };
                let page = match row.region {
                    Region::Shared(block) => self.shared[block][number].get_or_insert_default(),
                    Region::Global(allocation) => {
                        if held.as_ref().is_none_or(|(page, _)| *page != number) {
                            held = None;
                        }
                        let lock = || (number, launch.shadow.page(launch, allocation, number));
                        held.get_or_insert_with(lock).1.get_or_insert_default()
                    }
                };
                quick = quick && page.touch_quickly(cell, stamp, row.writes, is_ordered);
            });
            if !quick {
                return Some(lane);
            }
        }
        None
    }

    #[allow(clippy::too_many_arguments)]
    fn enter(
        &mut self,
        launch: &LaunchState<'_>,
        who: Who,
        region: Region,
        offset: u64,
        bytes: u64,
        writes: bool,
        flags: u8,
        stored_with: impl Fn(usize) -> bool,
    ) -> Option<(FindingKind, String)> {
        let Who { warp, lane, line } = who;
        let knowledge = self.warps[warp].of(lane);
        let (unit, me) = (self.unit, thread(warp, lane));
        let stamp = Stamp { unit, clock: self.warps[warp].clock, thread: me, bytes: 0, flags, line };
        let is_ordered = |old: &Stamp| {
            if old.flags & ASYNC != 0 {
                false
            } else if old.unit == unit {
                old.thread == me
                    || knowledge.own.knows(old.thread, old.clock)
                    || usize::from(old.thread / 32) == warp
                        && old.line == line
                        && stored_with(usize::from(old.thread % 32))
            } else {
                knowledge.others.get(&old.unit).is_some_and(|known| known.knows(old.thread, old.clock))
            }
        };
        let mut conflict = None;
        match region {
            Region::Shared(block) => for_cells(offset, bytes, |page, cell, mask| {
                let page = self.shared[block][page].get_or_insert_default();
                let found = page.touch(cell, Stamp { bytes: mask, ..stamp }, writes, is_ordered);
                conflict = conflict.or(found);
            }),
            Region::Global(allocation) => {
                let mut held: Option<(usize, MutexGuard<'_, Option<Box<Page>>>)> = None;
                for_cells(offset, bytes, |number, cell, mask| {
                    if held.as_ref().is_none_or(|(page, _)| *page != number) {
                        held = None;
                        held = Some((number, launch.shadow.page(launch, allocation, number)));
                    }
                    if let Some((_, page)) = &mut held {
                        let page = page.get_or_insert_default();
                        let found = page.touch(cell, Stamp { bytes: mask, ..stamp }, writes, is_ordered);
                        conflict = conflict.or(found);
                    }
                });
            }
        }
        conflict.map(|(old, old_writes)| {
            self.describe(launch, region, offset, warp, old, old_writes, writes, flags)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn describe(
        &self,
        launch: &LaunchState<'_>,
        region: Region,
        offset: u64,
        warp: usize,
        old: Stamp,
        old_writes: bool,
        writes: bool,
        flags: u8,
    ) -> (FindingKind, String) {
        let old_warp = usize::from(old.thread / 32);
        let same_block =
            old.unit == self.unit && old_warp / self.warps_per_block == warp / self.warps_per_block;
        let kind = match () {
            () if (old.flags | flags) & ASYNC != 0 => FindingKind::AsyncRace,
            () if same_block => FindingKind::Race,
            () => FindingKind::CrossBlockRace,
        };
        let block = launch.block_of(u64::from(old.unit), (old_warp / self.warps_per_block) as u32);
        let number = (old_warp % self.warps_per_block) as u32 * 32 + u32::from(old.thread % 32);
        let [tx, ty, tz] = launch.thread_of(number);
        let name = |writes: bool| if writes { "write" } else { "read" };
        let place = match region {
            Region::Global(allocation) => {
                let allocation = &launch.allocations[allocation];
                format!("offset {offset} of the allocation of {allocation:?}")
            }
            Region::Shared(_) => format!("shared address {offset:#x}"),
        };
        let pending = if old.flags & ASYNC != 0 { ", an asynchronous copy not waited for," } else { "" };
        let message = format!(
            "this {} of {place} is not ordered after the {} by block ({},{},{}), thread ({tx},{ty},{tz}){pending} at PTX \
             line {}",
            name(writes),
            name(old_writes),
            block[0],
            block[1],
            block[2],
            old.line
        );
        (kind, message)
    }

    // ---- asynchronous copies ----

    /// A copy begins: until it is waited for, nobody may touch its destination or write its source.
    pub fn begin_copy(
        &mut self,
        launch: &LaunchState<'_>,
        warp: usize,
        lane: usize,
        copy: &Copy,
        line: u32,
    ) -> Vec<(FindingKind, String)> {
        let who = Who { warp, lane, line };
        let bytes = u64::from(copy.bytes);
        let alone = |_: usize| false;
        let mut findings = Vec::new();
        findings.extend(self.enter(
            launch,
            who,
            Region::Shared(copy.block),
            copy.to,
            bytes,
            true,
            ASYNC,
            alone,
        ));
        if let Some((allocation, offset, bytes)) = copy.from {
            let region = Region::Global(allocation);
            findings.extend(self.enter(launch, who, region, offset, u64::from(bytes), false, ASYNC, alone));
        }
        findings
    }

    /// A copy was waited for by its thread.
    pub fn end_copy(&mut self, launch: &LaunchState<'_>, warp: usize, lane: usize, copy: &Copy) {
        let (unit, me, clock) = (self.unit, thread(warp, lane), self.warps[warp].clock);
        for_cells(copy.to, u64::from(copy.bytes), |page, cell, _| {
            if let Some(page) = &mut self.shared[copy.block][page] {
                page.settle(cell, unit, me, clock, true);
            }
        });
        if let Some((allocation, offset, bytes)) = copy.from {
            let mut held: Option<(usize, MutexGuard<'_, Option<Box<Page>>>)> = None;
            for_cells(offset, u64::from(bytes), |number, cell, _| {
                if held.as_ref().is_none_or(|(page, _)| *page != number) {
                    held = None;
                    held = Some((number, launch.shadow.page(launch, allocation, number)));
                }
                if let Some((_, guard)) = &mut held
                    && let Some(page) = &mut **guard
                {
                    page.settle(cell, unit, me, clock, false);
                }
            });
        }
    }
}

fn merge(into: &mut Published, from: &Published) {
    for (unit, known) in from {
        into.entry(*unit).or_default().join(known);
    }
}
