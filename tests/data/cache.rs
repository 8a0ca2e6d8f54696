//! Tokens kept from run to run: a hit gives what reading gives, and is missed where anything differs.

use std::path::{Path, PathBuf};

use asft::data::{ChatTemplate, Dataset, EncodeConfig, Encoder, LoadConfig};
use asft::progress::Silent;
use tempfile::TempDir;

use crate::fixture::{config, encoder, template, tokenizer};

struct Cached {
    folder: TempDir,
}

impl Cached {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// A file large enough to be kept, with something to report.
    fn file(&self, name: &str, word: &str) -> PathBuf {
        let row = |n: usize| match n % 100 {
            7 => "{\"prompt\":\"p\",\"chosen\":\"\",\"rejected\":\"r\"}\n".to_owned(),
            8 => "{\"prompt\":\"p\",\"chosen\":\"same\",\"rejected\":\"same\"}\n\n".to_owned(),
            _ => format!(
                "{{\"prompt\":\"Hello {word} {n}\",\"chosen\":\" {}\",\"rejected\":\" dog\"}}\n",
                "a b ".repeat(n % 9)
            ),
        };
        let path = self.folder.path().join(name);
        std::fs::write(&path, (0..1000).map(row).collect::<String>()).unwrap();
        path
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("a/cache")
    }

    fn load(&self, path: &Path, encoder: &Encoder) -> Dataset {
        self.load_rows(path, encoder, None)
    }

    fn load_rows(&self, path: &Path, encoder: &Encoder, max_rows: Option<usize>) -> Dataset {
        let load =
            LoadConfig { max_rows, cache: Some(self.cache()), ..LoadConfig::whole(&[path.to_owned()]) };
        load.load(encoder, &mut Silent).unwrap()
    }

    fn entries(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.cache()).into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    }
}

fn bounded(max_length: usize) -> Encoder {
    encoder("llama3", EncodeConfig { max_length: Some(max_length), ..config() })
}

#[track_caller]
fn assert_same(a: &Dataset, b: &Dataset) {
    assert!(a.groups == b.groups, "other groups");
    assert_eq!((&a.report, a.fingerprint), (&b.report, b.fingerprint));
}

#[test]
fn a_hit_gives_the_groups_and_the_report() {
    let cached = Cached::new();
    let path = cached.file("a.jsonl", "world");
    let encoder = bounded(16);
    let plain = asft::data::load(std::slice::from_ref(&path), &encoder).unwrap();
    assert!(!plain.report.dropped.is_empty() && plain.report.truncated_answers > 0);
    assert!(plain.report.identical_answers > 0 && plain.report.kinds.text > 0);
    assert_same(&cached.load(&path, &encoder), &plain);
    assert_eq!(cached.entries().len(), 1);
    assert_same(&cached.load(&path, &encoder), &plain);
    // The second time nothing was tokenised: it is the entry that counts, even a wrong one.
    let [entry] = &cached.entries()[..] else { panic!("one entry") };
    let other = cached.file("b.jsonl", "dog");
    let of_other = cached.load(&other, &encoder);
    let new = cached.entries().into_iter().find(|path| path != entry).unwrap();
    std::fs::copy(new, entry).unwrap();
    assert!(cached.load(&path, &encoder).groups == of_other.groups);
}

#[test]
fn another_name_is_a_hit_with_its_own_places() {
    let cached = Cached::new();
    let (a, b) = (cached.file("a.jsonl", "world"), cached.file("b.jsonl", "world"));
    cached.load(&a, &bounded(16));
    let data = cached.load(&b, &bounded(16));
    assert_eq!(cached.entries().len(), 1);
    assert_eq!(data.report.locate(0).unwrap().path, b);
}

#[test]
fn whatever_decides_the_tokens_makes_another_entry() {
    let cached = Cached::new();
    let path = cached.file("a.jsonl", "world");
    cached.load(&path, &bounded(16));
    let with_template = |template: ChatTemplate| {
        Encoder::new(Some(tokenizer()), Some(template), EncodeConfig { max_length: Some(16), ..config() })
    };
    cached.load(&path, &with_template(template("llama3", &tokenizer())));
    assert_eq!(cached.entries().len(), 1, "the same parts are the same encoder");
    cached.load(&path, &with_template(template("built-in chatml", &tokenizer())));
    cached.load(&path, &bounded(17));
    cached
        .load(&path, &encoder("llama3", EncodeConfig { max_length: Some(16), eos_ids: vec![5], ..config() }));
    cached
        .load(&path, &encoder("llama3", EncodeConfig { max_length: Some(16), vocab_size: 421, ..config() }));
    cached.load_rows(&path, &bounded(16), Some(500));
    cached.load(&cached.file("a.jsonl", "dog"), &bounded(16));
    assert_eq!(cached.entries().len(), 7);
}

#[test]
fn a_tokenizer_file_that_changes_makes_another_encoder() {
    let fingerprint = |change: &dyn Fn(&Path)| {
        let folder = TempDir::new().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(crate::fixture::folder().join(file), folder.path().join(file)).unwrap();
        }
        change(folder.path());
        Encoder::from_folder(folder.path(), config()).unwrap().fingerprint()
    };
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has no {from}");
            std::fs::write(path, text.replacen(from, to, 1)).unwrap();
        }
    };
    let same = fingerprint(&|_| {});
    assert_eq!(same, fingerprint(&|_| {}));
    assert_ne!(same, fingerprint(&edit("tokenizer.json", "\"version\":\"1.0\"", "\"version\": \"1.0\"")));
    assert_ne!(
        same,
        fingerprint(&|folder: &Path| {
            std::fs::write(folder.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
        })
    );
}

#[test]
fn a_damaged_entry_is_made_again() {
    let cached = Cached::new();
    let path = cached.file("a.jsonl", "world");
    let plain = cached.load(&path, &bounded(16));
    let [entry] = &cached.entries()[..] else { panic!("one entry") };
    let whole = std::fs::read(entry).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &[], &flipped[..]] {
        std::fs::write(entry, damaged).unwrap();
        assert_same(&cached.load(&path, &bounded(16)), &plain);
        assert!(std::fs::read(entry).unwrap() == whole, "the entry is not whole again");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_costs_nothing_but_a_warning() {
    let cached = Cached::new();
    let path = cached.file("a.jsonl", "world");
    std::fs::write(cached.folder.path().join("a"), "a file where the folder should be").unwrap();
    assert_same(&cached.load(&path, &bounded(16)), &asft::data::load(&[path], &bounded(16)).unwrap());
}

#[test]
fn small_files_are_not_kept() {
    let cached = Cached::new();
    let path = cached.folder.path().join("small.jsonl");
    std::fs::write(&path, "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}\n".repeat(100)).unwrap();
    cached.load(&path, &bounded(16));
    assert_eq!(cached.entries(), [] as [PathBuf; 0]);
}

#[test]
fn several_at_once_do_no_harm() {
    let cached = Cached::new();
    let path = cached.file("a.jsonl", "world");
    let plain = asft::data::load(std::slice::from_ref(&path), &bounded(16)).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..3).map(|_| cached.load(&path, &bounded(16))).collect::<Vec<_>>()))
            .collect();
        for data in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            assert_same(&data, &plain);
        }
    });
    assert_eq!(cached.entries().len(), 1, "{:?}", cached.entries());
}
