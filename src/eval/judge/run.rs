//! All matches, some at a time; each judgment is handed on as soon as it is there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use super::{Endpoint, EndpointError, Judgment, Match};

/// Calls given up in a row after which nobody is asked any more.
const MOST_GIVEN_UP: usize = 3;

/// Whoever hears how the work goes.
pub trait Watcher: Sync {
    /// An attempt has failed; there will be another after the wait.
    fn failed(&self, contest: &Match, error: &EndpointError, wait: Duration);
}

/// A match that could not be judged.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its index.
    pub index: usize,
    /// Why.
    pub error: EndpointError,
}

/// What became of the matches.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// Those that could not be judged, in the order in which that was known.
    pub failures: Vec<Failure>,
    /// Whether the rest was not asked for, because it would have failed as well.
    pub stopped: bool,
}

/// Judges `matches`, at most `parallel` at a time. `save` takes each judgment as it comes; its error ends the work.
///
/// # Errors
/// The first one of `save`. Calls that fail are [`Finished::failures`].
pub fn run<E>(
    endpoint: &Endpoint,
    matches: &[&Match],
    parallel: usize,
    watcher: &dyn Watcher,
    mut save: impl FnMut(usize, Judgment) -> Result<(), E>,
) -> Result<Finished, E> {
    let (next, in_a_row) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (hopeless, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let work = |sender: mpsc::Sender<_>| {
        while !stop.load(Ordering::Relaxed) && !hopeless.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(contest) = matches.get(index) else { break };
            let outcome = judge(endpoint, contest, watcher);
            match &outcome {
                Ok(_) => in_a_row.store(0, Ordering::Relaxed),
                Err(error) => {
                    let given_up = in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                    hopeless.fetch_or(error.is_final() || given_up >= MOST_GIVEN_UP, Ordering::Relaxed);
                }
            }
            if sender.send((index, outcome)).is_err() {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..parallel.clamp(1, matches.len().max(1)) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut failures = Vec::new();
        let mut saved = Ok(());
        for (index, outcome) in receiver {
            match outcome {
                Ok(judgment) => saved = saved.and_then(|()| save(index, judgment)),
                Err(error) => failures.push(Failure { index, error }),
            }
            stop.store(saved.is_err(), Ordering::Relaxed);
        }
        saved.map(|()| Finished { failures, stopped: hopeless.load(Ordering::Relaxed) })
    })
}

/// One judgment: a call, or one for each order.
fn judge(endpoint: &Endpoint, contest: &Match, watcher: &dyn Watcher) -> Result<Judgment, EndpointError> {
    let failed = |error: &EndpointError, wait| watcher.failed(contest, error, wait);
    let ask = |user: &String| endpoint.ask(&contest.prompt.system_prompt, user, &failed);
    let said = contest.user_prompts.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Ok(contest.judgment(endpoint.model(), &said, now))
}
