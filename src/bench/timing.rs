//! Seconds of work that is only enqueued: many repetitions between two waits, the median of several rounds.

use std::time::Instant;

use serde::Serialize;

use crate::backend::{Backend, BackendError, View};

/// How long to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Rounds whose median counts; at least 1.
    pub rounds: usize,
    /// Seconds that a round should take at least.
    pub round_seconds: f64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Seconds of one repetition, the median of the rounds.
    pub seconds: f64,
    /// The fastest round's.
    pub min_seconds: f64,
    /// The slowest round's.
    pub max_seconds: f64,
    /// Repetitions of a round.
    pub repetitions: usize,
}

/// Most repetitions of a round.
const MOST: usize = 10_000;

impl Timing {
    /// Times `run`. `probe` is a view of bytes or more that can be read: reading one waits for the device.
    pub fn measure<B: Backend>(
        self,
        backend: &mut B,
        probe: Probe,
        mut run: impl FnMut(&mut B),
    ) -> Result<Measured, BackendError> {
        let mut round = |backend: &mut B, repetitions: usize| -> Result<f64, BackendError> {
            let start = Instant::now();
            for _ in 0..repetitions {
                run(backend);
            }
            probe.wait(backend)?;
            Ok(start.elapsed().as_secs_f64() / repetitions as f64)
        };
        round(backend, 1)?;
        let once = round(backend, 1)?;
        let repetitions = ((self.round_seconds / once.max(1e-9)).ceil() as usize).clamp(1, MOST);
        let mut seconds: Vec<f64> = Vec::with_capacity(self.rounds);
        // A single repetition that was long enough is a round already.
        seconds.extend((repetitions == 1).then_some(once));
        while seconds.len() < self.rounds.max(1) {
            seconds.push(round(backend, repetitions)?);
        }
        let (min_seconds, max_seconds) = bounds(&seconds);
        Ok(Measured { seconds: median(&mut seconds), min_seconds, max_seconds, repetitions })
    }
}

/// One f64 whose reading waits for all work before it.
#[derive(Clone, Copy, Debug)]
pub struct Probe(View);

impl Probe {
    /// The first element of a view of f64.
    pub fn new(view: View) -> Self {
        Self(view.first(1))
    }

    /// Waits.
    pub fn wait<B: Backend>(self, backend: &mut B) -> Result<(), BackendError> {
        backend.read(self.0, &mut [0f64])
    }
}

/// The smallest and the largest.
pub fn bounds(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), &value| (min.min(value), max.max(value)))
}

/// The middle one, or the mean of the two in the middle; the values are sorted. 0 for none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (len, half) if len % 2 == 1 => values[half],
        (_, half) => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::backend::{ArenaId, Element};

    #[test]
    fn medians_of_odd_and_even_numbers_of_rounds() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 8.0]), 3.0);
        assert_eq!(bounds(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }

    #[test]
    fn a_repetition_is_timed_and_not_a_round() {
        let mut backend = CpuBackend::new(1).unwrap();
        backend.allocate(ArenaId(0), 8).unwrap();
        let probe = Probe::new(View { arena: ArenaId(0), element: Element::F64, offset: 0, len: 1 });
        let (pause, runs) = (std::time::Duration::from_millis(1), std::cell::Cell::new(0));
        let measured = Timing { rounds: 3, round_seconds: 0.05 }
            .measure(&mut backend, probe, |_| {
                runs.set(runs.get() + 1);
                std::thread::sleep(pause);
            })
            .unwrap();
        let repetitions = measured.repetitions;
        // One to warm up, one to see how many it takes, and the rounds, of which that one may be the first.
        assert_eq!(runs.get(), if repetitions == 1 { 4 } else { 2 + 3 * repetitions });
        assert!(repetitions <= 50 && measured.min_seconds >= 0.001, "{measured:?}");
        let round = repetitions as f64 * 0.001;
        assert!(repetitions < 4 || measured.min_seconds < round / 2.0, "a round's time: {measured:?}");
    }
}
