//! Signals that end a command in order: the first one is noted, and a run saves after its step, `asft watch` gives the terminal back; a
//! second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use asft::train::Interrupts;

use super::exit::Signal;

/// All signals that are noted.
const SIGNALS: [Signal; 3] = [Signal::Interrupt, Signal::User1, Signal::Terminate];

impl Signal {
    /// The signal of a number.
    pub fn of(number: i32) -> Option<Self> {
        SIGNALS.into_iter().find(|&signal| signal as i32 == number)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::User1 => "SIGUSR1",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// The signals noted so far.
#[derive(Debug, Default)]
pub struct Signals {
    noted: Arc<AtomicUsize>,
}

impl Interrupts for Signals {
    #[cfg(unix)]
    fn watch(&mut self) {
        use signal_hook::flag;
        // Its default would end the program where a file grows beyond `ulimit -f`; noted, it lets the write fail, and the error
        // says why.
        let size_limit = flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
        if let Err(error) = size_limit {
            tracing::debug!("a limit on the size of files will end the run without a message: {error}");
        }
        let again = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            let number = signal as i32;
            // In this order: a signal that finds `again` set ends the program, and then the first one sets it.
            let registered = flag::register_conditional_shutdown(number, 128 + number, again.clone())
                .and_then(|_| flag::register(number, again.clone()))
                .and_then(|_| flag::register_usize(number, self.noted.clone(), number as usize));
            if let Err(error) = registered {
                tracing::warn!("{} will end the run without saving: {error}", signal.name());
            }
        }
    }

    #[cfg(not(unix))]
    fn watch(&mut self) {}

    fn requested(&self) -> Option<i32> {
        Some(self.noted.load(Ordering::Relaxed) as i32).filter(|&number| number != 0)
    }
}
