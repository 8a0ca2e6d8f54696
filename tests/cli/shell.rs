use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// A folder of its own to run `asft` in, without the settings of whoever runs the tests.
pub struct Shell {
    folder: TempDir,
}

/// What a command left behind.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Shell {
    pub fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a writable temporary folder");
        path
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_asft"));
        command.current_dir(self.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ASFT_") {
                command.env_remove(name);
            }
        }
        command.env_remove("NO_COLOR").env("XDG_CACHE_HOME", self.path().join("cache-home"));
        command
    }

    /// Runs `asft` with these words.
    pub fn asft(&self, words: &[&str]) -> Ran {
        self.asft_with(&[], words)
    }

    /// Runs `asft` with these variables and words.
    pub fn asft_with(&self, variables: &[(&str, &str)], words: &[&str]) -> Ran {
        Ran::from(self.command().envs(variables.iter().copied()).args(words).output().expect("asft starts"))
    }

    /// The line of `asft config` for this setting: value and origin.
    #[track_caller]
    pub fn setting(&self, key: &str, variables: &[(&str, &str)], words: &[&str]) -> (String, String) {
        let words = [&["config"], words].concat();
        let ran = self.asft_with(variables, &words);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let start = format!("{key} = ");
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(&start));
        let line = line.unwrap_or_else(|| panic!("no {key} in\n{}", ran.stdout));
        let (value, origin) = line.split_once("  # ").expect("an origin on each line");
        (value.to_owned(), origin.to_owned())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("messages are UTF-8");
        Self {
            code: output.status.code().expect("not ended by a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}
