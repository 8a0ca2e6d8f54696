//! How a test that cannot run here says so, instead of passing in silence: `docs/testing.md`, "Skipped tests".

use std::io::Write;
use std::path::{Path, PathBuf};

/// Reports the test `test` as skipped for want of `need` (`NVRTC`, `CUDA driver`), with the reason `why`, on stderr and
/// in the file that the variable `ASFT_SKIP_LOG` names. The caller returns next.
///
/// # Panics
/// When NVRTC is what is missing and `ASFT_REQUIRE_NVRTC=1`, or when the file cannot be written.
pub fn skip(test: &str, need: &str, why: &str) {
    let line = line(test, need, why);
    eprint!("{line}");
    if let Some(log) = std::env::var_os("ASFT_SKIP_LOG") {
        append(Path::new(&log), &line).expect("the file named by ASFT_SKIP_LOG can be written");
    }
    let required = std::env::var_os("ASFT_REQUIRE_NVRTC").is_some_and(|value| value == "1");
    assert!(!(required && need == "NVRTC"), "ASFT_REQUIRE_NVRTC=1, but there is no NVRTC: {why}");
}

/// Material that is not part of the repository: the folder named by `variable`, else `../shared/NAME` beside the
/// project. Where there is none, `test` is reported as skipped.
#[allow(dead_code, reason = "not every test binary looks outside")]
pub fn outside(test: &str, variable: &str, name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    let folder = std::env::var_os(variable).map_or_else(beside, PathBuf::from);
    let found = folder.is_dir();
    if !found {
        skip(test, name, &format!("no folder {} (set {variable} to where it is)", folder.display()));
    }
    found.then_some(folder)
}

/// The report's one line. Line breaks in the reason become spaces, so that a report stays one line.
pub fn line(test: &str, need: &str, why: &str) -> String {
    format!("skipped: {test}: {need}: {}\n", why.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Appends `line` in one write, so that lines of tests that run at the same time do not mix.
pub fn append(log: &Path, line: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).open(log)?.write_all(line.as_bytes())
}
