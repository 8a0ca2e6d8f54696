//! A data file -> its rows, whatever its form: JSON lines or one JSON list, plain or compressed with gzip or
//! Zstandard, or Parquet. The form is told by the content; the name does not matter.
//!
//! Boundary: which reader a file gets, and how far it has come. Rows are streamed: no file is in memory as a whole.

use std::fmt;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::DataError;
use super::json_list::JsonListReader;
use super::place::Numbering;
use super::rows::{JsonlReader, Row};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;
/// Bytes looked at to tell a form: enough for the longest mark, that of a tar archive at byte 257.
const LOOK: usize = 512;
/// Zstandard's windows are at most this large, as log2: all that its tool can write.
const ZSTD_WINDOW: u32 = 31;

/// A data file and how much of it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedFile {
    /// The file.
    pub path: PathBuf,
    /// Share of its usable rows that make an epoch; above 1 they repeat.
    pub weight: f64,
}

impl WeightedFile {
    /// All rows of a file, once.
    pub fn whole(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), weight: 1.0 }
    }
}

/// The rows of a file in order. After an error there are no more.
pub struct Rows {
    reader: Box<dyn Iterator<Item = Result<Row, DataError>> + Send>,
    numbering: Numbering,
    extent: Extent,
    failed: bool,
}

/// How far a reader has come.
enum Extent {
    /// Bytes of the file taken, of all.
    Bytes(Arc<AtomicU64>, u64),
    /// Rows read, of all.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "only Parquet says how many rows it has")
    )]
    Rows(usize, usize),
    /// Nobody knows the end.
    Unknown,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("numbering", &self.numbering).finish_non_exhaustive()
    }
}

impl Rows {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be opened, a folder, or content that is no form of data known here.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let read_error = |source| DataError::Read { path: path.to_owned(), source };
        if path.is_dir() {
            return Err(DataError::IsAFolder { path: path.to_owned() });
        }
        let file = std::fs::File::open(path).map_err(read_error)?;
        let size = file.metadata().map_err(read_error)?.len();
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: file, taken: taken.clone() };
        let (start, input) = look(BufReader::with_capacity(BUFFER, counted)).map_err(read_error)?;
        if start.starts_with(b"PAR1") {
            return Self::parquet(path);
        }
        Self::streamed(&start, input, path, Extent::Bytes(taken, size))
    }

    /// Reads from anything but Parquet, which must be a file; `path` is what errors name.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_reader(input: impl Read + Send + 'static, path: &Path) -> Result<Self, DataError> {
        let input = BufReader::with_capacity(BUFFER, input);
        let (start, input) =
            look(input).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        Self::streamed(&start, input, path, Extent::Unknown)
    }

    /// How the places of the rows are counted.
    pub fn numbering(&self) -> Numbering {
        self.numbering
    }

    /// How much of the file has been read, in percent, as far as that is known.
    pub fn percent(&self) -> usize {
        let (done, all) = match &self.extent {
            Extent::Bytes(taken, all) => (taken.load(Ordering::Relaxed), *all),
            Extent::Rows(done, all) => (*done as u64, *all as u64),
            Extent::Unknown => (0, 1),
        };
        (done.min(all) * 100 / all.max(1)) as usize
    }

    fn streamed(
        start: &[u8],
        input: impl BufRead + Send + 'static,
        path: &Path,
        extent: Extent,
    ) -> Result<Self, DataError> {
        match Compression::of(start) {
            None => Self::json(start, input, path, extent),
            Some(compression) => {
                let read_error = |source| DataError::Read { path: path.to_owned(), source };
                let unpacked =
                    Unpacked { inner: compression.reader(input).map_err(read_error)?, compression };
                let (start, input) = look(BufReader::with_capacity(BUFFER, unpacked)).map_err(read_error)?;
                Self::json(&start, input, path, extent)
            }
        }
    }

    fn json(
        start: &[u8],
        input: impl BufRead + Send + 'static,
        path: &Path,
        extent: Extent,
    ) -> Result<Self, DataError> {
        if let Some((found, remedy)) = foreign(start) {
            return Err(DataError::Form { path: path.to_owned(), found, remedy });
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let reader: Box<dyn Iterator<Item = _> + Send> = match text.trim_ascii_start().first() {
            Some(b'[') => Box::new(JsonListReader::new(input, path)),
            _ => Box::new(JsonlReader::new(input, path)),
        };
        Ok(Self { reader, numbering: Numbering::Lines, extent, failed: false })
    }

    #[cfg(feature = "parquet")]
    fn parquet(path: &Path) -> Result<Self, DataError> {
        let reader = super::parquet::open(path)?;
        let extent = Extent::Rows(0, reader.rows());
        Ok(Self { reader: Box::new(reader), numbering: Numbering::Rows, extent, failed: false })
    }

    #[cfg(not(feature = "parquet"))]
    fn parquet(path: &Path) -> Result<Self, DataError> {
        Err(DataError::Form {
            path: path.to_owned(),
            found: "a Parquet file, which this build cannot read",
            remedy: "build asft with its default features, or write the rows as JSON lines",
        })
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.reader.next();
        self.failed = matches!(row, Some(Err(_)));
        if let (Extent::Rows(done, _), Some(_)) = (&mut self.extent, &row) {
            *done += 1;
        }
        row
    }
}

/// An input whose first bytes have been read.
type LookedAt<R> = Chain<Cursor<Vec<u8>>, R>;

/// The first bytes of an input, and the input as if they had not been read.
fn look<R: BufRead>(mut input: R) -> io::Result<(Vec<u8>, LookedAt<R>)> {
    let mut start = Vec::with_capacity(LOOK);
    input.by_ref().take(LOOK as u64).read_to_end(&mut start)?;
    Ok((start.clone(), Cursor::new(start).chain(input)))
}

/// What a stream is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstandard,
}

impl Compression {
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstandard),
            // A frame to be skipped, with which parallel writers begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstandard),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstandard => "Zstandard",
        }
    }

    /// Unpacks every member or frame of the input, one after the other.
    fn reader(self, input: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstandard => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// An unpacked stream whose errors say what they mean.
struct Unpacked {
    inner: Box<dyn Read + Send>,
    compression: Compression,
}

impl Read for Unpacked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes).map_err(|error| {
            // What the system says about the file beneath stands for itself.
            if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let name = self.compression.name();
            let what = match error.kind() {
                io::ErrorKind::UnexpectedEof => "is cut off".to_owned(),
                _ => format!("is damaged ({error})"),
            };
            io::Error::new(error.kind(), format!("the {name} stream {what}; fetch or write the file again"))
        })
    }
}

/// Counts the bytes that are taken from a file.
struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What else people have at hand in place of data, by its first bytes: what it is, and what to do.
fn foreign(start: &[u8]) -> Option<(&'static str, &'static str)> {
    const UNPACK: &str = "unpack it; gzip and Zstandard are read as they are";
    const ARROW: &str = "write it with dataset.to_parquet(FILE) or dataset.to_json(FILE)";
    const UTF8: &str = "save it as UTF-8";
    const MARKS: [(&[u8], &str, &str); 14] = [
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"BZh", "compressed with bzip2", UNPACK),
        (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
        (b"\x04\x22\x4d\x18", "compressed with lz4", UNPACK),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
        (b"PAR1", "a compressed Parquet file", "unpack it; Parquet compresses within"),
        (b"ARROW1", "an Arrow file", ARROW),
        (b"\xff\xff\xff\xff", "an Arrow stream", ARROW),
        (b"\xff\xfe", "UTF-16 text", UTF8),
        (b"\xfe\xff", "UTF-16 text", UTF8),
        (b"SQLite format 3", "an SQLite database", "write its rows as JSON lines"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
        (b"<!DOCTYPE", "an HTML page", "fetch the file itself, not the page that shows it"),
        (b"<html", "an HTML page", "fetch the file itself, not the page that shows it"),
    ];
    if start.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", UNPACK));
    }
    // Python's pickles of protocol 2 and up.
    if matches!(start, [0x80, 2..=5, ..]) {
        return Some(("a Python pickle, which is never read", "write its rows as JSON lines"));
    }
    let mark = MARKS.iter().find(|(mark, ..)| start.starts_with(mark));
    mark.map(|(_, found, remedy)| (*found, *remedy))
}
