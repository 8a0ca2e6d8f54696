//! What runs together on one host thread: a block, or all blocks of a cluster, with their shared memory and barriers.

use super::checks::Checks;
use super::error::FindingKind;
use super::execute::{Executor, Fault, Stop};
use super::ir::{BarrierReduction, BarrierResult};
use super::launch::LaunchState;
use super::memory::for_bits;
use super::registers::{LANES, Special};
use super::report::Report;
use super::warp::{State, Warp};

/// Instructions that a warp runs before the next one's turn.
const WARP_TURN: u64 = 200_000;

/// Shared memory of one block.
#[derive(Debug)]
pub(crate) struct Shared {
    data: Box<[u64]>,
    /// A bit per byte: written.
    initialised: Vec<u8>,
}

impl Shared {
    fn new(bytes: u32) -> Shared {
        let words = bytes as usize / 8 + 2;
        Shared { data: vec![0; words].into_boxed_slice(), initialised: vec![0; words] }
    }

    pub fn base(&self) -> *mut u8 {
        self.data.as_ptr().cast::<u8>().cast_mut()
    }

    pub fn mark_initialised(&mut self, offset: u64, bytes: u64) {
        for_bits(offset, bytes, |index, bits| self.initialised[index] |= bits);
    }

    pub fn first_uninitialised(&self, offset: u64, bytes: u64) -> Option<u64> {
        let mut first = None;
        for_bits(offset, bytes, |index, bits| {
            let missing = bits & !self.initialised[index];
            if missing != 0 && first.is_none() {
                first = Some(index as u64 * 8 + u64::from(missing.trailing_zeros()));
            }
        });
        first
    }
}

/// One of the 16 barriers of a block.
#[derive(Clone, Debug)]
pub(crate) struct BarrierState {
    /// Threads that it waits for; the whole block without a number.
    pub threads: Option<u32>,
    /// Lanes that have arrived, by warp of the block.
    arrived: Vec<u32>,
    /// Arrivals that count a whole warp.
    whole: Vec<bool>,
    /// For reductions.
    pub count: u32,
    pub all: bool,
}

impl BarrierState {
    fn new(warps: usize) -> Self {
        BarrierState {
            threads: None,
            arrived: vec![0; warps],
            whole: vec![false; warps],
            count: 0,
            all: true,
        }
    }

    pub fn has_arrivals(&self) -> bool {
        self.arrived.iter().any(|lanes| *lanes != 0)
    }

    /// Lanes of a warp arrive. A warp all of whose living threads are here counts 32.
    pub fn arrive(&mut self, warp: usize, lanes: u32, live: u32) {
        self.arrived[warp] |= lanes;
        self.whole[warp] = self.arrived[warp] & live == live;
    }

    fn reset(&mut self) {
        *self = BarrierState::new(self.arrived.len());
    }
}

#[derive(Debug)]
pub(crate) struct Block {
    pub ctaid: [u32; 3],
    pub shared: Shared,
    pub barriers: Vec<BarrierState>,
    /// Its first warp in the unit, and how many it has.
    pub first_warp: usize,
    pub warps: usize,
}

/// The barrier of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub arrived: u32,
    pub phase: u64,
    /// By warp: the phase at which it arrived and has not waited yet.
    pub promised: Vec<Option<u64>>,
}

/// A block or a cluster of blocks.
pub(crate) struct Unit {
    pub blocks: Vec<Block>,
    pub warps: Vec<Warp>,
    pub cluster: Cluster,
    pub checks: Option<Checks>,
    /// Order in which warps take turns.
    order: Vec<usize>,
}

/// How a unit's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Everybody spins; somebody else should run.
    Unfinished,
    /// A fault was recorded; the launch is over.
    Failed,
}

impl Unit {
    /// The unit whose first block is number `number` in the order of clusters.
    pub fn new(launch: &LaunchState<'_>, number: u64) -> Unit {
        let mut unit = Unit {
            blocks: Vec::new(),
            warps: Vec::new(),
            cluster: Cluster::default(),
            checks: None,
            order: Vec::new(),
        };
        let threads: u32 = launch.block.iter().product();
        let per_block = threads.div_ceil(LANES as u32) as usize;
        let [cx, cy, cz] = launch.cluster;
        let cluster_id = launch.cluster_of(number);
        for rank in 0..cx * cy * cz {
            let within = [rank % cx, rank / cx % cy, rank / cx / cy];
            let ctaid = launch.block_of(number, rank);
            let index = unit.blocks.len();
            unit.blocks.push(Block {
                ctaid,
                shared: Shared::new(launch.shared_bytes),
                barriers: vec![BarrierState::new(per_block); 16],
                first_warp: unit.warps.len(),
                warps: per_block,
            });
            for warp in 0..per_block as u32 {
                let first = warp * LANES as u32;
                let mask = if threads - first >= 32 { u32::MAX } else { (1 << (threads - first)) - 1 };
                let mut warp = Warp::new(unit.warps.len(), index, first, mask, &launch.program.functions[0]);
                fill_special(&mut warp, launch, ctaid, cluster_id, within, rank);
                unit.warps.push(warp);
            }
        }
        unit.cluster.promised = vec![None; unit.warps.len()];
        unit.order = (0..unit.warps.len()).collect();
        if let Some(seed) = launch.options.schedule_seed {
            super::launch::shuffle(&mut unit.order, seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        if launch.options.checks {
            unit.checks = Some(Checks::new(launch, number, unit.blocks.len(), per_block));
        }
        unit
    }

    /// Runs every warp in turns, until all have ended, or for about `budget` instructions.
    pub fn run(&mut self, launch: &LaunchState<'_>, report: &mut Report, budget: u64) -> Outcome {
        let mut used = 0;
        loop {
            let mut progress = false;
            let mut alive = false;
            for at in 0..self.order.len() {
                let index = self.order[at];
                if self.warps[index].live == 0 {
                    continue;
                }
                alive = true;
                let mut turn = WARP_TURN;
                if let Err(fault) = self.run_warp(launch, report, index, &mut turn) {
                    launch.record_fatal(&fault.0, fault.1, fault.2, fault.3, fault.4);
                    return Outcome::Failed;
                }
                progress |= turn != WARP_TURN;
                used += WARP_TURN - turn;
            }
            if !alive {
                return Outcome::Done;
            }
            if launch.is_stopped() {
                return Outcome::Failed;
            }
            if !progress && !self.release_all(report) {
                self.report_deadlock(launch);
                return Outcome::Failed;
            }
            if used > budget {
                return Outcome::Unfinished;
            }
        }
    }

    /// Runs one warp; on a fault, also the block, the thread and the place.
    #[allow(clippy::type_complexity)]
    fn run_warp(
        &mut self,
        launch: &LaunchState<'_>,
        report: &mut Report,
        index: usize,
        turn: &mut u64,
    ) -> Result<(), (Fault, [u32; 3], u32, u32, u32)> {
        loop {
            let mut executor = Executor {
                launch,
                warp: &mut self.warps[index],
                blocks: &mut self.blocks,
                cluster: &mut self.cluster,
                checks: self.checks.as_mut(),
                report,
                function: 0,
                pc: 0,
            };
            let stop = match executor.run(turn) {
                Ok(stop) => stop,
                Err(fault) => {
                    let (function, pc) = (executor.function, executor.pc);
                    let warp = &self.warps[index];
                    let thread = warp.first_thread + fault.lane as u32;
                    return Err((fault, self.blocks[warp.block].ctaid, thread, function, pc));
                }
            };
            let block = self.warps[index].block;
            match stop {
                Stop::Turn => return Ok(()),
                Stop::Arrived(number) => {
                    self.release(block, number as usize, report);
                }
                Stop::ArrivedAtCluster => {
                    self.release_cluster();
                }
                Stop::Blocked => {
                    // Threads may have ended, for which a barrier waited.
                    for number in 0..16 {
                        self.release(block, number, report);
                    }
                    self.release_cluster();
                    let warp = &self.warps[index];
                    if !warp.groups.iter().any(|group| matches!(group.state, State::Ready)) {
                        return Ok(());
                    }
                }
            }
            if *turn == 0 {
                return Ok(());
            }
        }
    }

    /// Completes a barrier if everybody is there.
    fn release(&mut self, block: usize, number: usize, report: &mut Report) -> bool {
        let Block { first_warp, warps, .. } = self.blocks[block];
        let state = &self.blocks[block].barriers[number];
        if !state.has_arrivals() {
            return false;
        }
        let members = &self.warps[first_warp..first_warp + warps];
        let threads: u32 = (0..warps)
            .map(|warp| match state.arrived[warp] {
                0 => 0,
                // All that still live are here.
                lanes if state.whole[warp] || members[warp].live & !lanes == 0 => LANES as u32,
                lanes => lanes.count_ones(),
            })
            .sum();
        let expected = match state.threads {
            Some(threads) => threads,
            None => {
                (0..warps).filter(|w| members[*w].live != 0 || state.arrived[*w] != 0).count() as u32
                    * LANES as u32
            }
        };
        if threads < expected {
            return false;
        }
        let (count, all) = (state.count, state.all);
        for warp in &mut self.warps[first_warp..first_warp + warps] {
            for at in 0..warp.groups.len() {
                let State::Barrier { number: waiting, result } = warp.groups[at].state else { continue };
                if waiting as usize != number {
                    continue;
                }
                warp.groups[at].state = State::Ready;
                if let Some((operation, result)) = result {
                    let (mask, frame) = (warp.groups[at].mask, warp.groups[at].frame);
                    warp.enter(frame);
                    let value = match operation {
                        BarrierReduction::Count => count,
                        BarrierReduction::And => u32::from(all),
                        BarrierReduction::Or => u32::from(count != 0),
                    };
                    match result {
                        BarrierResult::Register(target) => {
                            warp.registers.write(target, &[value; LANES], mask)
                        }
                        BarrierResult::Predicate(row) => {
                            warp.registers.set_predicate(row, u32::from(value != 0).wrapping_neg(), mask);
                        }
                    }
                }
            }
        }
        self.blocks[block].barriers[number].reset();
        if let Some(checks) = &mut self.checks {
            checks.barrier_completed(block, number as u32);
        }
        report.barriers += 1;
        true
    }

    fn release_cluster(&mut self) -> bool {
        let live: u32 = self.warps.iter().map(|warp| warp.live.count_ones()).sum();
        let waiting = self.cluster.promised.iter().any(Option::is_some)
            || self.warps.iter().flat_map(|w| &w.groups).any(|g| matches!(g.state, State::Cluster { .. }));
        // Threads that have ended count as arrived; those that arrived and then ended were counted by `arrived`.
        let arrived: u32 = self
            .warps
            .iter()
            .enumerate()
            .map(|(index, warp)| {
                let in_wait = warp.groups.iter().any(
                    |group| matches!(group.state, State::Cluster { phase } if phase == self.cluster.phase),
                );
                let here = self.cluster.promised[index] == Some(self.cluster.phase) || in_wait;
                if here { warp.live.count_ones() } else { 0 }
            })
            .sum();
        if !waiting || self.cluster.arrived == 0 || arrived < live {
            return false;
        }
        self.cluster.phase += 1;
        self.cluster.arrived = 0;
        if let Some(checks) = &mut self.checks {
            checks.cluster_completed();
        }
        for warp in &mut self.warps {
            for at in 0..warp.groups.len() {
                if let State::Cluster { phase } = warp.groups[at].state
                    && phase < self.cluster.phase
                {
                    warp.groups[at].state = State::Ready;
                    let mask = warp.groups[at].mask;
                    if let Some(checks) = &mut self.checks {
                        checks.cluster_passed(warp.index, mask, warp.live);
                    }
                }
            }
        }
        true
    }

    /// When nobody moves: barriers whose missing threads have ended.
    fn release_all(&mut self, report: &mut Report) -> bool {
        let mut released = self.release_cluster();
        for block in 0..self.blocks.len() {
            for number in 0..16 {
                released |= self.release(block, number, report);
            }
        }
        released
    }

    /// Every waiting group is a finding: the divergent ones by what they need, the others as a deadlock.
    fn report_deadlock(&self, launch: &LaunchState<'_>) {
        let mut stuck = Vec::new();
        for warp in &self.warps {
            for group in &warp.groups {
                let function = warp.frames[group.frame].function;
                let mask = group.mask;
                let (pc, kind, message) = match group.state {
                    State::Ready => continue,
                    State::Converging { required } => {
                        let missing = required & warp.live & !mask;
                        let code = &launch.program.functions[function as usize].code;
                        let kind = match code[group.pc as usize].operation {
                            super::ir::Operation::Barrier(_) => FindingKind::DivergentBarrier,
                            super::ir::Operation::Collective(_) => FindingKind::Deadlock,
                            _ => FindingKind::PartialWarp,
                        };
                        let message = format!(
                            "lanes {mask:#010x} of the warp are here, lanes {missing:#010x} never come{}",
                            whereabouts(launch, warp, missing)
                        );
                        (group.pc, kind, message)
                    }
                    State::WarpBarrier { members } => {
                        let missing = members & warp.live & !mask;
                        let message = format!(
                            "waits for lanes {members:#010x}; lanes {missing:#010x} never come{}",
                            whereabouts(launch, warp, missing)
                        );
                        (group.pc, FindingKind::Deadlock, message)
                    }
                    State::Barrier { number, .. } => {
                        let message = format!("barrier {number} waits for threads that never come");
                        (group.pc - 1, FindingKind::Deadlock, message)
                    }
                    State::Cluster { .. } => {
                        let message = "the cluster's barrier waits for threads that never come".to_owned();
                        (group.pc - 1, FindingKind::Deadlock, message)
                    }
                };
                let ctaid = self.blocks[warp.block].ctaid;
                stuck.push((
                    Fault::new(kind, mask.trailing_zeros() as usize, message),
                    ctaid,
                    warp,
                    function,
                    pc,
                ));
            }
        }
        // Where the cause is known, its victims at other barriers are no findings of their own.
        let caused = stuck.iter().any(|(fault, ..)| fault.kind != FindingKind::Deadlock);
        for (fault, ctaid, warp, function, pc) in stuck {
            if !caused || fault.kind != FindingKind::Deadlock {
                let thread = warp.first_thread + fault.lane as u32;
                launch.record_fatal(&fault, ctaid, thread, function, pc);
            }
        }
        launch.stop();
    }
}

/// Lines at which other lanes of the warp are.
fn whereabouts(launch: &LaunchState<'_>, warp: &Warp, missing: u32) -> String {
    let mut text = String::new();
    for group in warp.groups.iter().filter(|group| group.mask & missing != 0) {
        let function = &launch.program.functions[warp.frames[group.frame].function as usize];
        let line = function.code.get(group.pc as usize).map_or(0, |instruction| instruction.line);
        text.push_str(&format!("; lanes {:#010x} are at PTX line {line}", group.mask));
    }
    text
}

fn fill_special(
    warp: &mut Warp,
    launch: &LaunchState<'_>,
    ctaid: [u32; 3],
    cluster_id: [u32; 3],
    within: [u32; 3],
    rank: u32,
) {
    let [nx, ny, _] = launch.block;
    let first = warp.first_thread;
    let special = &mut warp.registers.special;
    let mut set = |register: Special, value: &dyn Fn(u32) -> u32| {
        for (lane, cell) in special[register as usize].iter_mut().enumerate() {
            *cell = value(lane as u32);
        }
    };
    use Special::*;
    set(TidX, &|lane| (first + lane) % nx);
    set(TidY, &|lane| (first + lane) / nx % ny);
    set(TidZ, &|lane| (first + lane) / nx / ny);
    let triples = [
        ([NtidX, NtidY, NtidZ], launch.block),
        ([CtaidX, CtaidY, CtaidZ], ctaid),
        ([NctaidX, NctaidY, NctaidZ], launch.grid),
        ([ClusterIdX, ClusterIdY, ClusterIdZ], cluster_id),
        (
            [NClusterIdX, NClusterIdY, NClusterIdZ],
            [0, 1, 2].map(|axis| launch.grid[axis] / launch.cluster[axis]),
        ),
        ([ClusterCtaidX, ClusterCtaidY, ClusterCtaidZ], within),
        ([ClusterNctaidX, ClusterNctaidY, ClusterNctaidZ], launch.cluster),
    ];
    for (registers, values) in triples {
        for (register, value) in registers.into_iter().zip(values) {
            set(register, &|_| value);
        }
    }
    set(LaneId, &|lane| lane);
    set(WarpId, &|_| first / LANES as u32);
    set(NWarpId, &|_| launch.block.iter().product::<u32>().div_ceil(LANES as u32));
    set(LaneMaskEq, &|lane| 1 << lane);
    set(LaneMaskLt, &|lane| (1 << lane) - 1);
    set(LaneMaskLe, &|lane| (1 << lane) - 1 | 1 << lane);
    set(LaneMaskGt, &|lane| !((1 << lane) - 1 | 1 << lane));
    set(LaneMaskGe, &|lane| !((1 << lane) - 1));
    set(ClusterCtaRank, &|_| rank);
    set(ClusterNctaRank, &|_| launch.cluster.iter().product());
    set(NSmId, &|_| 132);
    set(SmId, &|_| (ctaid[0] + launch.grid[0] * (ctaid[1] + launch.grid[1] * ctaid[2])) % 132);
    set(DynamicSharedBytes, &|_| launch.dynamic_shared_bytes);
    set(TotalSharedBytes, &|_| launch.shared_bytes);
}
