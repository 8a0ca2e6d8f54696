"""Makes `model/`, a small Llama folder, and what llama.cpp's own package makes of it: `f32.gguf`, `f16.gguf`,
`bf16.gguf`, `q8_0.gguf`. tests/checkpoint/gguf.rs compares `asft export gguf` with them byte for byte.

The container and the number formats are written by the package `gguf`; the names of the tensors come from its
TensorNameMap; the order of the rotary channels and the frequency divisors are those of llama.cpp's
convert_hf_to_gguf.py (LlamaModel.permute, LlamaModel.generate_extra_tensors).

    python -m venv venv && venv/bin/pip install gguf==0.19.0 numpy safetensors ml_dtypes
    venv/bin/python tests/checkpoint/gguf/make_gguf.py
"""

import json
import math
import shutil
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
MODEL = HERE / "model"
TOKENIZER = HERE.parents[1] / "data/golden/folder"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 424,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 64},
    "bos_token_id": 413, "eos_token_id": [414, 417], "torch_dtype": "bfloat16",
}
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG["num_hidden_layers"])
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def parameters():
    h, f, v, d = (CONFIG[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    q, k = CONFIG["num_attention_heads"] * d, CONFIG["num_key_value_heads"] * d
    yield "model.embed_tokens.weight", (v, h)
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, shape in [
            ("input_layernorm", (h,)), ("self_attn.q_proj", (q, h)), ("self_attn.k_proj", (k, h)),
            ("self_attn.v_proj", (k, h)), ("self_attn.o_proj", (h, q)), ("post_attention_layernorm", (h,)),
            ("mlp.gate_proj", (f, h)), ("mlp.up_proj", (f, h)), ("mlp.down_proj", (h, f)),
        ]:
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (v, h)


def make_model():
    shutil.rmtree(MODEL, ignore_errors=True)
    MODEL.mkdir()
    (MODEL / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    random = np.random.default_rng(2026)
    tensors = {}
    for name, shape in parameters():
        values = random.standard_normal(shape) * 0.05 + ("norm" in name)
        tensors[name] = values.astype(ml_dtypes.bfloat16)
    # A block of zeros, and codes that lie half way between two.
    tensors["lm_head.weight"][3] = 0
    tensors["lm_head.weight"][4] = (np.arange(32) * 0.5 - 8 + 135 * (np.arange(32) == 31)).astype(ml_dtypes.bfloat16)
    save_file(tensors, MODEL / "model.safetensors", metadata={"format": "pt"})


def permute(weights, heads):
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape))


def divisors():
    scaling, dim = CONFIG["rope_scaling"], CONFIG["head_dim"]
    low, high, old = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["original_max_position_embeddings"]
    result = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * CONFIG["rope_theta"] ** (i / dim)
        if wavelength < old / high:
            result.append(1.0)
        elif wavelength > old / low:
            result.append(scaling["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            result.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(result, dtype=np.float32)


def add_keys(writer, file_type):
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("tiny")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(CONFIG["vocab_size"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_rope_dimension_count(CONFIG["head_dim"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_key_length(CONFIG["head_dim"])
    writer.add_value_length(CONFIG["head_dim"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])


def add_vocabulary(writer):
    file = json.loads((TOKENIZER / "tokenizer.json").read_text())
    config = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    tokens = [f"[PAD{id}]" for id in range(CONFIG["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for token, id in file["model"]["vocab"].items():
        tokens[id], types[id] = token, gguf.TokenType.NORMAL
    for token in file["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]], types[token["id"]] = token["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # The package's own reading of merges, special tokens, BOS and template.
    vocabulary = gguf.SpecialVocab(TOKENIZER, load_merges=True, n_vocab=len(tokens))
    print("special tokens as the package reads them:", vocabulary.special_token_ids, vocabulary.add_special_token)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.special_token_ids["bos"])
    writer.add_eos_token_id(vocabulary.special_token_ids["eos"])
    writer.add_add_bos_token(vocabulary.add_special_token["bos"])
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
    else:
        assert "chat_template" not in config


def write(name):
    kind, file_type = TYPES[name]
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "llama")
    add_keys(writer, file_type)
    add_vocabulary(writer)
    writer.add_tensor("rope_freqs.weight", divisors())
    tensors = load_file(MODEL / "model.safetensors")
    for parameter, shape in parameters():
        values = tensors[parameter].astype(np.float32)
        if parameter.endswith("q_proj.weight"):
            values = permute(values, CONFIG["num_attention_heads"])
        if parameter.endswith("k_proj.weight"):
            values = permute(values, CONFIG["num_key_value_heads"])
        own = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else kind
        if own == gguf.GGMLQuantizationType.Q8_0 and shape[-1] % 32 != 0:
            own = gguf.GGMLQuantizationType.F16
        data = gguf.quants.quantize(values, own)
        writer.add_tensor(NAMES.get_name(parameter, try_suffixes=(".weight",)), data, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


make_model()
for name in TYPES:
    write(name)
