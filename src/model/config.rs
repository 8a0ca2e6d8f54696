//! `config.json` of a Llama folder: read in the layouts of transformers 4 and 5, checked, and written back in
//! both at once.
//!
//! Boundary: what the model computes is decided here, and a feature that this program does not compute is
//! refused here with the file and the key; nobody further down asks again. Weights and files of weights are
//! `checkpoint`'s.

use std::f64::consts::PI;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::DType;

/// Bound of every size in a configuration. Products of two sizes, in bytes, then fit a u64, so that a
/// nonsensical file is an error here and not an overflow later.
const MAX_SIZE: usize = i32::MAX as usize;
/// Bound of the number of layers; the deepest published Llama has 126.
const MAX_LAYERS: usize = 10_000;

/// A Llama configuration whose every feature this program computes.
///
/// Sizes carry the letters of the design: `hidden_size` H, `intermediate_size` F, `num_hidden_layers` L,
/// `num_attention_heads` N, `num_key_value_heads` K, `head_dim` D, `vocab_size` V.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// H, the width of the residual stream. Not necessarily N x D.
    pub hidden_size: usize,
    /// F, the width of the feed-forward block.
    pub intermediate_size: usize,
    /// L.
    pub num_hidden_layers: usize,
    /// N, query heads; a multiple of K.
    pub num_attention_heads: usize,
    /// K, key/value heads.
    pub num_key_value_heads: usize,
    /// D, even.
    pub head_dim: usize,
    /// V.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The constant under the root of every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the head is the embedding table, in which case the folder holds no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// Beginning-of-sequence token, if the file names one.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence tokens: none, one, or Llama 3's several.
    pub eos_token_ids: Vec<u32>,
    /// The format that the file announces for its weights. The weights themselves decide.
    pub torch_dtype: Option<DType>,
    /// The file as read, for the keys this program does not know.
    pub raw: Map<String, Value>,
}

/// Rotary position embedding: how fast each pair of channels turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rope {
    /// `theta^(-2i/D)`.
    Plain {
        /// The base.
        theta: f64,
    },
    /// Position interpolation: all frequencies divided by `factor`.
    Linear {
        /// The base.
        theta: f64,
        /// How many times longer than trained the context may be.
        factor: f64,
    },
    /// Llama 3.1's: long waves divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// The base.
        theta: f64,
        /// Divisor of the long waves.
        factor: f64,
        /// Waves longer than `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before it was stretched, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{}:{line}:{column}: not valid JSON: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// A required key is absent.
    #[error("{}: key \"{key}\" is missing; it must be {expected}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A key has a value that cannot be meant.
    #[error("{}: key \"{key}\" is {value}, but {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// The value found, as JSON, shortened.
        value: String,
        /// What is wrong, with what would be right.
        problem: String,
    },
    /// The file asks for something this program does not compute.
    #[error("{}: key \"{key}\" is {value}, which is not supported: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// The value found, as JSON, shortened.
        value: String,
        /// What is supported.
        reason: String,
    },
}

impl Rope {
    /// Radians per position of each channel pair, `[head_dim / 2]`, computed in f64 as transformers'
    /// `modeling_rope_utils` does in f32.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let pairs = 0..head_dim / 2;
        let plain = |theta: f64| pairs.map(move |i| theta.powf(-((2 * i) as f64) / head_dim as f64));
        match *self {
            Rope::Plain { theta } => plain(theta).collect(),
            Rope::Linear { theta, factor } => plain(theta).map(|frequency| frequency / factor).collect(),
            Rope::Llama3 {
                theta,
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => {
                let original = original as f64;
                let stretch = |frequency: f64| {
                    let wavelength = 2.0 * PI / frequency;
                    if wavelength > original / low {
                        frequency / factor
                    } else if wavelength < original / high {
                        frequency
                    } else {
                        let kept = (original / wavelength - low) / (high - low);
                        (1.0 - kept) * frequency / factor + kept * frequency
                    }
                };
                plain(theta).map(stretch).collect()
            }
        }
    }

    /// The base of the frequencies.
    pub fn theta(&self) -> f64 {
        match *self {
            Rope::Plain { theta } | Rope::Linear { theta, .. } | Rope::Llama3 { theta, .. } => theta,
        }
    }
}

impl LlamaConfig {
    /// Reads and checks a `config.json`.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let bytes =
            std::fs::read(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            ConfigError::Json {
                path: path.to_owned(),
                line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
                column: before.len() - line_start + 1,
                message: "not UTF-8".to_owned(),
            }
        })?;
        Self::from_json(text, path)
    }

    /// Checks the text of a `config.json`; `path` only names it in errors.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(|error| ConfigError::Json {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
            message: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        })?;
        let keys = Keys { path, prefix: "", map: &raw };
        refuse_unsupported(&keys)?;

        let hidden_size = keys.size("hidden_size", None)?;
        let num_attention_heads = keys.size("num_attention_heads", None)?;
        let num_key_value_heads = keys.size("num_key_value_heads", Some(num_attention_heads))?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let problem = format!("it must divide num_attention_heads = {num_attention_heads}");
            return Err(keys.invalid("num_key_value_heads", problem));
        }
        let num_hidden_layers = keys.size("num_hidden_layers", None)?;
        if num_hidden_layers > MAX_LAYERS {
            return Err(keys.invalid("num_hidden_layers", format!("it can be at most {MAX_LAYERS}")));
        }
        Ok(LlamaConfig {
            hidden_size,
            intermediate_size: keys.size("intermediate_size", None)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim: head_dim(&keys, hidden_size, num_attention_heads)?,
            vocab_size: keys.size("vocab_size", None)?,
            max_position_embeddings: keys.size("max_position_embeddings", Some(2048))?,
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: read_rope(&keys)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
            bos_token_id: keys.token("bos_token_id")?,
            eos_token_ids: keys.tokens("eos_token_id")?,
            torch_dtype: keys.dtype()?,
            raw: raw.clone(),
        })
    }

    /// The configuration as `config.json` holds it: every key of the file it came from, with the keys this
    /// program knows set in the spelling of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`)
    /// and of transformers 5 (`rope_parameters`, `dtype`) side by side, so that both load it, and so do
    /// converters written for either.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = self.raw.clone();
        for (key, default) in [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("model_type", json!("llama")),
            ("attention_bias", json!(false)),
            ("attention_dropout", json!(0.0)),
            ("mlp_bias", json!(false)),
            ("hidden_act", json!("silu")),
            ("use_cache", json!(true)),
        ] {
            map.entry(key).or_insert(default);
        }
        for (key, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            set(&mut map, key, json!(value));
        }
        set(&mut map, "rms_norm_eps", json!(self.rms_norm_eps));
        set(&mut map, "initializer_range", json!(self.initializer_range));
        set(&mut map, "tie_word_embeddings", json!(self.tie_word_embeddings));
        match &self.eos_token_ids[..] {
            [] => drop(map.insert("eos_token_id".into(), Value::Null)),
            // A list of one, as some folders have it, stays a list.
            [id] if map.get("eos_token_id") != Some(&json!([id])) => set(&mut map, "eos_token_id", json!(id)),
            ids => set(&mut map, "eos_token_id", json!(ids)),
        }
        set(&mut map, "bos_token_id", json!(self.bos_token_id));
        if let Some(dtype) = self.torch_dtype {
            set(&mut map, "torch_dtype", json!(dtype.torch_name()));
            set(&mut map, "dtype", json!(dtype.torch_name()));
        }
        self.write_rope(&mut map);
        map
    }

    fn write_rope(&self, map: &mut Map<String, Value>) {
        let as_read =
            ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| map.get(key)?.as_object());
        let mut scaling = as_read.cloned().unwrap_or_default();
        let name = match self.rope {
            Rope::Plain { .. } => "default",
            Rope::Linear { factor, .. } => {
                set(&mut scaling, "factor", json!(factor));
                "linear"
            }
            Rope::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
                ..
            } => {
                set(&mut scaling, "factor", json!(factor));
                set(&mut scaling, "low_freq_factor", json!(low_freq_factor));
                set(&mut scaling, "high_freq_factor", json!(high_freq_factor));
                let original = json!(original_max_position_embeddings);
                set(&mut scaling, "original_max_position_embeddings", original);
                "llama3"
            }
        };
        set(&mut scaling, "rope_type", json!(name));
        let mut parameters = scaling.clone();
        set(&mut parameters, "rope_theta", json!(self.rope.theta()));
        scaling.shift_remove("rope_theta");
        let plain = matches!(self.rope, Rope::Plain { .. });
        set(map, "rope_theta", json!(self.rope.theta()));
        set(map, "rope_scaling", if plain { Value::Null } else { Value::Object(scaling) });
        set(map, "rope_parameters", Value::Object(parameters));
    }

    /// Hugging Face's name and shape of every parameter, in the order of the forward pass. Matrices are
    /// `[out, in]`; `lm_head.weight` is absent when tied.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let mut table = vec![("model.embed_tokens.weight".to_owned(), vec![v, h])];
        for layer in 0..self.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("self_attn.q_proj", vec![queries, h]),
                ("self_attn.k_proj", vec![keys, h]),
                ("self_attn.v_proj", vec![keys, h]),
                ("self_attn.o_proj", vec![h, queries]),
                ("post_attention_layernorm", vec![h]),
                ("mlp.gate_proj", vec![f, h]),
                ("mlp.up_proj", vec![f, h]),
                ("mlp.down_proj", vec![h, f]),
            ] {
                table.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        table.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tie_word_embeddings {
            table.push(("lm_head.weight".to_owned(), vec![v, h]));
        }
        table
    }
}

/// Sets a key unless it already holds that value in another spelling (500000 for 500000.0).
fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    let same_number = |old: &Value| old.as_f64().is_some() && old.as_f64() == value.as_f64();
    if !map.get(key).is_some_and(same_number) {
        map.insert(key.to_owned(), value);
    }
}

/// Refuses what would make the model another one than this program computes.
fn refuse_unsupported(keys: &Keys) -> Result<(), ConfigError> {
    match keys.get("model_type") {
        None => return Err(keys.missing("model_type", "\"llama\"")),
        Some(Value::String(name)) if name == "llama" => {}
        Some(_) => return Err(keys.unsupported("model_type", "only \"llama\" is")),
    }
    if let Some(names) = keys.get("architectures")
        && !names.as_array().is_some_and(|names| names.iter().any(|name| name == "LlamaForCausalLM"))
    {
        return Err(keys.unsupported("architectures", "only \"LlamaForCausalLM\" is"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if keys.flag(key)? {
            return Err(keys.unsupported(key, "this program's linear layers have no bias"));
        }
    }
    if keys.get("hidden_act").is_some_and(|act| act != "silu") {
        return Err(keys.unsupported("hidden_act", "only \"silu\" is"));
    }
    if keys.get("attention_dropout").is_some_and(|dropout| dropout.as_f64() != Some(0.0)) {
        return Err(
            keys.unsupported("attention_dropout", "this program trains without dropout; set it to 0.0")
        );
    }
    if keys.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
        return Err(keys.unsupported("partial_rotary_factor", "the whole head is rotated"));
    }
    for key in ["quantization_config", "sliding_window"] {
        if keys.get(key).is_some() {
            let reason = "give a folder with full f32, f16 or bf16 weights and full attention";
            return Err(keys.unsupported(key, reason));
        }
    }
    Ok(())
}

fn head_dim(keys: &Keys, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
    let (key, head_dim) = match keys.get("head_dim") {
        Some(_) => ("head_dim", keys.size("head_dim", None)?),
        None if hidden_size.is_multiple_of(heads) => ("num_attention_heads", hidden_size / heads),
        None => {
            let problem = format!("it must divide hidden_size = {hidden_size} when there is no head_dim");
            return Err(keys.invalid("num_attention_heads", problem));
        }
    };
    if !head_dim.is_multiple_of(2) {
        let problem =
            format!("heads of {head_dim} channels cannot be rotated in pairs; head_dim must be even");
        return Err(keys.invalid(key, problem));
    }
    if heads.saturating_mul(head_dim) > MAX_SIZE {
        return Err(keys.invalid("num_attention_heads", format!("{heads} heads of {head_dim} are too many")));
    }
    Ok(head_dim)
}

/// Reads `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling` (4), or both when they agree.
fn read_rope(keys: &Keys) -> Result<Rope, ConfigError> {
    let legacy_theta = keys.get("rope_theta").map(|_| keys.positive("rope_theta", None)).transpose()?;
    let scaling = keys.section("rope_scaling")?;
    let Some(parameters) = keys.section("rope_parameters")? else {
        let theta = legacy_theta.unwrap_or(10_000.0);
        return scaling.map_or(Ok(Rope::Plain { theta }), |scaling| rope_section(&scaling, theta));
    };
    let rope = rope_section(&parameters, legacy_theta.unwrap_or(10_000.0))?;
    // transformers 4 would follow the one and 5 the other.
    if legacy_theta.is_some_and(|theta| theta != rope.theta()) {
        let problem = format!("rope_parameters says {}; they must agree", rope.theta());
        return Err(keys.invalid("rope_theta", problem));
    }
    if let Some(scaling) = scaling
        && rope_section(&scaling, rope.theta())? != rope
    {
        return Err(
            keys.invalid("rope_scaling", "rope_parameters says something else; they must agree".into())
        );
    }
    Ok(rope)
}

fn rope_section(section: &Keys, default_theta: f64) -> Result<Rope, ConfigError> {
    if section.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
        return Err(section.unsupported("partial_rotary_factor", "the whole head is rotated"));
    }
    if let Some((key, _)) = section.map.iter().find(|(_, value)| value.is_object()) {
        return Err(section.unsupported(key, "one rotation serves every layer"));
    }
    let theta = section.positive("rope_theta", Some(default_theta))?;
    let key = if section.get("rope_type").is_some() { "rope_type" } else { "type" };
    match section.get(key) {
        None if section.get("factor").is_some() => {
            Err(section.missing("rope_type", "\"default\", \"linear\" or \"llama3\""))
        }
        None => Ok(Rope::Plain { theta }),
        Some(Value::String(kind)) => match kind.as_str() {
            "default" => Ok(Rope::Plain { theta }),
            "linear" => Ok(Rope::Linear { theta, factor: section.positive("factor", None)? }),
            "llama3" => rope_llama3(section, theta),
            _ => Err(section.unsupported(key, "\"default\", \"linear\" and \"llama3\" are")),
        },
        Some(_) => Err(section.invalid(key, "it must be a string".into())),
    }
}

fn rope_llama3(section: &Keys, theta: f64) -> Result<Rope, ConfigError> {
    let low_freq_factor = section.positive("low_freq_factor", None)?;
    let high_freq_factor = section.positive("high_freq_factor", None)?;
    if high_freq_factor <= low_freq_factor {
        let problem = format!("it must be larger than low_freq_factor = {low_freq_factor}");
        return Err(section.invalid("high_freq_factor", problem));
    }
    Ok(Rope::Llama3 {
        theta,
        factor: section.positive("factor", None)?,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: section.size("original_max_position_embeddings", None)?,
    })
}

/// An object of the file under inspection, with what an error needs to point at one of its keys. A key that
/// is `null` counts as absent, as it does in transformers.
struct Keys<'a> {
    path: &'a Path,
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    fn shown(&self, key: &str) -> String {
        let text = self.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        match text.char_indices().nth(60) {
            Some((cut, _)) => format!("{}...", &text[..cut]),
            None => text,
        }
    }

    fn missing(&self, key: &str, expected: &'static str) -> ConfigError {
        ConfigError::Missing { path: self.path.to_owned(), key: self.name(key), expected }
    }

    fn invalid(&self, key: &str, problem: String) -> ConfigError {
        let (path, value) = (self.path.to_owned(), self.shown(key));
        ConfigError::Invalid { path, key: self.name(key), value, problem }
    }

    fn unsupported(&self, key: &str, reason: &str) -> ConfigError {
        let (path, value) = (self.path.to_owned(), self.shown(key));
        ConfigError::Unsupported { path, key: self.name(key), value, reason: reason.to_owned() }
    }

    fn section(&self, key: &'static str) -> Result<Option<Keys<'a>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { path: self.path, prefix: key, map })),
            Some(_) => Err(self.invalid(key, "it must be an object".into())),
        }
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize, ConfigError> {
        let Some(value) = self.get(key) else {
            return default.ok_or_else(|| self.missing(key, "a positive whole number"));
        };
        value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| (1..=MAX_SIZE).contains(size))
            .ok_or_else(|| self.invalid(key, format!("it must be a whole number from 1 to {MAX_SIZE}")))
    }

    fn positive(&self, key: &str, default: Option<f64>) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else {
            return default.ok_or_else(|| self.missing(key, "a positive number"));
        };
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| self.invalid(key, "it must be a positive number".into()))
    }

    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.invalid(key, "it must be true or false".into())),
        }
    }

    fn token(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.invalid(key, "it must be a token id".into()))
    }

    fn tokens(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let Some(Value::Array(list)) = self.get(key) else {
            return Ok(self.token(key)?.into_iter().collect());
        };
        let ids = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        let ids: Option<Vec<u32>> = ids.collect();
        ids.ok_or_else(|| self.invalid(key, "it must be a token id or a list of them".into()))
    }

    fn dtype(&self) -> Result<Option<DType>, ConfigError> {
        let Some(key) = ["dtype", "torch_dtype"].into_iter().find(|key| self.get(key).is_some()) else {
            return Ok(None);
        };
        let name = self.get(key).and_then(Value::as_str).unwrap_or_default();
        let dtype = name.parse().map_err(|_| self.unsupported(key, "float32, float16 and bfloat16 are"))?;
        Ok(Some(dtype))
    }
}

impl LlamaConfig {
    /// Columns of the joint query, key and value product: (N + 2K) D.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }
}
