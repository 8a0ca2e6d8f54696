//! Compiles `kernels/*.cu` with NVRTC for every architecture below and embeds cubin and PTX of each; without NVRTC only
//! the sources are embedded, and the program compiles them on first use. Never downloads, never fails for want of a GPU.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use nvrtc::Nvrtc;

#[allow(dead_code, reason = "the program needs more of it than its build")]
#[path = "src/backend/cuda/nvrtc.rs"]
mod nvrtc;

/// The oldest architecture first: its PTX runs on everything that is newer.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

fn main() {
    for name in ["ASFT_NVRTC", "CUDA_HOME", "CUDA_PATH", "CARGO_TARGET_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "src/backend/cuda/nvrtc.rs", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    // Whoever works on the program commits often, and every commit would compile all of it again.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        name_commit();
    }
    println!("cargo::rustc-env=ASFT_BUILD_NVRTC={}", set_up_folder().display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = Path::new("kernels");
    let sources = sources(kernels);
    let (version, images) = match find_nvrtc() {
        Some(path) => compile_all(&path, &sources, &out).unwrap_or_else(|error| {
            // cargo shows one line per directive.
            for line in format!("compiling the CUDA kernels with {}: {error}", path.display()).lines() {
                println!("cargo::error={line}");
            }
            (None, String::new())
        }),
        None => {
            println!(
                "cargo::warning=no NVRTC found: kernels will be compiled on first use (./test.sh --setup brings one)"
            );
            (None, String::new())
        }
    };
    let included: String = sources
        .iter()
        .map(|(name, _)| {
            let path = kernels.join(name).canonicalize().expect("read a moment ago");
            format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string())
        })
        .collect();
    let text = format!(
        "/// What was compiled at build time.\npub static IMAGES: &[Image] = &[\n{images}];\n\n\
         /// The NVRTC that compiled it: major and minor version.\n\
         pub static COMPILED_BY: Option<(u32, u32)> = {version:?};\n\n\
         /// Every file of `kernels/`: its path below that folder, and its text.\n\
         pub static SOURCES: &[(&str, &str)] = &[\n{included}];\n"
    );
    fs::write(out.join("images.rs"), text).expect("OUT_DIR can be written");
}

/// Tells the program the commit it is built from, if this is a checkout and there is a git.
fn name_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // A package unpacked inside somebody else's repository is not a checkout of this one.
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| Path::new(&top).canonicalize().ok());
    if top.is_none() || top != Path::new(".").canonicalize().ok() {
        return;
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    println!("cargo::rustc-env=ASFT_COMMIT={commit}");
    // The log of HEAD grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// Where `./test.sh --setup` puts NVRTC.
fn set_up_folder() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    manifest.join(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into())).join("nvrtc")
}

/// The first NVRTC of the places that somebody chose on purpose; never a Python found by chance.
fn find_nvrtc() -> Option<PathBuf> {
    if let Some(file) = env::var_os("ASFT_NVRTC") {
        return Some(PathBuf::from(file));
    }
    let set_up = set_up_folder();
    // A path that does not exist would make every build start over; test.sh touches this file after its set-up.
    if set_up.exists() {
        println!("cargo::rerun-if-changed={}", set_up.join("asft-wheels.txt").display());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let folders = homes.chain([PathBuf::from("/usr/local/cuda")]).map(|home| home.join("lib64"));
    folders.chain([set_up.join("nvidia/cuda_nvrtc/lib")]).find_map(|folder| library_in(&folder))
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Paths below `kernels/` and their texts, sorted.
fn sources(kernels: &Path) -> Vec<(String, String)> {
    let list = |folder: &Path, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).expect("kernels/ is part of the source");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.ends_with(".cu") || name.ends_with(".cuh"))
            .map(|name| format!("{prefix}{name}"))
            .collect()
    };
    let mut all = list(kernels, "");
    all.extend(list(&kernels.join("lib"), "lib/"));
    all.sort();
    let read = |name: String| {
        let text = fs::read_to_string(kernels.join(&name)).expect("kernels/ is part of the source");
        (name, text)
    };
    all.into_iter().map(read).collect()
}

type Images = (Option<(u32, u32)>, String);

/// NVRTC's version, and the text of the `IMAGES` entries.
fn compile_all(library: &Path, sources: &[(String, String)], out: &Path) -> Result<Images, Box<dyn Error>> {
    let nvrtc = Nvrtc::open(library)?;
    let version = nvrtc.version()?;
    let headers: Vec<(&str, &str)> = sources
        .iter()
        .filter(|(name, _)| name.ends_with(".cuh"))
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let mut entries = String::new();
    // NVRTC puts the current folder before the names of source and headers: line information then leads to the files.
    let package = env::current_dir()?;
    env::set_current_dir(package.join("kernels"))?;
    for (name, source) in sources.iter().filter(|(name, _)| name.ends_with(".cu")) {
        for architecture in ARCHITECTURES {
            let stem = out.join(format!("{}.{architecture}", name.trim_end_matches(".cu")));
            let [cubin, ptx, made_of] = ["cubin", "ptx", "key"].map(|kind| stem.with_added_extension(kind));
            let mut hasher = DefaultHasher::new();
            (version, library, nvrtc::options(architecture), &package, source, &headers).hash(&mut hasher);
            let key = format!("{:016x}", hasher.finish());
            // Compiling takes a while, and most builds change few kernels.
            if fs::read_to_string(&made_of).is_ok_and(|before| before == key)
                && cubin.exists()
                && ptx.exists()
            {
                println!("{name} for {architecture} is as it was");
            } else {
                let compiled = nvrtc.compile(name, source, &headers, architecture)?;
                fs::write(&cubin, compiled.cubin)?;
                fs::write(&ptx, compiled.ptx)?;
                fs::write(&made_of, key)?;
            }
            writeln!(
                entries,
                "    Image {{ source: {name:?}, architecture: {architecture:?}, cubin: include_bytes!({:?}), ptx: include_str!({:?}) }},",
                cubin.display().to_string(),
                ptx.display().to_string(),
            )?;
        }
    }
    env::set_current_dir(package)?;
    Ok((Some(version), entries))
}
