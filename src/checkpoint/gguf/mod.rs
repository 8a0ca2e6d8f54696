//! A model folder -> one GGUF file, as llama.cpp reads it.
//!
//! - [`container`]: the file format: keys, tensor descriptions, alignment;
//! - [`encoding`]: f32 rows -> the bytes of F32, F16, BF16 and Q8_0;
//! - [`vocabulary`]: `tokenizer.json` -> llama.cpp's token list, types, merges and special tokens;
//! - this file: which key and tensor of a Llama becomes which, and the writing.
//!
//! Boundary: reads a [`ModelFolder`], writes one file. Names, the order of rotary channels and the frequency divisors
//! follow llama.cpp's own converter (`convert_hf_to_gguf.py`, class LlamaModel).

pub mod container;
pub mod encoding;
pub mod vocabulary;

use std::io::Write;
use std::path::Path;

use container::{Header, TensorInfo, Value};
pub use encoding::Encoding;
use vocabulary::Vocabulary;

use super::tensor_writer::TensorSpec;
use super::{CheckpointError, ModelFolder, atomic};
use crate::model::{LlamaConfig, Rope};

/// f32 elements converted at a time: 4 MiB.
const PIECE: usize = 1 << 20;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Tensors in the file.
    pub tensors: usize,
    /// Tensors whose rows are no multiple of 32 and stand in F16 instead of Q8_0.
    pub kept_f16: Vec<String>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct GgufExport<'a> {
    /// The model.
    pub folder: &'a ModelFolder,
    /// How matrices are stored; vectors (the norms) are F32 always.
    pub encoding: Encoding,
    /// `general.name`.
    pub name: &'a str,
    /// llama.cpp's name of the pre-tokenizer, where it cannot be told from tokenizer.json.
    pub pre_tokenizer: Option<&'a str>,
}

impl GgufExport<'_> {
    /// Writes the file, whole or not at all. `progress` is told the tensors done and their number.
    ///
    /// # Errors
    /// A vocabulary that llama.cpp has no words for, a value beyond F16's range where F16 is asked for, and what the
    /// system refuses.
    pub fn write(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Exported, CheckpointError> {
        let config = self.folder.config();
        let vocabulary = Vocabulary::from_folder(self.folder.dir(), config, self.pre_tokenizer)?;
        let tensors = self.tensors();
        let mut header = self.header(&vocabulary);
        header.tensors = tensors.iter().map(|tensor| tensor.info.clone()).collect();
        let mut bytes = 0;
        atomic::save_file(path, |writer| {
            let io = |error| CheckpointError::io("write", path)(error);
            bytes = header.write(writer).map_err(io)?;
            for (done, tensor) in tensors.iter().enumerate() {
                progress(done, tensors.len());
                let written = self.write_tensor(tensor, path, writer)?;
                bytes += written + container::pad(writer, written).map_err(io)?;
            }
            Ok::<_, CheckpointError>(())
        })?;
        progress(tensors.len(), tensors.len());
        let asked = self.encoding;
        let kept = tensors.iter().filter(|t| asked == Encoding::Q8_0 && t.info.encoding == Encoding::F16);
        Ok(Exported {
            tensors: tensors.len(),
            kept_f16: kept.map(|tensor| tensor.info.name.clone()).collect(),
            bytes,
        })
    }

    fn header(&self, vocabulary: &Vocabulary) -> Header {
        let config = self.folder.config();
        let mut header = Header::default();
        header.add("general.architecture", Value::text("llama"));
        header.add("general.type", Value::text("model"));
        header.add("general.name", Value::text(self.name));
        header.add("general.file_type", Value::U32(self.encoding.file_type()));
        header.add("general.quantization_version", Value::U32(2));
        for (key, value) in [
            ("llama.vocab_size", config.vocab_size),
            ("llama.context_length", config.max_position_embeddings),
            ("llama.embedding_length", config.hidden_size),
            ("llama.block_count", config.num_hidden_layers),
            ("llama.feed_forward_length", config.intermediate_size),
            ("llama.rope.dimension_count", config.head_dim),
            ("llama.attention.head_count", config.num_attention_heads),
            ("llama.attention.head_count_kv", config.num_key_value_heads),
            ("llama.attention.key_length", config.head_dim),
            ("llama.attention.value_length", config.head_dim),
        ] {
            header.add(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
        }
        header.add("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32));
        header.add("llama.rope.freq_base", Value::F32(config.rope.theta() as f32));
        if let Rope::Linear { factor, .. } = config.rope {
            header.add("llama.rope.scaling.type", Value::text("linear"));
            header.add("llama.rope.scaling.factor", Value::F32(factor as f32));
        }
        vocabulary.describe(&mut header);
        header
    }

    /// Every tensor of the file, in its order.
    fn tensors(&self) -> Vec<Tensor<'_>> {
        let config = self.folder.config();
        let divisors = frequency_divisors(config).map(|divisors| Tensor {
            info: TensorInfo {
                name: "rope_freqs.weight".to_owned(),
                shape: vec![divisors.len()],
                encoding: Encoding::F32,
            },
            source: Source::Values(divisors),
        });
        let parameters = self.folder.parameters().map(|spec| {
            let encoding = match (&spec.shape[..], self.encoding) {
                ([_], _) => Encoding::F32,
                ([_, columns], Encoding::Q8_0) if columns % encoding::BLOCK != 0 => Encoding::F16,
                (_, encoding) => encoding,
            };
            let info = TensorInfo { name: name(&spec.name), shape: spec.shape.clone(), encoding };
            Tensor { info, source: Source::Folder(spec, rotated_heads(config, &spec.name)) }
        });
        divisors.into_iter().chain(parameters).collect()
    }

    /// Writes one tensor, and returns its bytes.
    fn write_tensor(
        &self,
        tensor: &Tensor<'_>,
        path: &Path,
        out: &mut impl Write,
    ) -> Result<u64, CheckpointError> {
        let encoding = tensor.info.encoding;
        let columns = tensor.info.shape.last().copied().unwrap_or(0);
        let rows = tensor.info.shape.iter().product::<usize>() / columns.max(1);
        let at_once = (PIECE / columns.max(1)).clamp(1, rows.max(1));
        let (mut values, mut bytes, mut written) = (Vec::new(), Vec::new(), 0);
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            values.resize(count * columns, 0.0f32);
            for (row, values) in (first..).zip(values.chunks_exact_mut(columns)) {
                self.read_row(&tensor.source, row, values)?;
            }
            if let Some(value) = encoding.beyond_range(&values) {
                let problem = format!(
                    "has a value of {value:e}, beyond what {} holds; use --type bf16 or f32",
                    encoding.name()
                );
                return Err(CheckpointError::tensor(path, &tensor.info.name, problem));
            }
            bytes.clear();
            encoding.encode(&values, &mut bytes);
            out.write_all(&bytes).map_err(CheckpointError::io("write", path))?;
            written += bytes.len() as u64;
        }
        Ok(written)
    }

    fn read_row(&self, source: &Source<'_>, row: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        match source {
            Source::Values(values) => out.copy_from_slice(&values[row * out.len()..][..out.len()]),
            Source::Folder(spec, heads) => {
                let row = heads.map_or(row, |heads| rotated_row(row, spec.shape[0] / heads));
                let stride = out.len() * spec.dtype.size();
                let bytes = self.folder.bytes(&spec.name)?;
                spec.dtype.decode(&bytes[row * stride..][..stride], out);
            }
        }
        Ok(())
    }
}

/// A tensor of the file and where its rows come from.
#[derive(Debug)]
struct Tensor<'a> {
    info: TensorInfo,
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    /// A parameter of the folder; with a number of heads, its rows are put into llama.cpp's order.
    Folder(&'a TensorSpec, Option<usize>),
    Values(Vec<f32>),
}

/// llama.cpp's name of a Hugging Face parameter.
fn name(parameter: &str) -> String {
    const WHOLE: [(&str, &str); 3] = [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    const IN_LAYER: [(&str, &str); 9] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    if let Some((_, name)) = WHOLE.iter().find(|(ours, _)| *ours == parameter) {
        return (*name).to_owned();
    }
    let (layer, rest) = parameter
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
        .expect("a model folder holds the parameters of a Llama and no others");
    let (_, name) = IN_LAYER
        .iter()
        .find(|(ours, _)| rest.strip_suffix(".weight") == Some(ours))
        .expect("a model folder holds the parameters of a Llama and no others");
    format!("blk.{layer}.{name}.weight")
}

/// The heads of a projection whose channels turn; none for other parameters.
fn rotated_heads(config: &LlamaConfig, parameter: &str) -> Option<usize> {
    if parameter.ends_with("q_proj.weight") {
        Some(config.num_attention_heads)
    } else if parameter.ends_with("k_proj.weight") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}

/// Hugging Face turns channel i with channel i + D/2, llama.cpp 2i with 2i + 1: the row of the folder that becomes `row`.
fn rotated_row(row: usize, head_dim: usize) -> usize {
    let (head, channel) = (row / head_dim, row % head_dim);
    head * head_dim + (channel % 2) * (head_dim / 2) + channel / 2
}

/// What llama.cpp divides each frequency by, `[head_dim / 2]`; none where it needs no list.
fn frequency_divisors(config: &LlamaConfig) -> Option<Vec<f32>> {
    let Rope::Llama3 { theta, .. } = config.rope else { return None };
    let plain = Rope::Plain { theta }.inverse_frequencies(config.head_dim);
    let scaled = config.rope.inverse_frequencies(config.head_dim);
    Some(plain.iter().zip(scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::rotated_row;

    #[test]
    fn turning_pairs_become_neighbours() {
        let rows: Vec<usize> = (0..16).map(|row| rotated_row(row, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
