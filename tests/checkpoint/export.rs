//! Written folders, read back by the reference implementation of safetensors and by this program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use asft::DType;
use asft::checkpoint::{ModelExport, ModelFolder, SourceError};
use asft::data::GivenTemplate;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::fixture::{config, encode, folder, parse, snapshot, tensors, values};

/// A source of the fixture's values that insists on being asked in order.
fn source(config: &Value) -> impl FnMut(&str, usize, &mut [f32]) -> Result<(), SourceError> + use<> {
    let mut order = parse(config).parameters().into_iter();
    let mut done = (String::new(), 0, 0);
    move |name: &str, start: usize, out: &mut [f32]| {
        if start == 0 {
            assert_eq!(done.1, done.2, "{} was not asked for to its end", done.0);
            let (expected, shape) = order.next().expect("one more parameter");
            assert_eq!(name, expected);
            done = (expected, 0, shape.iter().product());
        }
        assert_eq!((name, start), (done.0.as_str(), done.1));
        out.copy_from_slice(&values(name, done.2)[start..start + out.len()]);
        done.1 += out.len();
        Ok(())
    }
}

/// Every tensor of a folder, through the reference implementation: format, shape, bytes.
fn reference_tensors(dir: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for (name, bytes) in snapshot(dir).into_iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(
            header.metadata().as_ref().and_then(|map| map.get("format")).map(String::as_str),
            Some("pt")
        );
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(length % 8, 0, "{name}: the tensors are aligned");
        for (tensor, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let entry = (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec());
            assert!(found.insert(tensor.to_owned(), entry).is_none());
        }
    }
    found
}

#[test]
fn the_reference_reads_every_format_whole_and_in_shards() {
    let dir = tempfile::tempdir().unwrap();
    let mut tied = config();
    tied["tie_word_embeddings"] = json!(true);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for config in [config(), tied.clone()] {
            for shard_bytes in [usize::MAX, 500, 1] {
                let target =
                    dir.path().join(format!("{dtype}-{shard_bytes}-{}", config["tie_word_embeddings"]));
                fs::create_dir(&target).unwrap();
                let model = parse(&config);
                let export = ModelExport { shard_bytes, ..ModelExport::new(&model, dtype, None) };
                export.write(&target, &mut source(&config)).unwrap();
                let expected: BTreeMap<_, _> = model
                    .parameters()
                    .into_iter()
                    .map(|(name, shape)| {
                        let bytes = encode(&values(&name, shape.iter().product()), dtype);
                        (name, (dtype.safetensors_name().to_owned(), shape, bytes))
                    })
                    .collect();
                assert_eq!(
                    expected.contains_key("lm_head.weight"),
                    config["tie_word_embeddings"] == json!(false)
                );
                assert_eq!(reference_tensors(&target), expected);
                let read = ModelFolder::open(&target).unwrap();
                assert_eq!((read.dtype(), read.config().torch_dtype), (dtype, Some(dtype)));
                if shard_bytes == 1 {
                    assert_eq!(
                        snapshot(&target).iter().filter(|(name, _)| name.ends_with(".safetensors")).count(),
                        expected.len()
                    );
                }
            }
        }
    }
}

#[test]
fn shards_have_the_names_and_sizes_of_hugging_face() {
    let dir = tempfile::tempdir().unwrap();
    let model = parse(&config());
    let export = ModelExport { shard_bytes: 700, ..ModelExport::new(&model, DType::F32, None) };
    export.write(dir.path(), &mut source(&config())).unwrap();
    let index: Value =
        serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    let elements: usize = model.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(index["metadata"], json!({"total_parameters": elements, "total_size": elements * 4}));
    assert_eq!(index["weight_map"]["model.embed_tokens.weight"], json!("model-00001-of-00005.safetensors"));
    for (name, bytes) in snapshot(dir.path()).iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let data: usize =
            SafeTensors::deserialize(bytes).unwrap().iter().map(|(_, view)| view.data().len()).sum();
        assert!(data <= 700, "{name} holds {data} bytes");
    }
}

/// Exports with this template from a folder of these files; the JSON files of the result, and the template's.
fn with_template(files: &[(&str, &str)], end_of_turn: Option<u32>) -> (Value, Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let from = folder(&dir.path().join("from"), &config(), &tensors(&config(), DType::F32));
    for (name, text) in files {
        fs::write(from.join(name), text).unwrap();
    }
    let (model, target) = (parse(&config()), dir.path().join("to"));
    fs::create_dir(&target).unwrap();
    let template = Some(GivenTemplate { source: "{{ 'é' }}\n", end_of_turn });
    let export = ModelExport { template, ..ModelExport::new(&model, DType::F32, Some(&from)) };
    export.write(&target, &mut source(&config())).unwrap();
    let json = |name: &str| serde_json::from_slice(&fs::read(target.join(name)).unwrap()).unwrap();
    let template = fs::read_to_string(target.join("chat_template.jinja")).unwrap();
    (json("tokenizer_config.json"), json("generation_config.json"), template)
}

#[test]
fn a_given_template_is_written_to_both_places_and_generation_stops_at_its_end_of_turn() {
    let old = [
        ("chat_template.jinja", "old"),
        (
            "tokenizer_config.json",
            r#"{"z": 1.0, "chat_template": [{"name": "default", "template": "old"}], "a": "é"}"#,
        ),
        ("generation_config.json", r#"{"temperature": 0.6, "eos_token_id": 2}"#),
    ];
    let (tokenizer, generation, template) = with_template(&old, Some(7));
    assert_eq!(template, "{{ 'é' }}\n");
    assert_eq!(tokenizer, json!({"z": 1.0, "chat_template": "{{ 'é' }}\n", "a": "é"}));
    assert_eq!(generation, json!({"temperature": 0.6, "eos_token_id": [2, 7]}));
    let (tokenizer, generation, _) = with_template(&[], Some(7));
    assert_eq!(tokenizer, json!({"chat_template": "{{ 'é' }}\n"}));
    assert_eq!(generation["eos_token_id"], json!([2, 9, 7]));
    // What is there already, or unknown, is not added.
    let list = [("generation_config.json", r#"{"eos_token_id": [7, 2]}"#)];
    assert_eq!(with_template(&list, Some(7)).1, json!({"eos_token_id": [7, 2]}));
    assert_eq!(with_template(&list, None).1, json!({"eos_token_id": [7, 2]}));
}

#[test]
fn tokenizer_files_come_over_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let from = folder(&dir.path().join("from"), &config(), &tensors(&config(), DType::F32));
    let files = [
        ("tokenizer.json", "{\r\n}"),
        ("tokenizer_config.json", "{ \"a\":1}"),
        ("special_tokens_map.json", "{}"),
        ("chat_template.jinja", "{{ bos_token }}\n"),
        ("tokenizer.model", "\0\u{1}"),
        ("added_tokens.json", "{}"),
        ("vocab.json", "{}"),
        ("merges.txt", "a b"),
        ("generation_config.json", "{\"temperature\":0.6}"),
    ];
    for (name, text) in files {
        fs::write(from.join(name), text).unwrap();
        let mut permissions = fs::metadata(from.join(name)).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(from.join(name), permissions).unwrap();
    }
    fs::write(from.join("secrets.txt"), "not ours").unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let model = parse(&config());
    ModelExport::new(&model, DType::F32, Some(&from)).write(&to, &mut source(&config())).unwrap();
    for (name, text) in files {
        assert_eq!(fs::read_to_string(to.join(name)).unwrap(), text);
        assert!(!fs::metadata(to.join(name)).unwrap().permissions().readonly());
    }
    assert!(!to.join("secrets.txt").exists());
}

#[test]
fn generation_config_is_made_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let model = parse(&config());
    ModelExport::new(&model, DType::F32, None).write(dir.path(), &mut source(&config())).unwrap();
    let found: Value =
        serde_json::from_slice(&fs::read(dir.path().join("generation_config.json")).unwrap()).unwrap();
    assert_eq!(found, json!({"_from_model_config": true, "bos_token_id": 1, "eos_token_id": [2, 9]}));
}

#[test]
fn a_source_that_fails_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = parse(&config());
    let mut failing = |name: &str, _: usize, _: &mut [f32]| -> Result<(), SourceError> {
        if name == "model.norm.weight" { Err("the device is gone".into()) } else { Ok(()) }
    };
    let error = ModelExport::new(&model, DType::F32, None).write(dir.path(), &mut failing).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"model.norm.weight\": cannot get its values to save them: the device is gone"
    );
}

/// A tensor longer than one piece (2^20 elements) is asked for in pieces that join.
#[test]
fn long_tensors_are_written_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["vocab_size"] = json!(200_000);
    config["tie_word_embeddings"] = json!(true);
    let model = parse(&config);
    ModelExport::new(&model, DType::BF16, None).write(dir.path(), &mut source(&config)).unwrap();
    let folder = ModelFolder::open(dir.path()).unwrap();
    let mut out = vec![0.0; 1_200_000];
    folder.read("model.embed_tokens.weight", &mut out).unwrap();
    assert!(out == values("model.embed_tokens.weight", out.len()));
}
