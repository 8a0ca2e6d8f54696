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
