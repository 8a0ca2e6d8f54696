//! Runs a test's body in a child process that finds this package's library where a client looks for CUDA's.
//!
//! A process loads `libcuda` once and reads the environment at its start, so every test has a process of its own. The
//! library is the one that cargo built for this very test run (`target/<profile>/deps/libcuda_sim.so`): the links of the
//! build script lead to what `cargo build` made, which may be older.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, io};

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// The status of a driver call.
pub fn code<T>(outcome: Result<T, DriverError>) -> CUresult {
    match outcome {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(error) => error.0,
    }
}

/// Set in the child: the test's name.
const CHILD: &str = "CUDA_SIM_TEST_CHILD";

/// What a child left behind.
pub struct Outcome {
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    /// Checks that standard error has `text`.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "no `{text}` in:\n{}", self.stderr);
        self
    }
}

/// `target/<profile>/deps`, where this test binary is.
pub fn deps() -> PathBuf {
    let executable = env::current_exe().expect("a running test has an executable");
    executable.parent().expect("which lies in a folder").to_path_buf()
}

/// A folder with the names that clients ask for.
pub fn library_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let library = deps().join("libcuda_sim.so");
        assert!(library.is_file(), "{} was not built with this test", library.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-sim-links");
        fs::create_dir_all(&folder).unwrap();
        for name in ["libcuda.so", "libcublasLt.so"] {
            let link = folder.join(name);
            if fs::read_link(&link).is_ok_and(|target| target == library) {
                continue;
            }
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    panic!("{}: {error}", link.display())
                }
                _ => std::os::unix::fs::symlink(&library, &link).unwrap(),
            }
        }
        folder
    })
}

/// In the child: runs `body` and gives `None`. In the test: runs the child with `folder` first on the library path and
/// `variables` set, and gives what it left, after checking that it succeeded.
pub fn in_child(
    folder: Option<&Path>,
    test: &str,
    variables: &[(&str, &str)],
    body: impl FnOnce(),
) -> Option<Outcome> {
    if env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let inherited = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--include-ignored", "--test-threads=1"]).env(CHILD, test);
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CUDA_SIM_") && name != CHILD) {
        command.env_remove(name);
    }
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", format!("{}:{inherited}", folder.display()));
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 passed"), "{test} in a child: {}\n{stdout}\n{stderr}", output.status);
    assert!(output.status.success(), "{test} in a child: {}\n{stdout}\n{stderr}", output.status);
    Some(Outcome { stderr })
}

/// [`in_child`] under this package's library.
pub fn simulate(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<Outcome> {
    in_child(Some(library_folder()), test, variables, body)
}

/// `c[i] = a[i] + b[i]` for `i < n`, f32.
pub const VECTOR_ADD: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry vector_add(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<11>;
    ld.param.u64 %rd1, [pa];
    ld.param.u64 %rd2, [pb];
    ld.param.u64 %rd3, [pc];
    ld.param.u32 %r1, [pn];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd4, %rd1;
    cvta.to.global.u64 %rd5, %rd2;
    cvta.to.global.u64 %rd6, %rd3;
    mul.wide.u32 %rd7, %r5, 4;
    add.s64 %rd8, %rd4, %rd7;
    add.s64 %rd9, %rd5, %rd7;
    add.s64 %rd10, %rd6, %rd7;
    ld.global.f32 %f1, [%rd8];
    ld.global.f32 %f2, [%rd9];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd10], %f3;
DONE:
    ret;
}
"#;

/// `y[i] = a * x[i] + y[i]` for every thread of the grid, f32; the parameters have different sizes and gaps.
pub const SAXPY: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 calls = 7;
.visible .entry saxpy(.param .f32 pa, .param .u64 px, .param .u64 py)
.maxntid 128, 1, 1
{
    .reg .b32 %r<5>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<8>;
    ld.param.f32 %f1, [pa];
    ld.param.u64 %rd1, [px];
    ld.param.u64 %rd2, [py];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %rd3, %r4, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    ld.global.f32 %f3, [%rd5];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd5], %f4;
    ret;
}
.visible .entry shared_user(.param .u64 pout)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    .shared .align 16 .b8 buffer[1024];
    ld.param.u64 %rd1, [pout];
    mov.u32 %r1, 5;
    st.shared.u32 [buffer], %r1;
    ld.shared.u32 %r1, [buffer];
    st.global.u32 [%rd1], %r1;
    ret;
}
"#;
