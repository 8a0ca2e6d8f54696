//! Vector clocks: what each thread knows of the accesses of all others.
//!
//! Time is counted per warp: every synchronising event of a warp advances its clock. What a thread knows of a warp is one
//! clock for all its lanes, with exceptions where single lanes are known further; after a barrier there are none.

use std::collections::BTreeMap;

/// Threads of a unit: warp times 32 plus lane.
pub(super) type Thread = u16;

/// What is known of the threads of one unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UnitKnowledge {
    /// By warp: every lane's accesses up to this clock.
    pub whole: Vec<u32>,
    /// Lanes known beyond that, sorted by thread.
    pub lanes: Vec<(Thread, u32)>,
}

impl UnitKnowledge {
    pub fn knows(&self, thread: Thread, clock: u32) -> bool {
        self.whole.get(usize::from(thread / 32)).is_some_and(|known| *known >= clock)
            || match self.lanes.binary_search_by_key(&thread, |(thread, _)| *thread) {
                Ok(at) => self.lanes[at].1 >= clock,
                Err(_) => false,
            }
    }

    pub fn learn_lane(&mut self, thread: Thread, clock: u32) {
        if self.knows(thread, clock) {
            return;
        }
        match self.lanes.binary_search_by_key(&thread, |(thread, _)| *thread) {
            Ok(at) => self.lanes[at].1 = clock,
            Err(at) => self.lanes.insert(at, (thread, clock)),
        }
    }

    pub fn learn_warp(&mut self, warp: usize, clock: u32) {
        if self.whole.len() <= warp {
            self.whole.resize(warp + 1, 0);
        }
        self.whole[warp] = self.whole[warp].max(clock);
        let whole = &self.whole;
        self.lanes.retain(|(thread, clock)| whole[usize::from(thread / 32)] < *clock);
    }

    pub fn join(&mut self, other: &UnitKnowledge) {
        if self.whole.len() < other.whole.len() {
            self.whole.resize(other.whole.len(), 0);
        }
        for (known, more) in self.whole.iter_mut().zip(&other.whole) {
            *known = (*known).max(*more);
        }
        if self.lanes.is_empty() && other.lanes.is_empty() {
            return;
        }
        for (thread, clock) in &other.lanes {
            self.learn_lane(*thread, *clock);
        }
        let whole = &self.whole;
        self.lanes.retain(|(thread, clock)| whole[usize::from(thread / 32)] < *clock);
    }
}

/// What a thread knows of all units. Of other units there is usually nothing to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Knowledge {
    pub own: UnitKnowledge,
    pub others: BTreeMap<u32, UnitKnowledge>,
}

impl Knowledge {
    pub fn join(&mut self, other: &Knowledge) {
        self.own.join(&other.own);
        for (unit, known) in &other.others {
            self.others.entry(*unit).or_default().join(known);
        }
    }

    /// Learns what came from any unit through a synchronising variable.
    pub fn join_published(&mut self, own_unit: u32, published: &Published) {
        for (unit, known) in published {
            if *unit == own_unit {
                self.own.join(known);
            } else {
                self.others.entry(*unit).or_default().join(known);
            }
        }
    }

    /// As other units can read it.
    pub fn publish(&self, own_unit: u32, into: &mut Published) {
        into.entry(own_unit).or_default().join(&self.own);
        for (unit, known) in &self.others {
            into.entry(*unit).or_default().join(known);
        }
    }
}

/// Knowledge by unit, as synchronising variables carry it.
pub(super) type Published = BTreeMap<u32, UnitKnowledge>;

/// The clock of one warp and the knowledge of its lanes.
#[derive(Clone, Debug)]
pub(super) struct WarpClock {
    pub clock: u32,
    /// What all lanes know.
    pub shared: Knowledge,
    /// What each lane knows, where that differs.
    pub split: Option<Box<[Knowledge; 32]>>,
}

impl WarpClock {
    pub fn new(warps: usize) -> WarpClock {
        let own = UnitKnowledge { whole: vec![0; warps], lanes: Vec::new() };
        WarpClock { clock: 1, shared: Knowledge { own, others: BTreeMap::new() }, split: None }
    }

    pub fn of(&self, lane: usize) -> &Knowledge {
        match &self.split {
            Some(split) => &split[lane],
            None => &self.shared,
        }
    }

    pub fn of_mut(&mut self, lane: usize) -> &mut Knowledge {
        let shared = &self.shared;
        &mut self.split.get_or_insert_with(|| Box::new(std::array::from_fn(|_| shared.clone())))[lane]
    }

    /// Everything that these lanes know together, themselves included; then their clock advances.
    pub fn gather(&mut self, warp: usize, lanes: u32, live: u32) -> Knowledge {
        let whole = lanes & live == live;
        let mut all = match &self.split {
            None => self.shared.clone(),
            Some(split) => {
                let mut all = Knowledge::default();
                for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                    all.join(&split[lane]);
                }
                all
            }
        };
        if whole {
            all.own.learn_warp(warp, self.clock);
        } else {
            for lane in (0..32u16).filter(|lane| lanes >> lane & 1 != 0) {
                all.own.learn_lane(warp as u16 * 32 + lane, self.clock);
            }
        }
        self.clock += 1;
        all
    }

    /// These lanes learn something.
    pub fn spread(&mut self, lanes: u32, live: u32, knowledge: &Knowledge, replaces: bool) {
        if lanes & live == live && (replaces || self.split.is_none()) {
            if replaces {
                self.shared = knowledge.clone();
                self.split = None;
            } else {
                self.shared.join(knowledge);
            }
            return;
        }
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            self.of_mut(lane).join(knowledge);
        }
    }

    /// These lanes meet.
    pub fn synchronise(&mut self, warp: usize, lanes: u32, live: u32) {
        if self.split.is_none() && lanes & live == live {
            self.shared.own.learn_warp(warp, self.clock);
            self.clock += 1;
            return;
        }
        let all = self.gather(warp, lanes, live);
        self.spread(lanes, live, &all, true);
    }
}
