//! `config.json`: the layouts of transformers 4 and 5, what is refused, and what is written.

use std::path::Path;

use asft::DType;
use asft::model::{LlamaConfig, Rope};
use serde_json::{Value, json};

use crate::fixture::{config, parse};

fn error(config: &Value) -> String {
    LlamaConfig::from_json(&config.to_string(), Path::new("dir/config.json")).unwrap_err().to_string()
}

/// The fixture in transformers 5's layout.
fn config_v5() -> Value {
    let mut config = config();
    let map = config.as_object_mut().unwrap();
    let mut rope = map.remove("rope_scaling").unwrap();
    rope["rope_theta"] = map.remove("rope_theta").unwrap();
    map.insert("rope_parameters".into(), rope);
    let dtype = map.remove("torch_dtype").unwrap();
    map.insert("dtype".into(), dtype);
    config
}

#[test]
fn both_layouts_say_the_same() {
    let (old, new) = (parse(&config()), parse(&config_v5()));
    assert_eq!(
        LlamaConfig { raw: Default::default(), ..old.clone() },
        LlamaConfig { raw: Default::default(), ..new }
    );
    assert_eq!((old.hidden_size, old.num_attention_heads, old.head_dim), (6, 2, 4));
    assert_eq!((old.bos_token_id, &old.eos_token_ids[..]), (Some(1), &[2, 9][..]));
    assert_eq!(old.torch_dtype, Some(DType::F32));
    assert_eq!(old.rms_norm_eps, 1e-5);
    assert_eq!(
        old.rope,
        Rope::Llama3 {
            theta: 500000.0,
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192
        }
    );
}

#[test]
fn absent_keys_get_transformers_defaults() {
    let config = parse(&json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 8, "eos_token_id": 3, "rope_scaling": null
    }));
    assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (4, 16, 2048));
    assert_eq!((config.rms_norm_eps, config.initializer_range), (1e-6, 0.02));
    assert_eq!(config.rope, Rope::Plain { theta: 10000.0 });
    assert!(!config.tie_word_embeddings);
    assert_eq!((config.bos_token_id, config.eos_token_ids, config.torch_dtype), (None, vec![3], None));
}

#[test]
fn linear_scaling_under_its_old_and_new_key() {
    for key in ["type", "rope_type"] {
        let mut config = config();
        config["rope_scaling"] = json!({key: "linear", "factor": 4});
        assert_eq!(parse(&config).rope, Rope::Linear { theta: 500000.0, factor: 4.0 });
    }
}

/// The published numbers of parameters of Llama-3.1-8B and Llama-3.2-1B.
#[test]
fn parameters_add_up_to_the_published_models() {
    let count = |config: &Value| -> usize {
        parse(config).parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    let mut config = config();
    for (key, value) in [
        ("hidden_size", 4096),
        ("intermediate_size", 14336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("head_dim", 128),
        ("vocab_size", 128256),
    ] {
        config[key] = json!(value);
    }
    assert_eq!(count(&config), 8_030_261_248);
    for (key, value) in
        [("hidden_size", 2048), ("intermediate_size", 8192), ("num_hidden_layers", 16), ("head_dim", 64)]
    {
        config[key] = json!(value);
    }
    config["tie_word_embeddings"] = json!(true);
    assert_eq!(count(&config), 1_235_814_400);
}

#[test]
fn inverse_frequencies_are_transformers() {
    let golden: Value = serde_json::from_str(include_str!("../golden/rope.json")).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let config = parse(&case["config"]);
        let expected: Vec<f64> = case["inverse_frequencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_f64().unwrap())
            .collect();
        let found = config.rope.inverse_frequencies(config.head_dim);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            // transformers computes in f32: a few units of its last place.
            assert!((found / expected - 1.0).abs() < 5e-7, "{:?}: {found} != {expected}", config.rope);
        }
    }
}

#[test]
fn what_is_not_computed_is_refused_by_key() {
    for (key, value, expected) in [
        ("model_type", json!("mistral"), "\"mistral\", which is not supported"),
        ("model_type", json!(null), "key \"model_type\" is missing"),
        ("architectures", json!(["LlamaForSequenceClassification"]), "only \"LlamaForCausalLM\" is"),
        ("attention_bias", json!(true), "no bias"),
        ("mlp_bias", json!(true), "no bias"),
        ("hidden_act", json!("gelu"), "only \"silu\" is"),
        ("attention_dropout", json!(0.1), "without dropout"),
        ("quantization_config", json!({"bits": 4}), "full f32, f16 or bf16 weights"),
        ("sliding_window", json!(4096), "full attention"),
        ("partial_rotary_factor", json!(0.5), "the whole head is rotated"),
        ("head_dim", json!(5), "must be even"),
        ("num_key_value_heads", json!(3), "must divide num_attention_heads = 2"),
        ("hidden_size", json!(null), "must be a positive whole number"),
        ("hidden_size", json!(0), "whole number from 1"),
        ("hidden_size", json!(-4), "whole number from 1"),
        ("hidden_size", json!(6.5), "whole number from 1"),
        ("vocab_size", json!("12"), "whole number from 1"),
        ("vocab_size", json!(9_000_000_000u64), "whole number from 1"),
        ("num_hidden_layers", json!(2_000_000), "at most 10000"),
        ("rms_norm_eps", json!(0), "positive number"),
        ("tie_word_embeddings", json!("yes"), "true or false"),
        ("eos_token_id", json!([2, -1]), "token id or a list"),
        ("bos_token_id", json!(-1), "must be a token id"),
        ("torch_dtype", json!("float8_e4m3fn"), "float32, float16 and bfloat16 are"),
        ("rope_theta", json!(0.0), "positive number"),
        ("rope_scaling", json!([1]), "must be an object"),
    ] {
        let mut config = config();
        config[key] = value;
        let error = error(&config);
        assert!(error.starts_with("dir/config.json: ") && error.contains(&format!("\"{key}\"")), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn other_rope_types_are_refused_by_key() {
    for (section, expected) in [
        (json!({"rope_type": "yarn", "factor": 2.0}), "key \"rope_scaling.rope_type\" is \"yarn\""),
        (json!({"type": "dynamic", "factor": 2.0}), "key \"rope_scaling.type\" is \"dynamic\""),
        (json!({"rope_type": 3}), "must be a string"),
        (json!({"factor": 2.0}), "key \"rope_scaling.rope_type\" is missing"),
        (json!({"rope_type": "linear"}), "key \"rope_scaling.factor\" is missing"),
        (json!({"rope_type": "llama3", "factor": 8.0}), "key \"rope_scaling.low_freq_factor\" is missing"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192}),
            "must be larger than low_freq_factor = 4",
        ),
        (json!({"full_attention": {"rope_type": "default"}}), "one rotation serves every layer"),
    ] {
        let mut config = config();
        config["rope_scaling"] = section;
        assert!(error(&config).contains(expected), "{}", error(&config));
    }
}

#[test]
fn layouts_that_contradict_each_other_are_refused() {
    let mut config = config_v5();
    config["rope_theta"] = json!(10000.0);
    assert!(error(&config).contains("rope_parameters says 500000; they must agree"), "{}", error(&config));
    let mut config = config_v5();
    config["rope_scaling"] = json!({"rope_type": "linear", "factor": 2.0});
    assert!(error(&config).contains("\"rope_scaling\""), "{}", error(&config));
}

#[test]
fn malformed_json_is_named_by_line() {
    let found =
        LlamaConfig::from_json("{\n  \"model_type\": llama\n}", Path::new("config.json")).unwrap_err();
    assert_eq!(found.to_string(), "config.json:2:17: not valid JSON: expected value");
    let found = LlamaConfig::from_json("[1]", Path::new("config.json")).unwrap_err();
    assert!(
        found.to_string().starts_with("config.json:1:0: not valid JSON: invalid type: sequence"),
        "{found}"
    );
    let found = LlamaConfig::from_file(Path::new("/nowhere/config.json")).unwrap_err();
    assert!(found.to_string().starts_with("cannot read /nowhere/config.json: "), "{found}");
}

#[test]
fn written_for_both_and_nothing_lost() {
    for mut source in [config(), config_v5()] {
        source["my_own_key"] = json!({"kept": [1, 2]});
        let written =
            Value::Object(LlamaConfig { torch_dtype: Some(DType::BF16), ..parse(&source) }.to_json());
        assert_eq!(written["my_own_key"], json!({"kept": [1, 2]}));
        assert_eq!((&written["torch_dtype"], &written["dtype"]), (&json!("bfloat16"), &json!("bfloat16")));
        assert_eq!(written["rope_theta"], json!(500000.0));
        assert_eq!(written["rope_parameters"]["rope_theta"], json!(500000.0));
        assert_eq!(written["rope_scaling"], config()["rope_scaling"]);
        assert_eq!(written["eos_token_id"], json!([2, 9]));
        // Each half alone, and both together, read back as the same model.
        let whole = LlamaConfig { raw: Default::default(), ..parse(&written) };
        for keys in [&["rope_theta", "rope_scaling", "torch_dtype"][..], &["rope_parameters", "dtype"][..]] {
            let mut half = written.clone();
            keys.iter().for_each(|key| drop(half.as_object_mut().unwrap().remove(*key)));
            assert_eq!(LlamaConfig { raw: Default::default(), ..parse(&half) }, whole);
        }
        assert_eq!(whole.rope, parse(&source).rope);
    }
    let mut plain = config();
    plain["rope_scaling"] = json!(null);
    plain["eos_token_id"] = json!(2);
    let written = Value::Object(parse(&plain).to_json());
    assert_eq!(written["rope_scaling"], json!(null));
    assert_eq!(written["rope_parameters"], json!({"rope_type": "default", "rope_theta": 500000.0}));
    assert_eq!(written["eos_token_id"], json!(2));
}

/// A configuration made by hand, without a file behind it, is written whole.
#[test]
fn written_without_a_source() {
    let made = LlamaConfig { raw: Default::default(), ..parse(&config()) };
    let again = parse(&Value::Object(made.to_json()));
    assert_eq!(LlamaConfig { raw: Default::default(), ..again }, made);
    assert_eq!(made.to_json()["architectures"], json!(["LlamaForCausalLM"]));
}
