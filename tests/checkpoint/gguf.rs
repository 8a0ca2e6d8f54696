//! GGUF files against those that llama.cpp's Python package writes for the same model (`gguf/make_gguf.py`).

use std::fs;
use std::path::{Path, PathBuf};

use asft::checkpoint::ModelFolder;
use asft::checkpoint::gguf::{Encoding, GgufExport};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint/gguf").join(name)
}

/// The golden model with the golden tokenizer beside it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/folder");
    for source in [golden("model"), tokenizer] {
        for entry in fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn export(folder: &Path, encoding: Encoding, pre_tokenizer: Option<&str>) -> Result<Vec<u8>, String> {
    let model = ModelFolder::open(folder).unwrap();
    let out = folder.join("out.gguf");
    let exported = GgufExport { folder: &model, encoding, name: "tiny", pre_tokenizer }
        .write(&out, &mut |_, _| {})
        .map_err(|error| error.to_string())?;
    let bytes = fs::read(out).unwrap();
    assert_eq!(exported.bytes, bytes.len() as u64);
    let kept: &[&str] = match encoding {
        Encoding::Q8_0 => &["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"],
        _ => &[],
    };
    assert_eq!(exported.kept_f16, kept);
    Ok(bytes)
}

/// Changes tokenizer.json.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn files_are_those_of_llama_cpps_package_byte_for_byte() {
    let folder = folder();
    for encoding in Encoding::ALL {
        let expected = fs::read(golden(&format!("{}.gguf", encoding.name()))).unwrap();
        let found = export(folder.path(), encoding, None).unwrap();
        let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!((first, found.len()), (None, expected.len()), "{encoding}: first byte that differs");
    }
}

#[test]
fn values_beyond_f16_are_refused_by_name() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // The first element of the first tensor in the file, lm_head.weight.
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[start..start + 2].copy_from_slice(&half::bf16::from_f32(1e30).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = export(folder.path(), Encoding::F16, None).map(drop).unwrap_err();
    assert!(
        error.contains("tensor \"output.weight\": has a value of")
            && error.contains("beyond what f16 holds; use --type bf16 or f32"),
        "{error}"
    );
    assert!(!folder.path().join("out.gguf").exists());
    export(folder.path(), Encoding::BF16, None).unwrap();
}

#[test]
fn a_vocabulary_that_llama_cpp_has_no_words_for_is_refused_with_the_reason() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 4] = [
        (
            |json| json["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
            "the tokenizer is WordLevel; only byte-level BPE",
        ),
        (
            |json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+"),
            "splits by \"[a-z]+\"",
        ),
        (|json| json["added_tokens"][0]["id"] = json!(424), "has id 424, but the model has 424 tokens"),
        (|json| json["model"]["merges"] = json!([["\u{120}", "t"]]), ""),
    ];
    for (change, expected) in cases {
        let folder = folder();
        edit(folder.path(), change);
        match export(folder.path(), Encoding::F32, None) {
            Ok(_) => assert_eq!(expected, ""),
            Err(error) => assert!(!expected.is_empty() && error.contains(expected), "{error}"),
        }
    }
    let folder = folder();
    edit(folder.path(), |json| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+");
    });
    let named = export(folder.path(), Encoding::F32, Some("smollm")).unwrap();
    assert!(named.windows(6).any(|text| text == b"smollm"));
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = export(folder.path(), Encoding::F32, None).map(drop).unwrap_err();
    assert!(error.contains("tokenizer.json") && error.contains("needs a vocabulary"), "{error}");
}
