use serde_json::json;

use crate::bad_input::{copied, model_refused};
use crate::golden::*;
use crate::shell::Shell;

/// `model.safetensors` of the copied checkpoint with another header, and its data changed.
fn with_header(
    shell: &Shell,
    change: impl Fn(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<u8>),
) -> Vec<u8> {
    let model = copied(shell, "gqa-llama3");
    let bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes(), &*header, &*data].concat();
    std::fs::write(model.join("model.safetensors"), &file).unwrap();
    file
}

const NORM: &str = "model.norm.weight";

#[test]
fn weights_that_lie() {
    let shell = Shell::new();
    let file = "model/model.safetensors";
    type Change<'a> = &'a dyn Fn(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<u8>);
    let refused_with = |change: Change<'_>, says: &str| {
        with_header(&shell, change);
        model_refused(&shell, "model", &format!("{file}: {says}"));
    };
    let offsets = |header: &serde_json::Map<String, serde_json::Value>| {
        header[NORM]["data_offsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    refused_with(
        &|header, _| header[NORM]["shape"] = json!([31]),
        "tensor \"model.norm.weight\": shape [31] of F32 does not take the 128 bytes it has",
    );
    refused_with(
        &|header, _| header[NORM]["dtype"] = json!("F33"),
        "tensor \"model.norm.weight\": format \"F33\" is unknown; F32, F16 and BF16 can be read",
    );
    refused_with(
        &|header, _| {
            header[NORM]["dtype"] = json!("I32");
        },
        "tensor \"model.norm.weight\": is stored as I32; only F32, F16 and BF16 can be read, not quantised weights",
    );
    refused_with(
        &|header, _| {
            let at = offsets(header);
            header[NORM]["data_offsets"] = json!([at[0] - 4, at[1] - 4]);
        },
        "tensor \"",
    );
    refused_with(
        &|header, _| {
            let at = offsets(header);
            header[NORM]["data_offsets"] = json!([at[1], at[0]]);
        },
        "tensor \"model.norm.weight\": its offsets run backwards",
    );
    refused_with(&|_, data| data.extend([0; 4]), "4 bytes after the last tensor belong to none");
    with_header(&shell, |header, data| {
        let end = data.len();
        header.insert(
            "surplus".into(),
            json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] }),
        );
        data.extend([0; 4]);
    });
    model_refused(&shell, "model", "model: tensor \"surplus\" not part of a Llama with this config.json");

    let good = with_header(&shell, |_, _| {});
    let path = shell.path().join(file);
    let mut long = good.clone();
    long[..8].copy_from_slice(&(good.len() as u64).to_le_bytes());
    std::fs::write(&path, &long).unwrap();
    let bytes = good.len() - 8;
    let says = format!(
        "{file}: truncated: its header should be {} bytes, but the file ends after {bytes}",
        good.len()
    );
    model_refused(&shell, "model", &says);
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &long).unwrap();
    model_refused(
        &shell,
        "model",
        &format!("{file}: not a safetensors file: it claims a header of {}", u64::MAX),
    );
    // One name for two tensors: what the header's map would hide.
    let end = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&good[8..8 + end]).unwrap();
    let twice = text.replacen("model.layers.0.input_layernorm.weight", NORM, 1);
    let twice = [&(twice.len() as u64).to_le_bytes(), twice.as_bytes(), &good[8 + end..]].concat();
    std::fs::write(&path, twice).unwrap();
    model_refused(&shell, "model", &format!("{file}: tensor \"{NORM}\": is described twice in the header"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 101048\n";
    std::fs::write(&path, pointer).unwrap();
    model_refused(
        &shell,
        "model",
        &format!("{file}: not a safetensors file: it is a git-lfs pointer: fetch"),
    );
}

#[test]
fn shards_that_lie() {
    let shell = Shell::new();
    let model = copied(&shell, "gqa-llama3");
    std::fs::rename(model.join("model.safetensors"), model.join("one.safetensors")).unwrap();
    let index = "model/model.safetensors.index.json";
    let names: Vec<String> = tensors(model.join("one.safetensors")).into_keys().collect();
    let whole = |shard: &str| -> serde_json::Map<String, serde_json::Value> {
        names.iter().map(|name| (name.clone(), json!(shard))).collect()
    };
    let write = |map: serde_json::Value| shell.write(index, json!({ "weight_map": map }).to_string());
    write(whole("one.safetensors").into());
    done(&shell, &format!("plan --model model --data {}", batch("train12")));

    write(whole("two.safetensors").into());
    let says = format!(
        "{index}: names two.safetensors for \"{}\", but there is no such file; fetch it again",
        names[0]
    );
    model_refused(&shell, "model", &says);
    let mut map = whole("one.safetensors");
    map.insert("model.layers.9.mlp.up_proj.weight".into(), json!("one.safetensors"));
    write(map.into());
    model_refused(
        &shell,
        "model",
        "model/one.safetensors: tensor \"model.layers.9.mlp.up_proj.weight\": is not in the file, though",
    );
    write(whole("../model/one.safetensors").into());
    model_refused(&shell, "model", "a shard lies beside its index");
    write(json!([]));
    model_refused(&shell, "model", &format!("{index}: not an index of shards: "));
    shell.write(index, "{");
    model_refused(&shell, "model", &format!("{index}: not an index of shards: "));
    // The same tensors in two shards.
    std::fs::copy(model.join("one.safetensors"), model.join("two.safetensors")).unwrap();
    let mut map = whole("one.safetensors");
    map.insert(names[0].clone(), json!("two.safetensors"));
    write(map.into());
    model_refused(&shell, "model", "is in model/");
}

/// Each refusal names the file, the key and the value.
#[test]
fn configurations_that_ask_for_something_else() {
    let shell = Shell::new();
    let model = copied(&shell, "gqa-llama3");
    let good = json(model.join("config.json"));
    for (key, value, says) in [
        ("model_type", json!("mistral"), "which is not supported: only \"llama\" is"),
        ("architectures", json!(["LlamaForSequenceClassification"]), "only \"LlamaForCausalLM\" is"),
        ("hidden_act", json!("gelu"), "which is not supported: only \"silu\" is"),
        ("attention_bias", json!(true), "this program's linear layers have no bias"),
        ("mlp_bias", json!(true), "this program's linear layers have no bias"),
        ("attention_dropout", json!(0.1), "this program trains without dropout; set it to 0.0"),
        ("partial_rotary_factor", json!(0.5), "the whole head is rotated"),
        ("sliding_window", json!(4096), "full attention"),
        ("quantization_config", json!({"bits":4}), "f32, f16 or bf16 weights"),
        ("hidden_size", json!("32"), "but it must be a whole number from 1 to "),
        ("num_key_value_heads", json!(3), "but it must divide num_attention_heads = 4"),
        ("rms_norm_eps", json!(-1.0), "but it must be a positive number"),
    ] {
        let mut config = good.clone();
        config[key] = value.clone();
        shell.write("model/config.json", config.to_string());
        model_refused(&shell, "model", &format!("model/config.json: key \"{key}\" is {value}, "));
        model_refused(&shell, "model", says);
    }
    let mut config = good.clone();
    config["rope_scaling"] = json!({ "rope_type": "yarn", "factor": 2.0 });
    config.as_object_mut().unwrap().shift_remove("rope_parameters");
    shell.write("model/config.json", config.to_string());
    model_refused(
        &shell,
        "model",
        "model/config.json: key \"rope_scaling.rope_type\" is \"yarn\", which is not supported: \"default\", \"linear\"",
    );
    let mut config = good.clone();
    config.as_object_mut().unwrap().shift_remove("vocab_size");
    shell.write("model/config.json", config.to_string());
    model_refused(
        &shell,
        "model",
        "model/config.json: key \"vocab_size\" is missing; it must be a positive whole number",
    );
    shell.write("model/config.json", "{\n  \"hidden_size\": 32,\n}");
    model_refused(&shell, "model", "model/config.json:3:1: not valid JSON: trailing comma");
    shell.write("model/config.json", b"{\"a\": \"\xff\"}");
    model_refused(&shell, "model", "model/config.json:1:8: not valid JSON: not UTF-8");
}
