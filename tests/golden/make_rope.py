"""Inverse frequencies of transformers' rotary embeddings (f32), for tests/checkpoint/config.rs.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0
    venv/bin/python tests/golden/make_rope.py > tests/golden/rope.json
"""

import json

import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CASES = [
    # hidden size, heads, head size, theta, scaling
    (256, 4, 64, 10000.0, None),
    (256, 4, 64, 500000.0, {"rope_type": "linear", "factor": 4.0}),
    (2048, 32, 64, 500000.0, LLAMA3 | {"factor": 32.0}),
    (4096, 32, 128, 500000.0, LLAMA3 | {"factor": 8.0}),
]

out = []
for hidden, heads, size, theta, scaling in CASES:
    text = {"model_type": "llama", "hidden_size": hidden, "num_attention_heads": heads, "head_dim": size,
            "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 131072,
            "rope_theta": theta, "rope_scaling": scaling}
    config = transformers.LlamaConfig.from_dict(json.loads(json.dumps(text)))
    out.append({"config": text, "inverse_frequencies": LlamaRotaryEmbedding(config).inv_freq.double().tolist()})
print(json.dumps({"transformers": transformers.__version__, "cases": out}))
