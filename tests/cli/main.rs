//! The program as it is used from a shell. One module per question; a new question is a new module here.

/// Data, models and references that are refused, and losses that are no numbers.
mod bad_input;
/// Weights, indices and configurations that lie.
mod bad_models;
/// `asft bench`.
mod bench;
/// The best model of a run, and stopping when nothing gets better.
mod best;
/// `--device cuda`, without a GPU.
mod cuda;
/// Forms of data files, weights, rows that cannot be used, kept tokens.
mod data;
/// Disks that are full, limited or not writable.
#[cfg(target_os = "linux")]
mod disk;
/// `asft eval`.
mod evaluating;
/// `asft generate`.
mod generating;
/// Golden files and run folders.
mod golden;
/// Half fine-tuning.
mod half;
/// Models by their name on the Hugging Face Hub.
mod hub;
/// `asft inspect`.
mod inspect;
/// `asft eval judge`, with a stand-in for the endpoint.
mod judging;
/// kill -9 at any moment.
#[cfg(unix)]
mod kill;
/// Where settings come from, and which place wins.
mod layers;
/// `asft info`, and what of CUDA's is looked for where.
mod libraries;
/// `--log-command`.
#[cfg(unix)]
mod log_command;
/// Completions and the manual.
mod manual;
/// stdout, stderr, colours, JSON lines.
mod messages;
/// Losses and gradients that are no numbers: the state that is saved, and `--skip-nonfinite`.
mod nonfinite;
/// What can be trained for: the listing, and a few steps of each.
mod objectives;
/// `asft paper`: the figures and the runs behind them.
mod paper;
/// Memory as it is planned and as it is used.
mod planning;
/// `asft prepare`.
mod preparing;
/// What cannot be run, with its message and exit code.
mod refusals;
/// `asft report` and `asft watch`.
mod reporting;
/// Reference models that stay beside the policy.
mod resident;
/// Stopped, killed, finished and longer runs.
mod resume;
/// run.toml, fingerprints, and the defaults that the help text promises.
mod run_toml;
/// Whole training runs and the folders they leave.
mod runs;
/// `asft score`.
mod scoring;
/// Mixtures of rows, from training dynamics to a run.
mod sftmix;
/// The shapes of data, end to end.
mod shapes;
/// Running the binary.
mod shell;
/// Signals: the state is saved first.
#[cfg(unix)]
mod signals;
/// The stand-in for the CUDA driver.
#[path = "../simulator/mod.rs"]
mod simulator;
/// Tests that cannot run here say so.
#[path = "../skip/mod.rs"]
mod skip;
/// A judge on this machine.
mod stand_in;
/// Chat templates from the command line to the trained folder.
mod templates;
/// TRL's metrics of tokens.
mod token_metrics;
/// `asft watch` on a terminal.
#[cfg(target_os = "linux")]
mod watching;
