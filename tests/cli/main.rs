//! The program as it is used from a shell. One module per question; a new question is a new module here.

/// Where settings come from, and which place wins.
mod layers;
/// stdout, stderr, colours, JSON lines.
mod messages;
/// What cannot be run, with its message and exit code.
mod refusals;
/// run.toml, fingerprints, and the defaults that the help text promises.
mod run_toml;
/// Running the binary.
mod shell;
