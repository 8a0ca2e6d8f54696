//! Model folders: good ones in every layout, bad ones by what they say.

use std::fs;
use std::path::Path;

use asft::DType;
use asft::checkpoint::ModelFolder;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixture::{Tensor, config, folder, parse, sharded_folder, tensor, tensors, values, write_weights};

fn tied() -> Value {
    let mut config = config();
    config["tie_word_embeddings"] = json!(true);
    config
}

fn assert_reads_back(folder: &ModelFolder, config: &Value) {
    for (name, shape) in parse(config).parameters() {
        let mut out = vec![0.0; shape.iter().product()];
        folder.read(&name, &mut out).unwrap();
        assert_eq!(out, values(&name, out.len()), "{name}");
    }
}

fn error(dir: &Path) -> String {
    ModelFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn every_layout_and_format_reads_the_same_values() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for config in [config(), tied()] {
            let all = tensors(&config, dtype);
            let single = folder(&dir.path().join("single"), &config, &all);
            let sharded = sharded_folder(&dir.path().join("sharded"), &config, &all);
            let (single, sharded) =
                (ModelFolder::open(&single).unwrap(), ModelFolder::open(&sharded).unwrap());
            for folder in [&single, &sharded] {
                assert_eq!(folder.dtype(), dtype);
                assert_eq!(folder.parameters().len(), all.len());
                assert_reads_back(folder, &config);
            }
            assert_eq!(single.fingerprint(), sharded.fingerprint());
            assert_eq!(single.bytes("model.norm.weight").unwrap().len(), 6 * dtype.size());
        }
    }
}

#[test]
fn fingerprint_sees_one_bit_a_name_and_a_format() {
    let dir = tempfile::tempdir().unwrap();
    let fingerprint =
        |all: &[Tensor]| ModelFolder::open(&folder(dir.path(), &config(), all)).unwrap().fingerprint();
    let all = tensors(&config(), DType::F32);
    let mut seen = vec![fingerprint(&all)];
    assert_eq!(fingerprint(&all), seen[0]);
    let mut changed = all.clone();
    changed[5].3[3] ^= 1;
    seen.push(fingerprint(&changed));
    let mut swapped = all.clone();
    // input_layernorm and post_attention_layernorm have the same shape.
    (swapped[1].3, swapped[6].3) = (swapped[6].3.clone(), swapped[1].3.clone());
    assert_ne!(swapped[1].3, all[1].3);
    seen.push(fingerprint(&swapped));
    seen.push(fingerprint(&tensors(&config(), DType::BF16)));
    let distinct: std::collections::HashSet<u64> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len(), "{seen:?}");
}

#[test]
fn mixed_formats_are_read_and_the_commonest_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = tensors(&config(), DType::BF16);
    for entry in all.iter_mut().filter(|entry| entry.0.contains("norm")) {
        *entry = tensor(&entry.0.clone(), &entry.2.clone(), DType::F32);
    }
    let folder = ModelFolder::open(&folder(dir.path(), &config(), &all)).unwrap();
    assert_eq!(folder.dtype(), DType::BF16);
    assert_reads_back(&folder, &config());
}

#[test]
fn buffers_and_a_copy_of_the_tied_head_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = tensors(&tied(), DType::F32);
    all.push(tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[2], DType::F32));
    let mut head = all[0].clone();
    head.0 = "lm_head.weight".into();
    all.push(head);
    assert_reads_back(&ModelFolder::open(&folder(dir.path(), &tied(), &all)).unwrap(), &tied());
    all.last_mut().unwrap().3[0] ^= 1;
    let error = error(&folder(dir.path(), &tied(), &all));
    assert!(error.contains("model.safetensors: tensor \"lm_head.weight\": differs from"), "{error}");
}

#[test]
fn wrong_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = tensors(&config(), DType::F32);
    let with = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut all = good.clone();
        change(&mut all);
        error(&folder(dir.path(), &config(), &all))
    };
    let found = with(&|all| drop(all.remove(3)));
    assert!(found.ends_with("missing tensor \"model.layers.0.self_attn.k_proj.weight\""), "{found}");
    let found = with(&|all| drop(all.drain(1..6)));
    assert!(found.contains("missing tensors \"model.layers.0.input_layernorm.weight\", "), "{found}");
    assert!(found.contains(" and 2 more"), "{found}");
    let found = with(&|all| drop(all.pop()));
    assert!(found.contains("missing tensor \"lm_head.weight\"; if the head is the embedding"), "{found}");
    let found = with(&|all| all.push(tensor("model.layers.2.mlp.up_proj.weight", &[1], DType::F32)));
    assert!(found.contains("\"model.layers.2.mlp.up_proj.weight\" not part of a Llama"), "{found}");
    let found = with(&|all| all.push(tensor("model.layers.0.self_attn.q_proj.bias", &[8], DType::F32)));
    assert!(found.ends_with("no bias"), "{found}");
    let found =
        with(&|all| all.push(tensor("model.layers.0.self_attn.q_proj.lora_A.weight", &[8], DType::F32)));
    assert!(found.contains("merge_and_unload"), "{found}");
    let found = with(&|all| all[4].2.reverse());
    assert!(
        found.contains("tensor \"model.layers.0.self_attn.v_proj.weight\": has shape [6, 4], but config.json asks for [4, 6]"),
        "{found}"
    );
    let found = with(&|all| {
        let elements = all[2].3.len() / 4;
        (all[2].1, all[2].3) = (Dtype::I8, vec![0; elements]);
    });
    assert!(found.contains("q_proj.weight\": is stored as I8; only F32, F16 and BF16"), "{found}");
    let found = with(&|all| {
        for entry in all.iter_mut() {
            entry.0 = entry.0.trim_start_matches("model.").to_owned();
        }
    });
    assert!(found.contains("not from AutoModel"), "{found}");
}

#[test]
fn truncated_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), &config(), &tensors(&config(), DType::F32)).join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for (length, expected) in [
        (whole.len() - 1, "truncated; fetch it again"),
        (100, "truncated: its header should be"),
        (3, "it is 3 bytes"),
    ] {
        fs::write(&path, &whole[..length]).unwrap();
        let found = error(dir.path());
        assert!(found.starts_with(&path.display().to_string()) && found.contains(expected), "{found}");
    }
}

#[test]
fn lying_indices_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let all = tensors(&config(), DType::F32);
    let fresh = || sharded_folder(dir.path(), &config(), &all);
    let index = fresh().join("model.safetensors.index.json");
    let edit = |change: &dyn Fn(&mut Value)| {
        fresh();
        let mut value: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        change(&mut value);
        fs::write(&index, value.to_string()).unwrap();
        error(dir.path())
    };
    let found =
        edit(&|index| index["weight_map"]["lm_head.weight"] = json!("model-00003-of-00002.safetensors"));
    assert!(
        found.contains("names model-00003-of-00002.safetensors for \"lm_head.weight\", but there is no"),
        "{found}"
    );
    let found =
        edit(&|index| index["weight_map"]["lm_head.weight"] = json!("model-00001-of-00002.safetensors"));
    assert!(
        found.contains("model-00001-of-00002.safetensors: tensor \"lm_head.weight\": is not in the file"),
        "{found}"
    );
    for outside in ["../model.safetensors", "/etc/passwd", "..", ""] {
        let found = edit(&|index| index["weight_map"]["lm_head.weight"] = json!(outside));
        assert!(found.contains("a shard lies beside its index"), "{found}");
    }
    let found = edit(&|index| index["weight_map"] = json!([1]));
    assert!(found.contains("not an index of shards: invalid type"), "{found}");
    // A tensor in both shards.
    fresh();
    write_weights(&dir.path().join("model-00001-of-00002.safetensors"), &all);
    assert!(error(dir.path()).contains("is in "), "{}", error(dir.path()));
}

#[test]
fn folders_without_safetensors_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let found = error(&dir.path().join("absent"));
    assert!(found.ends_with("there is no such folder"), "{found}");
    let found = error(dir.path());
    assert!(found.ends_with("holds no config.json; give a Hugging Face model folder"), "{found}");
    fs::write(dir.path().join("params.json"), "{}").unwrap();
    assert!(error(dir.path()).contains("Meta's original layout"));
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert!(error(dir.path()).contains("LoRA adapter"));
    fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    assert!(error(&dir.path().join("config.json")).contains("is a file"));
    let found = error(dir.path());
    assert!(
        found.ends_with("holds no weights: neither model.safetensors nor model.safetensors.index.json"),
        "{found}"
    );
    fs::write(dir.path().join("model.fp16.safetensors"), "").unwrap();
    assert!(error(dir.path()).contains("holds model.fp16.safetensors, but neither"));
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let found = error(dir.path());
    assert!(
        found.contains("only pytorch_model.bin; pickles are not read") && found.contains("save_pretrained"),
        "{found}"
    );
}

#[test]
fn reading_what_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(&folder(dir.path(), &config(), &tensors(&config(), DType::F32))).unwrap();
    let found = folder.read("model.nor.weight", &mut [0.0; 6]).unwrap_err().to_string();
    assert!(found.contains("tensor \"model.nor.weight\": the model has no such parameter"), "{found}");
    assert!(folder.read("model.norm.weight", &mut [0.0; 5]).is_err());
}
