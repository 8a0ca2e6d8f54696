//! Makes `target/<profile>/cuda-sim/`, the folder that a program puts first on its library path.
//!
//! Its links carry the names that a program asks the loader for and lead to the one library of this package. They
//! must not lie in `target/<profile>/` itself or in its `deps/`: cargo puts both on the library path of `cargo run`,
//! where any program would then find a CUDA driver.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The names that `libloading` clients and linked programs ask for.
const LINKS: [&str; 5] =
    ["libcuda.so", "libcuda.so.1", "libcublasLt.so", "libcublasLt.so.12", "libcublasLt.so.13"];

/// What the links lead to, seen from their folder.
const LIBRARY: &str = "../libcuda_sim.so";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        println!("cargo:warning=cuda-sim stands in for the Linux driver: no links are made for this target");
        return;
    }
    let Some(profile) = env::var_os("OUT_DIR").and_then(|out| profile_folder(Path::new(&out))) else {
        println!("cargo:warning=cuda-sim: OUT_DIR is not below target/<profile>/build: no links are made");
        return;
    };
    let folder = profile.join("cuda-sim");
    // The folder is not watched: cargo would look through the links at the library, which every build makes anew.
    if let Err(error) = make_links(&folder) {
        println!("cargo:warning=cuda-sim: cannot make the links in {}: {error}", folder.display());
    }
}

/// `target/<profile>`, the parent of the nearest ancestor named `build`.
fn profile_folder(out: &Path) -> Option<PathBuf> {
    out.ancestors().find(|path| path.ends_with("build"))?.parent().map(Path::to_path_buf)
}

#[cfg(unix)]
fn make_links(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for name in LINKS {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(LIBRARY)) {
            continue;
        }
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::os::unix::fs::symlink(LIBRARY, &link)?,
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_links(_folder: &Path) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
