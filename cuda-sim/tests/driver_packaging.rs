//! Where the library lies and under which names: found when asked for, never by accident.

mod driver_support;

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use cudarc::driver::{CudaContext, sys};
use driver_support::{deps, in_child};

const LINKS: [&str; 5] =
    ["libcublasLt.so", "libcublasLt.so.12", "libcublasLt.so.13", "libcuda.so", "libcuda.so.1"];

fn profile_folder() -> PathBuf {
    deps().parent().unwrap().to_path_buf()
}

/// Makes what a user makes: `cargo test` alone leaves the library in `deps/` and the links dangling.
fn build() {
    let mut command = Command::new(env::var_os("CARGO").expect("tests run under cargo"));
    command.args(["build", "--package", "cuda-sim", "--lib", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    if profile_folder().ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_links_carry_every_name_and_lead_to_the_library() {
    let folder = profile_folder().join("cuda-sim");
    if env::var_os("CUDA_SIM_TEST_CHILD").is_none() {
        build();
        for name in LINKS {
            let link = folder.join(name);
            assert_eq!(fs::read_link(&link).unwrap(), PathBuf::from("../libcuda_sim.so"), "{name}");
            assert!(fs::canonicalize(&link).unwrap().is_file(), "{name} dangles");
        }
        let mut found: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, LINKS);
    }
    in_child(Some(&folder), "the_links_carry_every_name_and_lead_to_the_library", &[], || {
        assert_eq!(CudaContext::new(0).unwrap().name().unwrap(), "cuda-sim");
    });
}

/// cargo puts `target/<profile>` and `target/<profile>/deps` on the library path of `cargo run` and `cargo test`.
#[test]
fn cargo_s_own_library_path_has_no_cuda_of_ours() {
    let path = env::var("LD_LIBRARY_PATH").expect("cargo sets it");
    let ours: Vec<_> =
        env::split_paths(&path).filter(|folder| folder.starts_with(profile_folder())).collect();
    assert!(ours.contains(&profile_folder()) && ours.contains(&deps()), "{ours:?}");
    for folder in ours {
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                !name.starts_with("libcuda.so") && !name.starts_with("libcublasLt.so"),
                "{name} in {folder:?}"
            );
        }
    }
    in_child(None, "cargo_s_own_library_path_has_no_cuda_of_ours", &[], || {
        // SAFETY: it only looks for the library.
        if unsafe { sys::is_culib_present() } {
            // A machine with a driver of its own; one without a GPU has nothing to ask.
            if let Ok(context) = CudaContext::new(0) {
                assert_ne!(context.name().unwrap(), "cuda-sim");
            }
        }
    });
}
