//! `--data FILE[:WEIGHT]` <-> a file and its weight.
//!
//! Boundary: the notation. What a weight does is [`crate::data::files`]'s business.

use std::path::{Path, PathBuf};

use super::ConfigError;
use super::resolve::range;
use crate::data::WeightedFile;

/// More is a mistyped number.
const LARGEST: f64 = 1000.0;

/// A file as it is typed. One that exists under the whole text is meant, colon and number included.
pub(super) fn parse(typed: &Path) -> Result<WeightedFile, ConfigError> {
    match split(typed) {
        Some((path, weight)) if !typed.exists() => {
            if weight > 0.0 && weight <= LARGEST {
                Ok(WeightedFile { path, weight })
            } else {
                let must = format!("a weight above 0 and at most {LARGEST}, after the last colon");
                Err(range("data", typed.display(), must))
            }
        }
        _ => Ok(WeightedFile::whole(typed)),
    }
}

/// Text that [`parse`] reads as this source.
pub(super) fn typed(source: &WeightedFile) -> PathBuf {
    if source.weight == 1.0 && split(&source.path).is_none() {
        return source.path.clone();
    }
    let mut typed = source.path.clone().into_os_string();
    typed.push(format!(":{}", source.weight));
    typed.into()
}

/// What is before the last colon and the number after it.
fn split(typed: &Path) -> Option<(PathBuf, f64)> {
    let (path, weight) = typed.to_str()?.rsplit_once(':')?;
    let weight = weight.parse().ok()?;
    (!path.is_empty()).then(|| (path.into(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_written() {
        let source = |path: &str, weight| WeightedFile { path: path.into(), weight };
        for (text, expected) in [
            ("a.jsonl", source("a.jsonl", 1.0)),
            ("a.jsonl:0.7", source("a.jsonl", 0.7)),
            ("a:b.jsonl", source("a:b.jsonl", 1.0)),
            ("a:1.5:2", source("a:1.5", 2.0)),
            ("C:\\pairs.jsonl", source("C:\\pairs.jsonl", 1.0)),
            ("a:1e-3", source("a", 0.001)),
        ] {
            let read = parse(text.as_ref()).expect(text);
            assert_eq!(read, expected, "{text}");
            assert_eq!(parse(&typed(&read)).expect(text), expected, "{text}");
        }
        for text in ["a:0", "a:-1", "a:nan", "a:inf", "a:1001"] {
            let error = parse(text.as_ref()).expect_err(text);
            assert!(
                error.to_string().starts_with(&format!("--data {text}: must be a weight above 0")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_exists_wins() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("pairs:0.5");
        assert_eq!(parse(&path).expect("a weight").weight, 0.5);
        std::fs::write(&path, "").expect("a writable folder");
        let found = parse(&path).expect("a file");
        assert_eq!(found, WeightedFile::whole(&path));
        assert_eq!(parse(&typed(&found)).expect("a file"), found);
    }
}
