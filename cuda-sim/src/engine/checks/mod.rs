//! Races.
use super::error::FindingKind;
use super::ir::{Order, Scope};
use super::launch::LaunchState;
use super::warp::Copy;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Atomic,
}

/// Memory that several threads can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    Global(usize),
    Shared(usize),
}

/// An access's kind and memory model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    pub kind: Kind,
    pub order: Order,
    pub scope: Scope,
}

pub(crate) struct Checks;
#[allow(unused_variables, clippy::too_many_arguments)]
impl Checks {
    pub fn new(launch: &LaunchState<'_>, unit: u64, blocks: usize, warps: usize) -> Checks {
        Checks
    }
    pub fn fence(&mut self, warp: usize, lanes: u32, scope: Scope) {}
    pub fn warp_synchronised(&mut self, warp: usize, lanes: u32) {}
    pub fn arrive(&mut self, warp: usize, block: usize, number: u32, lanes: u32, acquires: bool) {}
    pub fn barrier_completed(&mut self, block: usize, number: u32) {}
    pub fn cluster_arrive(&mut self, warp: usize, lanes: u32, release: bool) {}
    pub fn cluster_completed(&mut self) {}
    pub fn cluster_passed(&mut self, warp: usize, lanes: u32) {}
    pub fn touch(
        &mut self,
        launch: &LaunchState<'_>,
        warp: usize,
        lane: usize,
        region: Region,
        offset: u64,
        bytes: u64,
        touch: Touch,
        place: (u32, u32),
    ) -> Option<(FindingKind, String)> {
        None
    }
    pub fn begin_copy(
        &mut self,
        launch: &LaunchState<'_>,
        warp: usize,
        lane: usize,
        copy: &Copy,
    ) -> Vec<(FindingKind, String)> {
        Vec::new()
    }
    pub fn end_copy(&mut self, launch: &LaunchState<'_>, warp: usize, lane: usize, copy: &Copy) {}
}
