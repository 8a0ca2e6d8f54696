//! The models that are measured, by their sizes alone.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A Llama's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// What `--shape` calls it.
    pub name: &'static str,
    /// H.
    pub hidden: usize,
    /// F.
    pub feed_forward: usize,
    /// L.
    pub layers: usize,
    /// N.
    pub heads: usize,
    /// K.
    pub key_heads: usize,
    /// D.
    pub head_dim: usize,
    /// V.
    pub vocabulary: usize,
    /// Whether the head is the embedding table.
    pub tied: bool,
}

/// All shapes, the smallest first. `quickstart` is the model of `examples/quickstart.toml`; `1b`, `3b` and `8b` are Llama-3.2-1B, Llama-3.2-3B and Llama-3-8B; `57m` is a small
/// untied model for measurements on a CPU.
pub const SHAPES: [Shape; 6] = [
    shape("quickstart", [128, 384, 4, 4, 2, 32, 411], true),
    shape("tiny", [256, 768, 4, 4, 2, 64, 4096], true),
    shape("57m", [512, 1536, 8, 8, 4, 64, 32_000], false),
    shape("1b", [2048, 8192, 16, 32, 8, 64, 128_256], true),
    shape("3b", [3072, 8192, 28, 24, 8, 128, 128_256], true),
    shape("8b", [4096, 14_336, 32, 32, 8, 128, 128_256], false),
];

/// Longest sequence of the models, unless a workload needs more.
const POSITIONS: usize = 8192;

const fn shape(name: &'static str, sizes: [usize; 7], tied: bool) -> Shape {
    let [hidden, feed_forward, layers, heads, key_heads, head_dim, vocabulary] = sizes;
    Shape { name, hidden, feed_forward, layers, heads, key_heads, head_dim, vocabulary, tied }
}

impl Shape {
    /// The shape of this name.
    pub fn find(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// The same model with another number of layers.
    pub fn with_layers(self, layers: usize) -> Self {
        Self { layers, ..self }
    }

    /// `config.json` of a Hugging Face folder, for sequences of up to `longest` tokens.
    pub fn config_json(self, longest: usize) -> Map<String, Value> {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": POSITIONS.max(longest),
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.tied,
        });
        match config {
            Value::Object(map) => map,
            _ => unreachable!("written as an object"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{LlamaConfig, ParameterTable};

    /// Parameter counts as published (Llama 3.2's and 3's model cards: 1.23B, 3.21B, 8.03B) and as PyTorch counts
    /// the small one (57,942,528).
    #[test]
    fn the_shapes_have_the_published_numbers_of_parameters() {
        let count = |name: &str| {
            let json = Shape::find(name).unwrap().config_json(10);
            let config = LlamaConfig::from_json(&Value::Object(json).to_string(), Path::new("x")).unwrap();
            ParameterTable::new(&config).count()
        };
        assert_eq!(count("1b"), 1_235_814_400);
        assert_eq!(count("3b"), 3_212_749_824);
        assert_eq!(count("8b"), 8_030_261_248);
        assert_eq!(count("57m"), 57_942_528);
    }

    #[test]
    fn longer_workloads_get_a_model_for_them() {
        let positions =
            |longest| Shape::find("tiny").unwrap().config_json(longest)["max_position_embeddings"].clone();
        assert_eq!([positions(100), positions(10_000)], [json!(8192), json!(10_000)]);
    }
}
