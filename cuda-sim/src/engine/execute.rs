//! Executes one warp until it blocks, ends or has used its turn.
//!
//! Arithmetic is in the decoded actions; this module has control flow. Memory is in `access`, calls are in `call`,
//! completion of barriers in `unit`.

use super::checks::Checks;
use super::error::FindingKind;
use super::ir::{Barrier, BarrierKind, Collective, Instruction, Operation};
use super::launch::LaunchState;
use super::lower::lanes;
use super::registers::{LANES, Source};
use super::report::Report;
use super::unit::{Block, Cluster};
use super::warp::{State, Warp};

/// What a thread did wrong.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub kind: FindingKind,
    pub lane: usize,
    pub message: String,
}

impl Fault {
    pub fn new(kind: FindingKind, lane: usize, message: impl Into<String>) -> Fault {
        Fault { kind, lane, message: message.into() }
    }
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its turn is over; it can go on.
    Turn,
    /// Every group waits, or all threads have ended.
    Blocked,
    /// It arrived at a barrier of its block; the unit looks whether that completes it.
    Arrived(u32),
    /// It arrived at the cluster's barrier.
    ArrivedAtCluster,
}

/// What a warp runs with.
pub(crate) struct Executor<'e, 'l> {
    pub launch: &'e LaunchState<'l>,
    pub warp: &'e mut Warp,
    pub blocks: &'e mut [Block],
    pub cluster: &'e mut Cluster,
    pub checks: Option<&'e mut Checks>,
    pub report: &'e mut Report,
    /// Place of the current instruction.
    pub function: u32,
    pub pc: u32,
}

/// How the loop goes on after an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flow {
    Next,
    Jump(u32),
    /// Groups changed: choose again.
    Choose,
    Stop(Stop),
}

/// A group that ran this many instructions while others were ready lets them go first: they may hold a lock.
const PATIENCE: u32 = 1_000;

impl Executor<'_, '_> {
    /// Runs up to `turn` instructions.
    pub fn run(&mut self, turn: &mut u64) -> Result<Stop, Fault> {
        loop {
            if self.warp.live == 0 {
                return Ok(Stop::Blocked);
            }
            if !self.warp.select() {
                match self.warp.wake() {
                    Some(released) => {
                        self.synchronised(released);
                        continue;
                    }
                    None => return Ok(Stop::Blocked),
                }
            }
            if let Some(stop) = self.run_group(turn)? {
                return Ok(stop);
            }
        }
    }

    /// Runs the chosen group until something else must be chosen.
    fn run_group(&mut self, turn: &mut u64) -> Result<Option<Stop>, Fault> {
        let Some(group) = self.warp.groups.last() else { return Ok(Some(Stop::Blocked)) };
        let (mut pc, mask, frame) = (group.pc, group.mask, group.frame);
        let meeting_point = self.warp.meeting_point(pc, frame);
        let alone = self.warp.groups.len() == 1;
        self.warp.enter(frame);
        self.function = self.warp.frames[frame].function;
        let program = self.launch.program;
        let code: &[Instruction] = &program.functions[self.function as usize].code;
        let mut patience = PATIENCE;
        loop {
            let instruction = &code[pc as usize];
            let active = match instruction.guard {
                None => mask,
                Some(condition) => condition.lanes(&self.warp.registers) & mask,
            };
            self.report.warp_instructions += 1;
            self.report.by_class[instruction.class as usize] += u64::from(active.count_ones());
            *turn -= 1;
            if let Operation::Alu(action) = &instruction.operation {
                if active != 0 {
                    action(&mut self.warp.registers, active);
                }
                pc += 1;
            } else {
                self.pc = pc;
                let flow =
                    if active == 0 { Flow::Next } else { self.step(&instruction.operation, mask, active)? };
                match flow {
                    Flow::Next => pc += 1,
                    Flow::Jump(target) => pc = target,
                    Flow::Choose => return Ok(None),
                    Flow::Stop(stop) => return Ok(Some(stop)),
                }
            }
            patience -= u32::from(!alone);
            if pc >= meeting_point || *turn == 0 || patience == 0 {
                if let Some(group) = self.warp.groups.last_mut() {
                    group.pc = pc;
                    group.tired = patience == 0;
                }
                return Ok((*turn == 0).then_some(Stop::Turn));
            }
        }
    }

    /// Executes anything but arithmetic, for the lanes in `active` of a group of lanes `mask`.
    fn step(&mut self, operation: &Operation, mask: u32, active: u32) -> Result<Flow, Fault> {
        match operation {
            Operation::Access(access) => self.access(access, active).map(|()| Flow::Next),
            Operation::Atomic(atomic) => self.atomic(atomic, active).map(|()| Flow::Next),
            Operation::Branch(target) => Ok(self.branch(*target, mask, active)),
            Operation::BranchIndexed { index, targets } => self.indexed_branch(*index, targets, mask, active),
            Operation::Call(call) => self.call(call, mask, active),
            Operation::Return => self.leave(mask, active),
            Operation::Exit => self.exit(mask, active),
            Operation::Trap(name) => {
                let lane = active.trailing_zeros() as usize;
                Err(Fault::new(FindingKind::Trap, lane, format!("the kernel executed `{name}`")))
            }
            Operation::CopyAsync(copy) => self.copy_async(copy, active).map(|()| Flow::Next),
            Operation::CommitGroup => {
                self.commit_copies(active);
                Ok(Flow::Next)
            }
            Operation::WaitGroup(pending) => self.wait_copies(*pending, active).map(|()| Flow::Next),
            Operation::Barrier(barrier) => self.barrier(barrier, mask, active),
            Operation::WarpBarrier(members) => self.warp_barrier(*members, mask, active),
            Operation::ClusterArrive { release } => self.cluster_arrive(*release, mask, active),
            Operation::ClusterWait => self.cluster_wait(mask, active),
            Operation::Collective(collective) => self.collective(collective, mask, active),
            Operation::Matrix(matrix) => match self.whole_warp(mask, active)? {
                Some(flow) => Ok(flow),
                None => self.matrix(matrix).map(|()| Flow::Next),
            },
            Operation::Mma { action, operations } => match self.whole_warp(mask, active)? {
                Some(flow) => Ok(flow),
                None => {
                    self.report.tensor_operations += operations;
                    action(&mut self.warp.registers);
                    Ok(Flow::Next)
                }
            },
            Operation::Fence(scope) => {
                if let Some(checks) = &mut self.checks {
                    checks.fence(self.warp.index, active, *scope);
                }
                Ok(Flow::Next)
            }
            Operation::Yield => {
                self.park(mask, active, self.pc + 1, true);
                Ok(Flow::Stop(Stop::Turn))
            }
            Operation::Alu(_) | Operation::Nothing => Ok(Flow::Next),
        }
    }

    /// The running group goes on at `pc`; lanes that the guard switched off at the next instruction.
    fn park(&mut self, mask: u32, active: u32, pc: u32, tired: bool) {
        self.warp.split(mask & !active, self.pc + 1, State::Ready);
        if let Some(group) = self.warp.groups.last_mut() {
            group.pc = pc;
            group.tired = tired;
        }
    }

    /// As [`Self::park`], in a state that waits.
    fn wait(&mut self, mask: u32, active: u32, pc: u32, state: State) {
        self.park(mask, active, pc, false);
        if let Some(group) = self.warp.groups.last_mut() {
            group.state = state;
        }
    }

    // ---- control ----

    fn branch(&mut self, target: u32, mask: u32, active: u32) -> Flow {
        if active == mask {
            return Flow::Jump(target);
        }
        self.park(mask, active, target, false);
        Flow::Choose
    }

    fn indexed_branch(
        &mut self,
        index: Source,
        targets: &[u32],
        mask: u32,
        active: u32,
    ) -> Result<Flow, Fault> {
        let index = self.warp.registers.read::<u32>(index);
        for lane in lanes(active) {
            if index[lane] as usize >= targets.len() {
                let message =
                    format!("index {} into a branch table of {} entries", index[lane], targets.len());
                return Err(Fault::new(FindingKind::InvalidOperand, lane, message));
            }
        }
        let target_of = |lane: usize| targets[index[lane] as usize];
        let first = target_of(active.trailing_zeros() as usize);
        if active == mask && lanes(active).all(|lane| target_of(lane) == first) {
            return Ok(Flow::Jump(first));
        }
        let mut left = active;
        self.park(mask, active, first, false);
        while left != 0 {
            let target = target_of(left.trailing_zeros() as usize);
            let same =
                lanes(left).filter(|lane| target_of(*lane) == target).fold(0, |bits, lane| bits | 1 << lane);
            left &= !same;
            if target != first {
                self.warp.split(same, target, State::Ready);
            }
        }
        Ok(Flow::Choose)
    }

    fn exit(&mut self, mask: u32, active: u32) -> Result<Flow, Fault> {
        self.finish_copies(active)?;
        if let Some(group) = self.warp.groups.last_mut() {
            group.pc = self.pc + 1;
        }
        let _ = mask;
        self.warp.exit(active);
        // The block's barriers may have waited for these threads.
        Ok(if self.warp.live == 0 { Flow::Stop(Stop::Blocked) } else { Flow::Choose })
    }

    // ---- synchronisation ----

    /// The group has the lanes that it needs, or waits for them.
    fn converged(&mut self, mask: u32, active: u32, required: u32) -> bool {
        let required = required & self.warp.live;
        if active & required == required {
            return true;
        }
        self.wait(mask, active, self.pc, State::Converging { required });
        false
    }

    /// For instructions of the whole warp: waits for all 32 lanes.
    fn whole_warp(&mut self, mask: u32, active: u32) -> Result<Option<Flow>, Fault> {
        if active == u32::MAX {
            return Ok(None);
        }
        if self.warp.live != u32::MAX {
            let message =
                format!("a warp-wide instruction in a warp of {} threads", self.warp.live.count_ones());
            return Err(Fault::new(FindingKind::PartialWarp, active.trailing_zeros() as usize, message));
        }
        self.wait(mask, active, self.pc, State::Converging { required: u32::MAX });
        Ok(Some(Flow::Choose))
    }

    /// Tells the checks that these lanes of the warp have met.
    pub(super) fn synchronised(&mut self, mask: u32) {
        if let Some(checks) = &mut self.checks
            && mask != 0
        {
            checks.warp_synchronised(self.warp.index, mask, self.warp.live);
        }
    }

    fn barrier(&mut self, barrier: &Barrier, mask: u32, active: u32) -> Result<Flow, Fault> {
        if barrier.aligned && !self.converged(mask, active, u32::MAX) {
            return Ok(Flow::Choose);
        }
        let first = active.trailing_zeros() as usize;
        let number = self.uniform(barrier.number, active, "the barrier's number")?;
        if number >= 16 {
            let message = format!("barrier {number}; there are 16");
            return Err(Fault::new(FindingKind::InvalidOperand, first, message));
        }
        let threads = match barrier.threads {
            Some(threads) => Some(self.uniform(threads, active, "the barrier's number of threads")?),
            None => None,
        };
        if let Some(count) = threads
            && (count == 0 || count % LANES as u32 != 0)
        {
            let message = format!("a barrier of {count} threads; a positive multiple of 32 is allowed");
            return Err(Fault::new(FindingKind::InvalidOperand, first, message));
        }
        let block = &mut self.blocks[self.warp.block];
        let state = &mut block.barriers[number as usize];
        if let (Some(expected), Some(count)) = (state.threads, threads)
            && expected != count
            && state.has_arrivals()
        {
            let message = format!("barrier {number} with {count} threads, others came with {expected}");
            return Err(Fault::new(FindingKind::InvalidOperand, first, message));
        }
        state.threads = threads.or(state.threads);
        state.arrive(self.warp.index - block.first_warp, active, self.warp.live);
        if let Some(checks) = &mut self.checks {
            let waits = !matches!(barrier.kind, BarrierKind::Arrive);
            checks.arrive(self.warp.index, self.warp.block, number, (active, self.warp.live), waits);
        }
        match &barrier.kind {
            BarrierKind::Arrive => self.park(mask, active, self.pc + 1, false),
            BarrierKind::Sync => {
                self.wait(mask, active, self.pc + 1, State::Barrier { number, result: None });
            }
            BarrierKind::Reduce { condition, operation, result } => {
                let lanes = condition.lanes(&self.warp.registers) & active;
                state.count += lanes.count_ones();
                state.all &= lanes == active;
                let result = Some((*operation, *result));
                self.wait(mask, active, self.pc + 1, State::Barrier { number, result });
            }
        }
        Ok(Flow::Stop(Stop::Arrived(number)))
    }

    /// A value that must be the same in all active lanes.
    fn uniform(&self, source: Source, active: u32, what: &str) -> Result<u32, Fault> {
        let values = self.warp.registers.read::<u32>(source);
        let first = active.trailing_zeros() as usize;
        match lanes(active).find(|lane| values[*lane] != values[first]) {
            None => Ok(values[first]),
            Some(lane) => {
                let message =
                    format!("{what} differs within the warp: {} and {}", values[first], values[lane]);
                Err(Fault::new(FindingKind::InvalidOperand, lane, message))
            }
        }
    }

    fn warp_barrier(&mut self, members: Source, mask: u32, active: u32) -> Result<Flow, Fault> {
        let members = self.uniform(members, active, "the member mask")?;
        self.check_members(active, members)?;
        if active & self.warp.live == members & self.warp.live {
            self.synchronised(active);
            return Ok(Flow::Next);
        }
        self.wait(mask, active, self.pc, State::WarpBarrier { members });
        Ok(Flow::Choose)
    }

    fn check_members(&self, active: u32, members: u32) -> Result<(), Fault> {
        match active & !members {
            0 => Ok(()),
            outside => {
                let lane = outside.trailing_zeros() as usize;
                let message = format!("lane {lane} is not in its own member mask {members:#010x}");
                Err(Fault::new(FindingKind::InvalidOperand, lane, message))
            }
        }
    }

    /// Lanes with the same member mask work together; they must all be here.
    fn collective(&mut self, collective: &Collective, mask: u32, active: u32) -> Result<Flow, Fault> {
        let members = self.warp.registers.read::<u32>(collective.members);
        let live = self.warp.live;
        let mut left = active;
        let mut missing = 0;
        while left != 0 {
            let wanted = members[left.trailing_zeros() as usize];
            let same =
                lanes(left).filter(|lane| members[*lane] == wanted).fold(0, |bits, lane| bits | 1 << lane);
            self.check_members(same, wanted)?;
            missing |= wanted & live & !same;
            left &= !same;
        }
        if missing != 0 {
            self.wait(mask, active, self.pc, State::Converging { required: active | missing });
            return Ok(Flow::Choose);
        }
        let mut left = active;
        while left != 0 {
            let wanted = members[left.trailing_zeros() as usize];
            let same =
                lanes(left).filter(|lane| members[*lane] == wanted).fold(0, |bits, lane| bits | 1 << lane);
            (collective.action)(&mut self.warp.registers, same);
            self.synchronised(same);
            left &= !same;
        }
        Ok(Flow::Next)
    }

    fn cluster_arrive(&mut self, release: bool, mask: u32, active: u32) -> Result<Flow, Fault> {
        if !self.converged(mask, active, u32::MAX) {
            return Ok(Flow::Choose);
        }
        self.cluster.arrived += active.count_ones();
        let phase = self.cluster.phase;
        self.cluster.promised[self.warp.index] = Some(phase);
        if let Some(checks) = &mut self.checks {
            checks.cluster_arrive(self.warp.index, active, self.warp.live, release);
        }
        self.park(mask, active, self.pc + 1, false);
        Ok(Flow::Stop(Stop::ArrivedAtCluster))
    }

    fn cluster_wait(&mut self, mask: u32, active: u32) -> Result<Flow, Fault> {
        if !self.converged(mask, active, u32::MAX) {
            return Ok(Flow::Choose);
        }
        let Some(phase) = self.cluster.promised[self.warp.index].take() else {
            let lane = active.trailing_zeros() as usize;
            let message = "`barrier.cluster.wait` without `barrier.cluster.arrive` before it";
            return Err(Fault::new(FindingKind::InvalidOperand, lane, message));
        };
        if self.cluster.phase > phase {
            if let Some(checks) = &mut self.checks {
                checks.cluster_passed(self.warp.index, active, self.warp.live);
            }
            return Ok(Flow::Next);
        }
        self.wait(mask, active, self.pc + 1, State::Cluster { phase });
        Ok(Flow::Choose)
    }
}
