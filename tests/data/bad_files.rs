//! Files that cannot be read, and the words for each.

use std::io::Write;
use std::path::Path;

use asft::data::Rows;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use crate::files::path;
use crate::fixture::words;

const ROW: &str = "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}\n";

/// The rows before the error, and the error with its causes; the folder is taken out of it.
fn read(folder: &TempDir, path: &Path) -> (usize, String) {
    let mut good = 0;
    let error = match Rows::open(path) {
        Err(error) => error,
        Ok(rows) => {
            let mut error = None;
            for row in rows {
                assert!(error.is_none(), "a row after an error");
                match row {
                    Ok(_) => good += 1,
                    Err(found) => error = Some(found),
                }
            }
            error.expect("the file is refused")
        }
    };
    (good, words(&error).replace(&format!("{}/", folder.path().display()), ""))
}

#[track_caller]
fn refused(name: &str, bytes: impl AsRef<[u8]>) -> (usize, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&folder, &path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Lines that do not compress to nothing.
fn many() -> Vec<u8> {
    (0..20_000u64)
        .flat_map(|n| format!("{{\"a\":{}}}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes())
        .collect()
}

#[test]
fn a_gzip_stream_that_is_cut_off_or_damaged() {
    let whole = gzip(&many());
    let (rows, error) = refused("a.jsonl.gz", &whole[..whole.len() / 2]);
    assert!((5_000..15_000).contains(&rows), "{rows}");
    assert_eq!(
        error,
        format!(
            "cannot read a.jsonl.gz beyond line {rows}: the gzip stream is cut off; fetch or write the file again"
        )
    );
    // Only the checksum is missing.
    let (rows, error) = refused("a.jsonl.gz", &whole[..whole.len() - 4]);
    assert_eq!(rows, 20_000, "{error}");
    assert!(
        error.starts_with("cannot read a.jsonl.gz beyond line 20000: the gzip stream is cut off"),
        "{error}"
    );
    let mut damaged = whole.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    let (_, error) = refused("a.jsonl.gz", &damaged);
    assert!(error.contains("beyond line 20000: the gzip stream is damaged (corrupt gzip stream"), "{error}");
    let (_, error) = refused("a.jsonl.gz", [&gzip(ROW.as_bytes())[..], b"more"].concat());
    assert!(error.starts_with("cannot read a.jsonl.gz"), "{error}");
    let two = format!("{{\"prompt\":\"{}\"}}\n", "x".repeat(400)).repeat(2);
    let whole_two = gzip(two.as_bytes());
    let (rows, error) = refused("a.jsonl.gz", &whole_two[..whole_two.len() - 4]);
    assert_eq!(rows, 2, "{error}");
    assert!(error.starts_with("cannot read a.jsonl.gz beyond line 2: the gzip stream is cut off"), "{error}");
    let (_, error) = refused("a.jsonl.gz", &whole[..5]);
    assert_eq!(error, "cannot read a.jsonl.gz: the gzip stream is cut off; fetch or write the file again");
}

#[test]
fn a_zstandard_stream_that_is_cut_off_or_damaged() {
    // With checksums, as its tool writes them; without, damage may show as malformed JSON.
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&many()).unwrap();
    let whole = encoder.finish().unwrap();
    let (rows, error) = refused("a.jsonl.zst", &whole[..whole.len() * 3 / 4]);
    assert!(rows > 0);
    assert_eq!(
        error,
        format!(
            "cannot read a.jsonl.zst beyond line {rows}: the Zstandard stream is cut off; fetch or write the file again"
        )
    );
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 200].fill(0xff);
    let (_, error) = refused("a.jsonl.zst", &damaged);
    assert!(error.contains("the Zstandard stream is damaged ("), "{error}");
    let (_, error) =
        refused("a.jsonl.zst", [&zstd::encode_all(ROW.as_bytes(), 3).unwrap()[..], b"more"].concat());
    assert!(error.contains("the Zstandard stream is damaged ("), "{error}");
}

#[test]
fn other_kinds_of_files_are_named() {
    for (bytes, message) in [
        (&b"PK\x03\x04rest"[..], "x is a zip archive; unpack it; gzip and Zstandard are read as they are"),
        (b"BZh9", "x is compressed with bzip2; unpack it"),
        (b"\xfd7zXZ\0", "x is compressed with xz; unpack it"),
        (b"\x80\x04\x95", "x is a Python pickle, which is never read; write its rows as JSON lines"),
        (b"ARROW1\0\0", "x is an Arrow file; write it with dataset.to_parquet(FILE)"),
        (b"\xff\xff\xff\xff\x10", "x is an Arrow stream; write it with dataset.to_parquet(FILE)"),
        (b"\xff\xfe{\0\"\0", "x is UTF-16 text; save it as UTF-8"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "x is a Git LFS pointer, not the file itself; fetch it",
        ),
        (b"<!DOCTYPE html><html>", "x is an HTML page; fetch the file itself"),
    ] {
        for (what, bytes) in [("plain", bytes.to_vec()), ("within gzip", gzip(bytes))] {
            let (rows, error) = refused("x", bytes);
            assert!(rows == 0 && error.starts_with(message), "{what}: {error}");
        }
    }
    let mut tar = vec![0; 600];
    tar[..11].copy_from_slice(b"pairs.jsonl");
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused("x.tgz", gzip(&tar)).1.starts_with("x.tgz is a tar archive; unpack it"));
}

#[test]
fn places_that_are_no_file() {
    let folder = TempDir::new().unwrap();
    let message = read(&folder, folder.path()).1;
    assert!(message.ends_with(" is a folder; give the data files in it, each with --data FILE"), "{message}");
    let (_, error) = read(&folder, &folder.path().join("none.jsonl"));
    assert_eq!(error, "cannot read none.jsonl: No such file or directory (os error 2)");
}

#[cfg(unix)]
#[test]
fn a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.jsonl");
    std::fs::write(&file, ROW).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::read(&file).is_ok() {
        let why = "permissions do not bind the user who runs the tests";
        crate::skip::skip("data::bad_files::a_file_without_permission", "an ordinary user", why);
        return;
    }
    assert_eq!(read(&folder, &file).1, "cannot read a.jsonl: Permission denied (os error 13)");
}

#[test]
fn a_list_that_is_no_list_of_objects() {
    let list = "the file begins as one list of JSON objects";
    for (text, message) in [
        ("[", format!("x:1: malformed JSON: the file ends before the list does (column 2); {list}")),
        (
            "[{\"a\":1}\n\n",
            format!("x:3: malformed JSON: the file ends before the list does (column 1); {list}"),
        ),
        ("[{\"a\":1}\n {\"a\":1}]", format!("x:2: malformed JSON: expected `,` or `]` (column 2); {list}")),
        ("[{\"a\":1},\n]", format!("x:2: malformed JSON: expected an object (column 1); {list}")),
        (
            "[{\"a\":1}]\n[{\"a\":2}]",
            format!("x:2: malformed JSON: trailing characters after the list (column 1); {list}"),
        ),
        ("[{\"a\":1},\n  {\"a\": tru}]", format!("x:2: malformed JSON: expected ident (column 12); {list}")),
        (
            "[{\"a\":1},\n  {\n \"a\": \"x\n",
            format!(
                "x:4: malformed JSON: control character (\\u0000-\\u001F) found while parsing a string (column 1); {list}"
            ),
        ),
        (
            "[{\"a\":1},\n  {\n \"b\":",
            format!("x:3: malformed JSON: EOF while parsing a value (column 5); {list}"),
        ),
        (
            "[{\"a\":1},7]",
            "x:1: expected a JSON object, found a number; the file's list must hold one object per row"
                .to_owned(),
        ),
    ] {
        let (_, error) = refused("x", text);
        assert_eq!(error, message, "{text:?}");
    }
    let (rows, error) = refused("x", b"[{\"a\":1},\n{\"a\":\n\"\xff\"}]");
    assert_eq!((rows, &*error), (1, "x:3: invalid UTF-8 at byte 2 of the line; save the file as UTF-8"));
}

#[test]
fn lines_within_a_compressed_file_are_named() {
    let (rows, error) = refused("a.gz", gzip(format!("{ROW}\n{ROW}{{\"a\": nope}}\n").as_bytes()));
    assert_eq!(rows, 2);
    assert!(error.starts_with("a.gz:4: malformed JSON: expected ident (column 8)"), "{error}");
    let (_, error) = refused("a.gz", gzip(b"{\"a\":1}\n{\"a\":\"\xff\"}\n"));
    assert_eq!(error, "a.gz:2: invalid UTF-8 at byte 7 of the line; save the file as UTF-8");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_needs_a_build_with_it() {
    let error = Rows::open(&path("tokens.parquet")).unwrap_err().to_string();
    assert!(
        error.contains("is a Parquet file, which this build cannot read; build asft with its default"),
        "{error}"
    );
}

#[cfg(feature = "parquet")]
mod parquet_files {
    use asft::data::parquet::ParquetReader;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    #[test]
    fn a_file_that_is_cut_off() {
        let whole = std::fs::read(path("chat.zstd.parquet")).unwrap();
        for length in [4, 7, 100, whole.len() / 2, whole.len() - 1] {
            let (rows, error) = refused("a.parquet", &whole[..length]);
            assert!(rows == 0 && error.starts_with("a.parquet: Parquet: "), "{length}: {error}");
        }
        // The pages of the second row group overwritten: the three rows of the first are there.
        let reader = SerializedFileReader::new(bytes::Bytes::from(whole.clone())).unwrap();
        let (start, length) = reader.metadata().row_group(1).column(1).byte_range();
        let mut damaged = whole.clone();
        damaged[start as usize..(start + length) as usize].fill(0xaa);
        let (rows, error) = refused("a.parquet", &damaged);
        assert_eq!(rows, 3, "{error}");
        assert!(error.starts_with("a.parquet row 4: Parquet: "), "{error}");
    }

    #[test]
    fn a_codec_that_is_not_built_in() {
        let (rows, error) = read(&TempDir::new().unwrap(), &path("chat.brotli.parquet"));
        assert_eq!(rows, 0);
        assert!(
            error.contains("chat.brotli.parquet row 1: Parquet: ") && error.contains("brotli"),
            "{error}"
        );
    }

    /// Whatever bytes are overwritten: rows, or an error, and an end.
    #[test]
    fn damage_anywhere_is_an_error_or_none() {
        let whole = std::fs::read(path("tokens.parquet")).unwrap();
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcomes: Vec<Option<bool>> = (0..whole.len())
            .map(|place| {
                let mut damaged = whole.clone();
                damaged[place] ^= 0xff;
                let input = bytes::Bytes::from(damaged);
                std::panic::catch_unwind(|| match ParquetReader::new(input, Path::new("x")) {
                    Ok(rows) => rows.take(100).all(|row| row.is_ok()),
                    Err(_) => false,
                })
                .ok()
            })
            .collect();
        std::panic::set_hook(quiet);
        let panics: Vec<usize> = (0..whole.len()).filter(|place| outcomes[*place].is_none()).collect();
        assert_eq!(panics, [] as [usize; 0], "a panic got out");
        assert!(
            outcomes.iter().filter(|outcome| **outcome == Some(false)).count() > 100,
            "damage was not noticed"
        );
    }

    #[test]
    fn a_row_that_is_wrong_is_named_by_its_number() {
        let encoder = crate::fixture::bare_encoder(crate::fixture::config());
        let error = asft::data::load(&[path("tokens.parquet")], &encoder).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "tokens.parquet row 1: column \"rejected_input_ids\" has token id 131072 at position 0, but the model's \
                 vocabulary has 420 tokens (0 to 419)"
            ),
            "{error}"
        );
    }
}
