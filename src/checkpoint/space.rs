//! How much a file system still takes, and how much a folder takes already.
//!
//! Boundary: asks the system; what a run will write is `train`'s to know.

use std::path::Path;

/// Bytes that this process may still write where `path` lies or will lie; none where the system does not say.
#[cfg(unix)]
pub fn available(path: &Path) -> Option<u64> {
    // The nearest folder that exists. A relative path ends in "", which is the current one.
    let existing = path.ancestors().find(|path| path.as_os_str().is_empty() || path.exists())?;
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let found = rustix::fs::statvfs(existing).ok()?;
    // Some network file systems have no figures, and say 0 of 0.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// As above; only Unix is asked.
#[cfg(not(unix))]
pub fn available(_: &Path) -> Option<u64> {
    None
}

/// Bytes of the files below a folder; what cannot be read counts as nothing.
pub fn used(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => used(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |found| found.len()),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_a_folder_add_up() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for (name, bytes) in [("one", 1), ("a/ten", 10), ("a/b/hundred", 100)] {
            std::fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(used(folder.path()), 111);
        assert_eq!(used(&folder.path().join("absent")), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_there_yet_has_the_space_of_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let free = available(folder.path()).unwrap();
        assert!(free > 0);
        for path in [folder.path().join("new/run"), "new/run".into(), "".into()] {
            // Others write meanwhile, and the current folder may lie elsewhere: only that there is an answer.
            assert!(available(&path).is_some(), "{}", path.display());
        }
    }
}
