//! What loading data costs: `cargo bench --bench data`.
//!
//! A file of made-up pairs is loaded without a cache, with an empty one, and from a full one; beside it stands what the
//! tokenizers library alone takes to encode the same text in one batch, which is the least that any loader can take.
//! `ASFT_BENCH_ROWS` sets the rows (60,000), `ASFT_BENCH_TOKENIZER` the folder with the tokenizer (the quickstart's).

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use asft::data::{Dataset, EncodeConfig, Encoder, Group, LoadConfig, Needs, Rows};
use asft::progress::Silent;
use tempfile::TempDir;

const WORDS: [&str; 24] = [
    "the",
    "model",
    "answers",
    "question",
    "because",
    "a",
    "river",
    "of",
    "seven",
    "however",
    "translation",
    "is",
    "quickly",
    "not",
    "international",
    "and",
    "1987",
    "why",
    "to",
    "understand",
    "flour",
    "in",
    "it's",
    "colourful",
];

/// Text that is the same in every run: words drawn by a linear congruential generator.
struct Text(u64);

impl Text {
    fn words(&mut self, count: usize) -> String {
        let mut text = String::new();
        for n in 0..count {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = WORDS[(self.0 >> 33) as usize % WORDS.len()];
            let end = if n % 12 == 11 { ".\n" } else { " " };
            let _ = write!(text, "{word}{end}");
        }
        text
    }
}

fn write_rows(path: &Path, rows: usize) -> std::io::Result<u64> {
    let (mut file, mut text) = (BufWriter::new(std::fs::File::create(path)?), Text(1));
    for row in 0..rows {
        let [prompt, chosen, rejected] =
            [20 + row % 80, 60 + row % 150, 40 + row % 170].map(|count| text.words(count));
        let row = serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected });
        writeln!(file, "{row}")?;
    }
    file.flush()?;
    Ok(std::fs::metadata(path)?.len())
}

fn encoder(folder: &Path) -> Encoder {
    let settings = EncodeConfig {
        vocab_size: usize::MAX,
        max_length: Some(1024),
        eos_ids: vec![0],
        needs: Needs::pairs(),
        ..EncodeConfig::default()
    };
    Encoder::from_folder(folder, settings).expect("a folder with a tokenizer")
}

/// The texts that make a row's tokens: the prompt, and the prompt with each answer.
fn texts(path: &Path) -> Vec<String> {
    let rows = Rows::open(path).expect("the file just written");
    let texts = rows.flat_map(|row| {
        let columns = row.expect("a row just written").columns;
        let [prompt, chosen, rejected] =
            ["prompt", "chosen", "rejected"].map(|name| columns[name].as_str().unwrap_or_default());
        [prompt.to_owned(), [prompt, chosen].concat(), [prompt, rejected].concat()]
    });
    texts.collect()
}

/// Seconds of a piece of work: by the clock, and of processor time over all threads, which other programs do not lengthen.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    cpu: f64,
}

fn timed<T>(work: impl FnOnce() -> T) -> (Seconds, T) {
    let (start, before) = (Instant::now(), cpu_seconds());
    let result = work();
    (Seconds { wall: start.elapsed().as_secs_f64(), cpu: cpu_seconds() - before }, result)
}

/// Processor time of this process so far, in Linux's hundredths; elsewhere it is not known.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may hold spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let rows = if std::env::args().any(|argument| argument == "--bench") { 60_000 } else { 300 };
    let rows = std::env::var("ASFT_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(rows);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let folder = std::env::var_os("ASFT_BENCH_TOKENIZER").map_or(default, PathBuf::from);
    let scratch = TempDir::new().expect("a temporary folder");
    let path = scratch.path().join("pairs.jsonl");
    let bytes = write_rows(&path, rows).expect("room for the file");
    let encoder = encoder(&folder);
    let cache = scratch.path().join("tokens");
    let load = |cache: Option<&PathBuf>| -> (Seconds, Dataset) {
        let config = LoadConfig { cache: cache.cloned(), ..LoadConfig::whole(std::slice::from_ref(&path)) };
        timed(|| config.load(&encoder, &mut Silent).expect("rows just written"))
    };
    let (plain, data) = load(None);
    let (cold, _) = load(Some(&cache));
    let (warm, _) = load(Some(&cache));
    let (parse, texts) = timed(|| texts(&path));
    let text: usize = texts.iter().map(String::len).sum();
    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).expect("a tokenizer");
    let (floor, _) = timed(|| tokenizer.encode_batch_fast(texts, false).expect("text"));

    let of_group =
        |group: &Group| group.prompt.len() + group.answers.iter().map(|a| a.ids.len()).sum::<usize>();
    let tokens: usize = data.groups.iter().map(of_group).sum();
    let [file, encoded] = [bytes, text as u64].map(|bytes| bytes as f64 / f64::from(1 << 20));
    println!("{rows} rows, {file:.1} MiB, {encoded:.1} MiB of text to encode, {tokens} tokens kept");
    println!("{:36} {:>10} {:>10} {:>22}", "", "wall, s", "CPU, s", "CPU s per MiB of file");
    for (what, seconds) in [
        ("read and parse", parse),
        ("encode_batch_fast of the same text", floor),
        ("load, no cache", plain),
        ("load, empty cache", cold),
        ("load, full cache", warm),
    ] {
        println!("{what:36} {:10.3} {:10.2} {:22.4}", seconds.wall, seconds.cpu, seconds.cpu / file);
    }
    println!("no cache / full cache: {:.0} x by the clock", plain.wall / warm.wall);
    println!("no cache / encode_batch_fast: {:.2} x in processor time", plain.cpu / floor.cpu);
}
