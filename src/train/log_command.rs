//! `--log-command`: a child process that gets every line of `metrics.jsonl` on stdin (for Weights & Biases, MLflow, a dashboard).
//!
//! It must not be able to hurt the run. A thread of its own writes to the pipe; between it and the loop is a queue of bounded
//! length, and where that is full, lines are dropped and counted. A child that ends is reported once. At the end its stdin is
//! closed, and it is waited for, but not for ever.
//!
//! Boundary: lines of text. `metrics.jsonl` itself does not depend on any of this.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use super::TrainError;

/// The variable in which the child finds the run folder.
pub const FOLDER_VARIABLE: &str = "ASFT_RUN_FOLDER";

/// How much patience there is with the child.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Lines that may wait to be written.
    pub queue: usize,
    /// Time at the end for what waits to be written, and for the child to end.
    pub end: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { queue: 4096, end: Duration::from_secs(60) }
    }
}

/// The child, from the side of the loop. Dropping it is [`finish`](Self::finish).
#[derive(Debug)]
pub struct LogCommand {
    /// `None` once it is finished.
    lines: Option<SyncSender<String>>,
    /// How the child ended; nothing where the thread has said so already.
    ended: Receiver<Option<ExitStatus>>,
    process: u32,
    patience: Patience,
    dropped: u64,
}

impl LogCommand {
    /// Starts a shell command for the run in `folder`. What it prints goes to stderr.
    ///
    /// # Errors
    /// There is no shell, or the system refuses a process or a thread.
    pub fn start(command: &str, folder: &Path, patience: Patience) -> Result<Self, TrainError> {
        let refused = |source| TrainError::LogCommand { command: command.to_owned(), source };
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(command)
            .env(FOLDER_VARIABLE, folder)
            .stdin(Stdio::piped())
            .stdout(std::io::stderr());
        // Ctrl-C is for the run: the child is to see the last lines.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut child = shell.spawn().map_err(refused)?;
        let process = child.id();
        let stdin = child.stdin.take();
        let (lines, waiting) = sync_channel(patience.queue);
        let (tell, ended) = channel();
        let work = move || {
            let written = stdin.map(|stdin| write_lines(stdin, &waiting));
            // From here on nothing is taken from the loop any more.
            drop(waiting);
            let is_told = written == Some(Written::Refused) && report_refusal(&mut child);
            let status = child.wait().ok().filter(|_| !is_told);
            // Nobody listens where the time was up.
            let _ = tell.send(status);
        };
        std::thread::Builder::new().name("log command".to_owned()).spawn(work).map_err(refused)?;
        Ok(Self { lines: Some(lines), ended, process, patience, dropped: 0 })
    }

    /// Hands on a line, without its newline. Never waits.
    pub fn send(&mut self, line: String) {
        let Some(lines) = &self.lines else { return };
        match lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if self.dropped == 0 {
                    tracing::warn!(
                        "the log command does not keep up: lines are dropped (metrics.jsonl has all)"
                    );
                }
                self.dropped += 1;
            }
            // It was reported by the thread.
            Err(TrySendError::Disconnected(_)) => self.lines = None,
        }
    }

    /// Lines that were dropped because the child did not keep up.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Closes the child's stdin, waits for it within its time, and says what is amiss. Does nothing the second time.
    pub fn finish(&mut self) {
        self.lines = None;
        let (process, dropped) = (self.process, std::mem::take(&mut self.dropped));
        if dropped > 0 {
            tracing::warn!("the log command missed {dropped} lines that it was too slow for");
        }
        match self.ended.recv_timeout(self.patience.end) {
            Ok(Some(status)) if !status.success() => tracing::warn!("the log command failed: {status}"),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.patience.end.as_secs();
                tracing::warn!(
                    "the log command (process {process}) has not ended {seconds} s after its last line; it is left alone"
                );
            }
            // Ended well, or told before.
            Ok(_) | Err(RecvTimeoutError::Disconnected) => {}
        }
        let (_, nothing) = channel();
        self.ended = nothing;
    }
}

impl Drop for LogCommand {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How the writing ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// There are no more lines.
    All,
    /// The pipe is closed at its other end.
    Refused,
}

fn write_lines(mut stdin: ChildStdin, lines: &Receiver<String>) -> Written {
    for line in lines {
        // The runtime ignores SIGPIPE: a closed pipe is an error here, and no signal.
        if stdin.write_all((line + "\n").as_bytes()).is_err() {
            return Written::Refused;
        }
    }
    Written::All
}

/// Says that the child reads no more: because it has ended (a shell that is about to may take a moment), or of itself. Gives
/// whether it has ended.
fn report_refusal(child: &mut Child) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) => {
                tracing::warn!("the log command has ended ({status}); the run goes on without it");
                return true;
            }
            Err(_) => break,
        }
    }
    tracing::warn!("the log command has closed its stdin; the run goes on without it");
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn start(command: &str, patience: Patience) -> LogCommand {
        LogCommand::start(command, Path::new("the run"), patience).unwrap()
    }

    #[test]
    fn every_line_arrives_and_the_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines");
        let command = format!("printf '%s\\n' \"$ASFT_RUN_FOLDER\" > {0}; cat >> {0}", file.display());
        let mut child = start(&command, Patience::default());
        let sent: Vec<String> = (0..1000).map(|line| format!("{{\"step\":{line}}}")).collect();
        sent.iter().for_each(|line| child.send(line.clone()));
        child.finish();
        let text = std::fs::read_to_string(file).unwrap();
        let (folder, lines) = text.split_once('\n').unwrap();
        assert_eq!(folder, "the run");
        assert_eq!(lines.lines().collect::<Vec<_>>(), sent);
        assert_eq!(child.dropped(), 0);
    }

    #[test]
    fn a_child_that_does_not_read_costs_lines_and_no_time() {
        let patience = Patience { queue: 4, end: Duration::from_millis(50) };
        // It ends by itself if the test should fail to.
        let mut child = start("exec sleep 20", patience);
        let began = Instant::now();
        let line = "x".repeat(1000);
        for _ in 0..10_000 {
            child.send(line.clone());
        }
        // The pipe holds 64 KiB on Linux, the queue four lines.
        assert!(child.dropped() > 9_000, "{} lines were dropped", child.dropped());
        let process = child.process;
        child.finish();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let killed = Command::new("kill").arg(process.to_string()).status().unwrap();
        assert!(killed.success(), "it was to be left alone");
    }

    #[test]
    fn a_child_that_ends_early_takes_nothing_with_it() {
        for command in ["exit 7", "true", "no-such-program-anywhere 2>&-", "exec <&-; sleep 0.1"] {
            let mut child = start(command, Patience::default());
            let began = Instant::now();
            // Until the thread has noticed: more than a pipe holds.
            while child.lines.is_some() {
                child.send("x".repeat(1000));
                assert!(began.elapsed() < Duration::from_secs(30), "{command}");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.send("one more".to_owned());
            child.finish();
            child.finish();
        }
    }
}
