//! Progress bars on stderr; hidden where stderr is not a terminal (the log's lines remain).

use asft::eval::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// One bar at a time.
#[derive(Debug, Default)]
pub struct Bars {
    bar: Option<ProgressBar>,
}

impl Progress for Bars {
    fn begin(&mut self, what: &str, total: usize) {
        let style =
            ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}  {elapsed} (left {eta})")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = output::progress().add(ProgressBar::new(total as u64));
        bar.set_style(style);
        bar.set_prefix(what.to_owned());
        self.bar = Some(bar);
    }

    fn advance(&mut self, done: usize, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(note.to_owned());
            bar.set_position(done as u64);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
