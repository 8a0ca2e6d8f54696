//! The state of one warp: which of its threads are where, their registers, call frames and local memory.
//!
//! Threads at the same place form a group. The group with the smallest program counter (in the deepest call) runs first,
//! and groups that meet are merged; with the block order of `flow` that is reconvergence.

use super::ir::{BarrierReduction, BarrierResult, Function};
use super::registers::{LANES, Registers};

/// Why a group does not run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Ready,
    /// At a barrier of the block; the result is written when it completes.
    Barrier {
        number: u32,
        result: Option<(BarrierReduction, BarrierResult)>,
    },
    /// At a `bar.warp.sync` of these lanes.
    WarpBarrier {
        members: u32,
    },
    /// At an instruction that needs these lanes (as far as they live) together.
    Converging {
        required: u32,
    },
    /// At `barrier.cluster.wait`, for this phase to end.
    Cluster {
        phase: u64,
    },
}

/// Threads of a warp that are at the same place.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub frame: usize,
    pub state: State,
    /// Ran long while others waited; the others go first.
    pub tired: bool,
}

/// One call. Frames are a stack, but a frame lives until the last thread has left it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub function: u32,
    pub parent: usize,
    /// The call instruction, in the parent's function.
    pub call_pc: u32,
    pub depth: u32,
    pub narrow_base: usize,
    pub wide_base: usize,
    pub predicate_base: usize,
    pub local_base: u32,
    pub live: u32,
}

/// One asynchronous copy on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    /// Block of the destination and offset in its shared memory.
    pub block: usize,
    pub to: u64,
    pub bytes: u32,
    /// Source: index of the allocation, offset, bytes really read. `None` writes zeros only.
    pub from: Option<(usize, u64, u32)>,
}

/// The copies of one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    pub open: Vec<Copy>,
    pub groups: std::collections::VecDeque<Vec<Copy>>,
}

#[derive(Debug)]
pub(crate) struct Warp {
    /// Index in the unit.
    pub index: usize,
    /// Index of its block in the unit.
    pub block: usize,
    /// Number of its first thread in the block.
    pub first_thread: u32,
    /// Threads that have not exited.
    pub live: u32,
    pub groups: Vec<Group>,
    pub frames: Vec<Frame>,
    pub registers: Registers,
    pub local: Local,
    pub copies: Vec<Copies>,
    /// The allocation that was found last.
    pub last_allocation: usize,
}

/// Local memory of the 32 threads.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Bytes per thread, a multiple of 64.
    pub stride: usize,
    data: Vec<u64>,
    /// A bit per byte: written.
    initialised: Vec<u8>,
}

impl Local {
    /// Makes room for `bytes` bytes per thread; what is there stays.
    pub fn grow(&mut self, bytes: usize) {
        if bytes <= self.stride {
            return;
        }
        let stride = bytes.max(self.stride * 2).next_multiple_of(64);
        let mut data = vec![0; stride / 8 * LANES];
        let mut initialised = vec![0; stride / 8 * LANES];
        let old = self.stride / 8;
        for lane in 0..LANES {
            let (from, to) = (lane * old, lane * stride / 8);
            data[to..to + old].copy_from_slice(&self.data[from..from + old]);
            initialised[to..to + old].copy_from_slice(&self.initialised[from..from + old]);
        }
        *self = Local { stride, data, initialised };
    }

    /// The first byte of a thread's memory.
    pub fn base(&mut self, lane: usize) -> *mut u8 {
        let words = self.stride / 8;
        self.data[lane * words..][..words].as_mut_ptr().cast()
    }

    /// The bits that say which bytes of a thread were written.
    pub fn initialised(&mut self, lane: usize) -> &mut [u8] {
        let words = self.stride / 8;
        &mut self.initialised[lane * words..][..words]
    }

    pub fn bytes(&self, lane: usize, offset: usize, bytes: usize) -> Vec<u8> {
        let words = &self.data[lane * self.stride / 8..][..self.stride / 8];
        (offset..offset + bytes).map(|at| words[at / 8].to_le_bytes()[at % 8]).collect()
    }

    pub fn set_bytes(&mut self, lane: usize, offset: usize, bytes: &[u8]) {
        let words = self.stride / 8;
        for (index, byte) in bytes.iter().enumerate() {
            let at = offset + index;
            let word = &mut self.data[lane * words + at / 8];
            let mut all = word.to_le_bytes();
            all[at % 8] = *byte;
            *word = u64::from_le_bytes(all);
            self.initialised[lane * words + at / 8] |= 1 << (at % 8);
        }
    }

    /// A new frame's memory is uninitialised again.
    fn forget(&mut self, from: usize, bytes: usize) {
        let words = self.stride / 8;
        for lane in 0..LANES {
            self.initialised[lane * words + from / 8..lane * words + (from + bytes).div_ceil(8)].fill(0);
        }
    }
}

/// Calls nest at most this deep.
const MAX_DEPTH: u32 = 4096;
/// Local memory of one thread, in bytes, as on the hardware.
const MAX_LOCAL: usize = 512 * 1024;

impl Warp {
    pub fn new(index: usize, block: usize, first_thread: u32, mask: u32, kernel: &Function) -> Warp {
        let mut local = Local::default();
        local.grow(kernel.frame_bytes as usize);
        let frame = Frame {
            function: 0,
            parent: 0,
            call_pc: 0,
            depth: 0,
            narrow_base: 0,
            wide_base: 0,
            predicate_base: 0,
            local_base: 0,
            live: mask,
        };
        Warp {
            index,
            block,
            first_thread,
            live: mask,
            groups: vec![Group { pc: 0, mask, frame: 0, state: State::Ready, tired: false }],
            frames: vec![frame],
            registers: Registers::new(
                kernel.narrow as usize,
                kernel.wide as usize,
                kernel.predicates as usize,
            ),
            local,
            copies: vec![Copies::default(); LANES],
            last_allocation: 0,
        }
    }

    /// Chooses the group to run and puts it last. False if none can run.
    pub fn select(&mut self) -> bool {
        if self.groups.len() > 1 {
            self.merge();
        }
        let ready = |group: &Group| matches!(group.state, State::Ready);
        if self.groups.len() == 1 {
            return ready(&self.groups[0]);
        }
        if self.groups.iter().filter(|group| ready(group)).all(|group| group.tired) {
            self.groups.iter_mut().for_each(|group| group.tired = false);
        }
        let frames = &self.frames;
        let key = |group: &Group| (std::cmp::Reverse(frames[group.frame].depth), group.pc);
        let best = (0..self.groups.len())
            .filter(|index| ready(&self.groups[*index]) && !self.groups[*index].tired)
            .min_by_key(|index| key(&self.groups[*index]));
        match best {
            Some(index) => {
                let last = self.groups.len() - 1;
                self.groups.swap(index, last);
                true
            }
            None => false,
        }
    }

    /// Joins groups at the same place.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            let mut other = at + 1;
            while other < self.groups.len() {
                let (a, b) = (&self.groups[at], &self.groups[other]);
                let can_meet = |state| matches!(state, State::Ready | State::Converging { .. });
                if a.pc == b.pc && a.frame == b.frame && can_meet(a.state) && can_meet(b.state) {
                    let b = self.groups.swap_remove(other);
                    let a = &mut self.groups[at];
                    a.mask |= b.mask;
                    a.tired &= b.tired;
                    // Whoever waited for company tries again.
                    a.state = State::Ready;
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// The smallest program counter beyond `pc` at which another group of this frame is: the place to meet it.
    pub fn meeting_point(&self, pc: u32, frame: usize) -> u32 {
        let others = &self.groups[..self.groups.len() - 1];
        let candidates = others.iter().filter(|group| {
            group.frame == frame
                && group.pc > pc
                && matches!(group.state, State::Ready | State::Converging { .. })
        });
        candidates.map(|group| group.pc).min().unwrap_or(u32::MAX)
    }

    /// Wakes groups that wait for lanes that have come, or have exited. Returns the lanes of completed warp barriers.
    pub fn wake(&mut self) -> Option<u32> {
        let live = self.live;
        let mut released = None;
        for at in 0..self.groups.len() {
            match self.groups[at].state {
                State::Converging { required }
                    if self.groups[at].mask & required & live == required & live =>
                {
                    self.groups[at].state = State::Ready;
                    released = Some(released.unwrap_or(0));
                }
                State::WarpBarrier { members } => {
                    let same = |group: &Group| matches!(group.state, State::WarpBarrier { members: m } if m == members);
                    let arrived =
                        self.groups.iter().filter(|group| same(group)).fold(0, |mask, g| mask | g.mask);
                    if arrived & members & live == members & live {
                        for group in self.groups.iter_mut().filter(|group| same(group)) {
                            group.state = State::Ready;
                            group.pc += 1;
                        }
                        released = Some(released.unwrap_or(0) | arrived);
                    }
                }
                _ => {}
            }
        }
        released
    }

    /// Takes lanes out of the running group, at the place `pc`, in a state of their own.
    pub fn split(&mut self, mask: u32, pc: u32, state: State) {
        if mask == 0 {
            return;
        }
        let last = self.groups.len() - 1;
        let frame = self.groups[last].frame;
        self.groups[last].mask &= !mask;
        self.groups.insert(last, Group { pc, mask, frame, state, tired: false });
    }

    /// Threads end. The running group keeps the others.
    pub fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        for frame in &mut self.frames {
            frame.live &= !mask;
        }
        if let Some(group) = self.groups.last_mut() {
            group.mask &= !mask;
        }
        self.drop_empty();
    }

    /// Forgets groups without threads and frames that nobody will come back to.
    pub fn drop_empty(&mut self) {
        self.groups.retain(|group| group.mask != 0);
        while self.frames.len() > 1 && self.frames.last().is_some_and(|frame| frame.live == 0) {
            self.frames.pop();
        }
    }

    /// A frame for a call by these lanes; the caller moves the group into it.
    pub fn push_frame(
        &mut self,
        functions: &[Function],
        function: u32,
        parent: usize,
        call_pc: u32,
        live: u32,
    ) -> Result<usize, String> {
        let depth = self.frames[parent].depth + 1;
        let top = &self.frames[self.frames.len() - 1];
        let below = &functions[top.function as usize];
        let callee = &functions[function as usize];
        let frame = Frame {
            function,
            parent,
            call_pc,
            depth,
            narrow_base: top.narrow_base + below.narrow as usize,
            wide_base: top.wide_base + below.wide as usize,
            predicate_base: top.predicate_base + below.predicates as usize,
            local_base: top.local_base + below.frame_bytes,
            live,
        };
        let local_end = frame.local_base as usize + callee.frame_bytes as usize;
        if depth > MAX_DEPTH || local_end > MAX_LOCAL {
            return Err(format!("the call stack is {depth} deep and uses {local_end} bytes of local memory"));
        }
        let registers = &mut self.registers;
        let reserve = |len: usize, need: usize| len.max(need);
        let narrow = reserve(registers.narrow.len(), frame.narrow_base + callee.narrow as usize);
        registers.narrow.resize(narrow, [0; LANES]);
        let wide = reserve(registers.wide.len(), frame.wide_base + callee.wide as usize);
        registers.wide.resize(wide, [0; LANES]);
        let predicates =
            reserve(registers.predicates.len(), frame.predicate_base + callee.predicates as usize);
        registers.predicates.resize(predicates, 0);
        self.local.grow(local_end);
        self.local.forget(frame.local_base as usize, callee.frame_bytes as usize);
        self.frames.push(frame);
        Ok(self.frames.len() - 1)
    }

    /// Lets the registers see a frame.
    pub fn enter(&mut self, frame: usize) {
        let frame = &self.frames[frame];
        self.registers.narrow_base = frame.narrow_base;
        self.registers.wide_base = frame.wide_base;
        self.registers.predicate_base = frame.predicate_base;
        self.registers.local_base = frame.local_base;
    }
}
