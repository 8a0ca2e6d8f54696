//! Where a child process finds `cuda-sim` in place of the CUDA driver.

use std::path::{Path, PathBuf};

/// A folder in which the stand-in has the driver's names. The library is the one built for this very test run.
pub fn links() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let library = executable.parent().unwrap().join("libcuda_sim.so");
    assert!(library.is_file(), "{} was not built with this test", library.display());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-sim-links");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcublasLt.so"] {
        // Tests that run at the same time make the same links.
        let aside = folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
        std::os::unix::fs::symlink(&library, &aside).unwrap();
        std::fs::rename(&aside, folder.join(name)).unwrap();
    }
    folder
}

/// Set in a child process.
const CHILD: &str = "ASFT_TEST_ON_CUDA";

/// Whether this process is one that [`child`] started: a process loads the driver once, so a test starts itself again.
#[allow(dead_code, reason = "some tests start the program instead")]
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test of this name alone in a child process, which must succeed, and gives what it said on stdout. Without a real
/// device the stand-in is its driver, with these variables.
#[allow(dead_code, reason = "some tests start the program instead")]
pub fn child(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    if asft::backend::probe::cuda(false).is_err() {
        command.env("LD_LIBRARY_PATH", links()).envs(variables.iter().copied());
    }
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} with {variables:?}:\n{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "no test {test}:\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Runs a test's body in a child process of its own.
#[allow(dead_code, reason = "some tests start the program instead")]
pub fn on_cuda(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if is_child() {
        return body();
    }
    println!("{}", child(test, variables));
}
