//! `_` for `-` in the names of flags, as transformers' scripts spell them.

use std::ffi::OsString;

/// Replaces `_` by `-` in the name of every long flag. Values are left alone: what follows `=`, what does not start with
/// `--`, and everything after a bare `--`.
pub fn with_dashes(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_end = false;
    let dashed = |argument: OsString| {
        flags_end |= argument == "--";
        match argument.to_str() {
            Some(text) if !flags_end && text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                OsString::from(name.replace('_', "-") + value)
            }
            _ => argument,
        }
    };
    arguments.into_iter().map(dashed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_change() {
        let typed = [
            "asft",
            "train",
            "--max_steps=1_0",
            "--output",
            "a_b",
            "-v_x",
            "--output_dir=x_y=_",
            "--",
            "--a_b",
        ];
        let expected = [
            "asft",
            "train",
            "--max-steps=1_0",
            "--output",
            "a_b",
            "-v_x",
            "--output-dir=x_y=_",
            "--",
            "--a_b",
        ];
        assert_eq!(with_dashes(typed.map(OsString::from)), expected.map(OsString::from));
    }
}
