//! What `asft info` says, where CUDA's libraries are looked for, and kernels that are compiled on first use.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::golden::{batch, checkpoint, lines};
use crate::shell::{Ran, Shell};
use crate::simulator::links;
use crate::skip::skip;

/// A machine with the stand-in's driver, and nothing else of CUDA's that the loader or a Python would find.
struct Machine {
    shell: Shell,
    /// The stand-in, which is cublasLt as well.
    simulator: PathBuf,
    variables: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let shell = Shell::new();
        let simulator = links().join("libcuda.so").canonicalize().unwrap();
        let driver = shell.path().join("driver");
        fs::create_dir(&driver).unwrap();
        symlink(&simulator, driver.join("libcuda.so")).unwrap();
        let mut machine = Self { simulator, variables: Vec::new(), shell };
        for name in ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"] {
            machine.set(name, "");
        }
        machine.set("LD_LIBRARY_PATH", &driver);
        machine.set("PATH", "/nonexistent");
        machine.set("XDG_CACHE_HOME", machine.path("cache"));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shell.path().join(name)
    }

    fn set(&mut self, name: &str, value: impl AsRef<Path>) {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.as_ref().to_str().unwrap().to_owned()));
    }

    /// A cublasLt of version 12.9.3 in this folder: a library of that soname, whose work the stand-in does.
    fn put_cublas_lt(&self, folder: &str) -> PathBuf {
        let file = self.path(folder).join("libcublasLt.so.12");
        fs::create_dir_all(self.path(folder)).unwrap();
        let source =
            self.shell.write("version.c", "unsigned long cublasLtGetVersion(void) { return 120903; }");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wl,--no-as-needed,-soname,libcublasLt.so.12"]);
        let linked = compiler.arg("-o").arg(&file).args([&source, &self.simulator]).status().unwrap();
        assert!(linked.success());
        file
    }

    fn asft(&self, words: &[&str]) -> Ran {
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.shell.asft_with(&variables, words)
    }

    fn info(&self) -> Value {
        let ran = self.asft(&["info", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// One step on the device.
    fn train(&self, output: &str) -> Ran {
        let line = format!(
            "-v train --model {} --data {} --batch-size 4 --max-steps 1 --device cuda --output {output}",
            checkpoint("mqa-linear-tied"),
            batch("train12"),
        );
        self.asft(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn loss(&self, output: &str) -> Value {
        lines(self.path(output).join("metrics.jsonl"))[0]["loss"].clone()
    }

    /// Whether this machine's own CUDA stays out of sight; else `test` is reported as skipped.
    fn bare(&self, test: &str) -> bool {
        let info = self.info();
        let bare = info["cublas_lt"]["missing"].is_string();
        if !bare {
            skip(test, "a machine without CUDA", &format!("cublasLt is at {}", info["cublas_lt"]["file"]));
        }
        bare
    }
}

/// The options of the place that cublasLt came from.
#[track_caller]
fn assert_found(machine: &Machine, file: &Path, place: &str) {
    let found = &machine.info()["cublas_lt"];
    assert_eq!(found["place"], place, "{found}");
    assert_eq!(found["file"], file.canonicalize().unwrap().to_str().unwrap(), "{found}");
    assert_eq!(found["version"], "12.9.3");
}

#[test]
fn info_needs_nothing() {
    let shell = Shell::new();
    let ran = shell.asft(&["info"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("--device auto takes "), "{}", ran.stdout);
    let info: Value = serde_json::from_str(&shell.asft(&["info", "--json"]).stdout).unwrap();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut files: Vec<String> =
        fs::read_dir(kernels).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|name| name.ends_with(".cu"));
    files.sort();
    assert_eq!(info["kernels"]["files"], serde_json::json!(files));
    if info["driver"].is_null() {
        assert!(ran.stdout.contains("driver     none\n"), "{}", ran.stdout);
        assert!(info["gpu"]["missing"].as_str().unwrap().contains("no CUDA driver"));
        assert!(info["auto"]["why_not_the_gpu"].as_str().unwrap().contains("no CUDA driver"));
    }
}

#[test]
fn info_of_the_stand_in() {
    let mut machine = Machine::new();
    machine.set("LD_LIBRARY_PATH", links());
    for (capability, multiprocessors) in [("9.0", 132), ("8.0", 108)] {
        machine.set("CUDA_SIM_CC", capability);
        let info = machine.info();
        assert_eq!(info["driver"]["cuda"], "13.0");
        assert_eq!(info["driver"]["file"], machine.simulator.to_str().unwrap());
        assert_eq!(info["gpu"]["name"], "cuda-sim");
        assert_eq!(info["gpu"]["compute_capability"], capability);
        assert_eq!(info["gpu"]["multiprocessors"], multiprocessors);
        assert_eq!(info["cublas_lt"]["place"], "the loader's path");
        assert!(info["auto"]["why_not_the_gpu"].as_str().unwrap().contains("only the stand-in"), "{info}");
        if info["kernels"]["compiled_by_nvrtc"].is_string() {
            // The stand-in takes no cubin.
            let architecture = if capability == "9.0" { "sm_90a" } else { "sm_80" };
            let loaded = info["gpu"]["loaded"].as_str().unwrap();
            assert!(loaded.starts_with(&format!("PTX of {architecture} (embedded), all ")), "{loaded}");
        }
    }
}

#[test]
fn versions() {
    let shell = Shell::new();
    let short = format!("asft {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(shell.asft(&["-V"]).stdout, short);
    let long = shell.asft(&["--version"]).stdout;
    let info: Value = serde_json::from_str(&shell.asft(&["info", "--json"]).stdout).unwrap();
    assert!(long.starts_with(short.trim_end()), "{long}");
    match info["kernels"]["compiled_by_nvrtc"].as_str() {
        Some(version) => assert!(
            long.contains(&format!("sm_80, sm_90a (cubin and PTX each), compiled by NVRTC {version}"))
        ),
        None => assert!(long.contains("sources only"), "{long}"),
    }
    if let Some(commit) = info["commit"].as_str() {
        assert!(long.contains(&format!("(commit {commit})")), "{long}");
    }
}

#[test]
fn cublas_lt_is_found_where_toolkits_and_wheels_put_it() {
    let mut machine = Machine::new();
    if !machine.bare("libraries::cublas_lt_is_found_where_toolkits_and_wheels_put_it") {
        return;
    }
    // The last place first, so that each new one has to win over those before it.
    let python = machine.put_cublas_lt("site/nvidia/cublas/lib");
    let script = format!("#!/bin/sh\necho /nonexistent\necho '{}'\n", machine.path("site").display());
    fs::create_dir(machine.path("bin")).unwrap();
    let script = machine.shell.write("bin/python3", script);
    fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    machine.set("PATH", machine.path("bin"));
    assert_found(&machine, &python, "python3's site-packages");
    let environment = machine.put_cublas_lt("venv/lib/python3.13/site-packages/nvidia/cublas/lib");
    machine.set("VIRTUAL_ENV", machine.path("venv"));
    assert_found(&machine, &environment, "VIRTUAL_ENV");
    let set_up = machine.put_cublas_lt("target/nvrtc/nvidia/cublas/lib");
    machine.set("CARGO_TARGET_DIR", machine.path("target"));
    assert_found(&machine, &set_up, "target/nvrtc");
    let toolkit = machine.put_cublas_lt("toolkit/lib64");
    machine.set("CUDA_PATH", machine.path("toolkit"));
    assert_found(&machine, &toolkit, "CUDA_PATH");
    let other = machine.put_cublas_lt("other/lib");
    machine.set("CUDA_HOME", machine.path("other"));
    assert_found(&machine, &other, "CUDA_HOME");
    let named = machine.put_cublas_lt("named");
    machine.set("ASFT_CUDA_LIBS", format!("/nonexistent:{}", machine.path("named").display()));
    assert_found(&machine, &named, "ASFT_CUDA_LIBS");
    // And it is good for more than to be looked at.
    let ran = machine.train("run");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("device: cuda-sim"), "{}", ran.stderr);
    // What the loader finds by itself goes before all of them.
    machine.set("LD_LIBRARY_PATH", links());
    assert_eq!(machine.info()["cublas_lt"]["place"], "the loader's path");
}

#[test]
fn a_file_that_cannot_be_loaded_is_passed_over_and_named() {
    let mut machine = Machine::new();
    if !machine.bare("libraries::a_file_that_cannot_be_loaded_is_passed_over_and_named") {
        return;
    }
    fs::create_dir(machine.path("bad")).unwrap();
    let bad = machine.shell.write("bad/libcublasLt.so.13", "not a library");
    machine.set("ASFT_CUDA_LIBS", machine.path("bad"));
    let refused = machine.train("refused");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains(bad.to_str().unwrap()), "{}", refused.stderr);
    let good = machine.put_cublas_lt("toolkit/lib64");
    machine.set("CUDA_HOME", machine.path("toolkit"));
    assert_found(&machine, &good, "CUDA_HOME");
}

#[test]
fn without_cublas_lt_the_command_that_brings_it_is_printed() {
    let machine = Machine::new();
    if !machine.bare("libraries::without_cublas_lt_the_command_that_brings_it_is_printed") {
        return;
    }
    let ran = machine.train("run");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: libcublasLt.so is needed and cannot be loaded"), "{}", ran.stderr);
    assert!(ran.stderr.contains("python3 -m pip install nvidia-cublas-cu12"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: use --device cpu"), "{}", ran.stderr);
    assert!(!machine.path("run").exists(), "something had begun");
}

#[test]
fn without_nvrtc_a_device_that_no_image_serves_is_refused() {
    let mut machine = Machine::new();
    machine.set("LD_LIBRARY_PATH", links());
    machine.set("CARGO_TARGET_DIR", "/nonexistent");
    machine.set("ASFT_CUDA_KERNELS", "sources");
    let nvrtc = &machine.info()["nvrtc"];
    if !nvrtc["missing"].is_string() {
        let test = "libraries::without_nvrtc_a_device_that_no_image_serves_is_refused";
        return skip(test, "a machine without CUDA", &format!("NVRTC is at {}", nvrtc["file"]));
    }
    let ran = machine.train("run");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: libnvrtc.so is needed and cannot be loaded"), "{}", ran.stderr);
    assert!(ran.stderr.contains("python3 -m pip install nvidia-cuda-nvrtc-cu12"), "{}", ran.stderr);
}

#[test]
fn kernels_compiled_on_first_use_are_kept() {
    let mut machine = Machine::new();
    machine.set("LD_LIBRARY_PATH", links());
    let info = machine.info();
    if info["nvrtc"]["missing"].is_string() || !info["kernels"]["compiled_by_nvrtc"].is_string() {
        return skip(
            "libraries::kernels_compiled_on_first_use_are_kept",
            "NVRTC",
            "no image to compare with",
        );
    }
    let files = info["kernels"]["files"].as_array().unwrap().len();
    assert_eq!(machine.train("embedded").code, 0);
    machine.set("ASFT_CUDA_KERNELS", "sources");
    let loaded = machine.info()["gpu"]["loaded"].clone();
    assert!(loaded.as_str().unwrap().contains("compiled on first use"), "{loaded}");
    let kept = machine.path("cache/asft/kernels");
    assert!(!kept.exists(), "the question alone compiled something");

    let count = |ran: &Ran, how: &str| ran.stderr.lines().filter(|line| line.contains(how)).count();
    let first = machine.train("first");
    assert_eq!((first.code, count(&first, "sm_90a (compiled now)")), (0, files), "{}", first.stderr);
    let entries = || -> Vec<PathBuf> { fs::read_dir(&kept).unwrap().map(|e| e.unwrap().path()).collect() };
    assert_eq!(entries().len(), files);
    let second = machine.train("second");
    assert_eq!((second.code, count(&second, "sm_90a (compiled earlier)")), (0, files), "{}", second.stderr);

    // One byte changed, one entry cut, one empty.
    let entries = entries();
    let contents: Vec<Vec<u8>> = entries.iter().map(|entry| fs::read(entry).unwrap()).collect();
    let mut changed = contents[0].clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&entries[0], changed).unwrap();
    fs::write(&entries[1], &contents[1][..contents[1].len() / 2]).unwrap();
    fs::write(&entries[2], "").unwrap();
    let third = machine.train("third");
    assert_eq!((third.code, count(&third, "(compiled now)")), (0, 3), "{}", third.stderr);
    for (entry, content) in entries.iter().zip(&contents) {
        assert!(fs::read(entry).unwrap() == *content, "{} was not made good", entry.display());
    }

    // A file where the folder should be: root may write everywhere else.
    machine.shell.write("occupied", "");
    machine.set("XDG_CACHE_HOME", machine.path("occupied"));
    let fourth = machine.train("fourth");
    assert_eq!((fourth.code, count(&fourth, "(compiled now)")), (0, files), "{}", fourth.stderr);
    assert_eq!(count(&fourth, "compiled kernels cannot be kept"), 1, "{}", fourth.stderr);
    for run in ["first", "second", "third", "fourth"] {
        assert_eq!(machine.loss(run), machine.loss("embedded"), "{run}");
    }
}
