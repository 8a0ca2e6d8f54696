//! Kernels compiled at run time: the same images as those made by the build.

mod skip;

use asft::backend::cuda::images::{self, IMAGES, Origin};
use asft::backend::cuda::libraries;

/// PTX without the lines that name source files: the folder in them is the one the compiler was called in.
fn code(ptx: &str) -> String {
    ptx.lines().filter(|line| !line.trim_start().starts_with(".file")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_source_compiles_at_run_time_to_what_the_build_made() {
    let test = "images::every_source_compiles_at_run_time_to_what_the_build_made";
    let Ok((nvrtc, found)) = libraries::nvrtc(None) else {
        return skip::skip(test, "NVRTC", "none at run time");
    };
    if images::COMPILED_BY != nvrtc.version().ok() {
        let (built, now) = (images::COMPILED_BY, nvrtc.version());
        let why = format!("the build had version {built:?}, {found:?} has {now:?}");
        return skip::skip(test, "the NVRTC of the build", &why);
    }
    let mut compared = 0;
    for (device, architecture) in [(80, "sm_80"), (90, "sm_90a")] {
        for source in images::kernel_sources() {
            let (compiled, named, origin) = images::compile(nvrtc, source, device, None).unwrap();
            assert_eq!((named.as_str(), origin), (architecture, Origin::Compiled));
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "{source}: no cubin");
            let built =
                IMAGES.iter().find(|image| (image.source, image.architecture) == (source, architecture));
            let built = built.unwrap_or_else(|| panic!("{source} for {architecture} is not embedded"));
            assert!(code(&compiled.ptx) == code(built.ptx), "{source} for {architecture} differs");
            compared += 1;
        }
    }
    assert_eq!(compared, IMAGES.len());
}

#[test]
fn a_device_between_or_beyond_the_known_ones_gets_the_newest_that_runs_on_it() {
    let Ok((nvrtc, _)) = libraries::nvrtc(None) else {
        let test = "images::a_device_between_or_beyond_the_known_ones_gets_the_newest_that_runs_on_it";
        return skip::skip(test, "NVRTC", "none at run time");
    };
    let newest = nvrtc.architectures().unwrap().into_iter().max().unwrap();
    for (device, architecture) in
        [(86, "sm_86".to_owned()), (88, "sm_87".to_owned()), (newest + 9, format!("sm_{newest}"))]
    {
        let (_, named, _) = images::compile(nvrtc, "rope.cu", device, None).unwrap();
        assert_eq!(named, architecture);
    }
    let error = images::compile(nvrtc, "rope.cu", 30, None).unwrap_err().to_string();
    assert!(error.contains("compute capability 3.0"), "{error}");
}
