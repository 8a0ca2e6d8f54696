#!/usr/bin/env python3
"""Makes every other file of this folder: small Llama checkpoints, preference batches, and what
Hugging Face transformers computes from them in float64.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python tests/golden/make_golden.py              # rewrites the folder it lies in, under a minute
    venv/bin/python tests/golden/make_golden.py --out DIR    # or another one, to compare

Nothing in the Rust project needs Python: the files are committed, and this script is here so that anybody
can see where each number comes from and make it again.

What is computed, and by whom. The model is transformers' own `LlamaForCausalLM` (eager attention), the
gradients are autograd's, the optimizer, the clipping and the schedule are `torch.optim.AdamW`,
`clip_grad_norm_` and `get_cosine_schedule_with_warmup`. Only the losses are written here. transformers
forces float32 in three places (RMSNorm, attention softmax, RoPE tables); `float64_model` lifts them, and the
RoPE frequencies are computed in float64, so that the stored numbers carry no float32 error at all. The same
computation in plain float32, unpatched, is run beside it and its distance is written into the manifest: that
is what a good float32 engine may be expected to reach.

Files:
    manifest.json              everything with its path: checkpoints, batches, cases, runs, generations, hyper-parameters,
                               and for each the measured float32-to-float64 distance
    checkpoints/NAME/          Hugging Face folders
    batches/NAME.jsonl         pre-tokenised pairs: prompt_input_ids, chosen_input_ids, rejected_input_ids
    cases/CHECKPOINT.BATCH.safetensors
        rows 0..B-1 are the chosen sequences (prompt + answer), B..2B-1 the rejected ones, right padded; T is the longest.
        token_logps_all [2B, T-1] f64   position t scores token t+1, prompt tokens too; 0 where that is padding
        seq_sum, seq_mean, seq_len [2B] f64     over the answer's tokens only
        ref.token_logps_all, ref.seq_sum        the same of the reference model
        per_pair.* [B] f64, loss.OBJECTIVE [1] f64
        grad.OBJECTIVE.PARAMETER f32            rounded from f64; tied models: only model.embed_tokens.weight
    runs/CHECKPOINT.BATCH.safetensors
        train_final.OBJECTIVE.PARAMETER f32     the weights after the last step
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import safetensors
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup
from transformers.models.llama import modeling_llama

HYPER = {
    "asft_lambda": 0.5,
    "asft_beta": 0.7,
    "orpo_lambda": 0.1,
    "dpo_beta": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
    "weight_decay_on": "parameters of two or more dimensions",
    "max_grad_norm": 1.0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "max_steps": 20,
    "pairs_per_step": 4,
    "order": "sequential, starting over at the end of the batch file",
}

OBJECTIVES = {
    "sft_token_mean": "-mean of log p over all chosen answer tokens of the batch",
    "sft_seq_mean": "-mean over pairs of the chosen answer's mean log p",
    "sft_full_token_mean": "-mean of log p over all chosen tokens but the first, prompt included",
    "asft": "sft_seq_mean + lambda * mean(-w - log(1 - exp(l))); w, l: mean log p of the chosen, rejected answer",
    "asft_token_mean_sft": "the same with sft_token_mean",
    "asft_beta": "sft_seq_mean + lambda * mean(softplus(-beta o(w)) + softplus(beta o(l))); o(a) = a - log(1 - exp(a))",
    "orpo_trl": "sft_full_token_mean - lambda * mean(logsigmoid(o(w) - o(l)))",
    "orpo_completion_nll": "the same with sft_token_mean",
    "orpo_seq_nll": "the same with sft_seq_mean",
    "dpo": "mean(softplus(-beta d)); d = (sum log p - sum log p_ref) of chosen minus rejected",
}

# A checkpoint is what its config says; the rest of each entry is about how it is stored. `rope` is in the words of the
# old layout (`rope_scaling`), which is what real Llama-3.x folders carry. original_max_position_embeddings is short, so
# that kept, blended and divided frequencies all occur and matter at the lengths of the batches.
LLAMA3_SHORT = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CHECKPOINTS = {
    "gqa-llama3": dict(
        note="GQA 4/2, head_dim 16 where hidden/heads is 8, untied, llama3 RoPE, several end-of-sequence ids",
        sizes=dict(hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                   vocab_size=96),
        rope=LLAMA3_SHORT, theta=500000.0, tied=False, eos=[2, 3], dtype=torch.float32, reference=True),
    "mqa-linear-tied": dict(
        note="MQA 2/1, no head_dim key, tied, linear RoPE with the old key `type`",
        sizes=dict(hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, vocab_size=96),
        rope={"type": "linear", "factor": 2.0}, theta=10000.0, tied=True, eos=2, dtype=torch.float32, reference=True),
    "mha-bf16-v5": dict(
        note="MHA 2/2, untied, bfloat16, no RoPE scaling, config.json as transformers 5 writes it",
        sizes=dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=2, vocab_size=96),
        rope=None, theta=500000.0, tied=False, eos=2, dtype=torch.bfloat16, layout="v5"),
    "gqa-f16-sharded-tied": dict(
        note="GQA 4/2, head_dim 16 where hidden/heads is 12, tied, float16 in shards with an index, rms_norm_eps 1e-6",
        sizes=dict(hidden_size=48, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                   vocab_size=128, rms_norm_eps=1e-6),
        rope={**LLAMA3_SHORT, "factor": 32.0, "original_max_position_embeddings": 48}, theta=500000.0, tied=True, eos=2,
        dtype=torch.float16, max_shard_size="24KB"),
    "memorised": dict(
        note="MQA 2/1, untied, trained on batch mixed6 until some answers have probability 0.99",
        sizes=dict(hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, vocab_size=96),
        rope=LLAMA3_SHORT, theta=500000.0, tied=False, eos=2, dtype=torch.float32, memorise=True),
}

# (checkpoint, batch, objectives whose gradients are stored). Losses and log-probs of all objectives are always stored;
# gradients are most of the bytes, so all ten are stored once and the others where the checkpoint makes a difference.
CASES = [
    ("mqa-linear-tied", "mixed6", list(OBJECTIVES)),
    ("mqa-linear-tied", "edges4", []),
    ("mqa-linear-tied", "long2", []),
    ("gqa-llama3", "mixed6", ["asft", "dpo"]),
    ("gqa-llama3", "edges4", []),
    ("gqa-llama3", "long2", []),
    ("mha-bf16-v5", "mixed6", ["sft_full_token_mean"]),
    ("mha-bf16-v5", "long2", []),
    ("gqa-f16-sharded-tied", "mixed6", []),
    ("gqa-f16-sharded-tied", "long2", []),
    ("memorised", "mixed6", ["asft", "asft_beta"]),
]

# (checkpoint, objective, whether the final weights are stored)
RUNS = [
    ("mqa-linear-tied", "asft", True),
    ("mqa-linear-tied", "sft_token_mean", True),
    ("mqa-linear-tied", "orpo_trl", True),
    ("mqa-linear-tied", "dpo", True),
    ("gqa-llama3", "asft", True),
    ("gqa-llama3", "sft_token_mean", False),
    ("gqa-llama3", "orpo_trl", False),
    ("gqa-llama3", "dpo", False),
]
RUN_BATCH = "train12"


GENERATION_PROMPTS = [[1, 20, 21, 22], [1, 77, 5, 40, 66, 9, 31, 50, 12]]


# --- Checkpoints -------------------------------------------------------------------------------------------------------

def new_parameters(scaling, theta):
    """The old layout's `rope_scaling` and `rope_theta` in transformers 5's terms."""
    scaling = dict(scaling or {"rope_type": "default"})
    if "type" in scaling:
        scaling["rope_type"] = scaling.pop("type")
    return {**scaling, "rope_theta": theta}


def random_model(spec, seed):
    config = LlamaConfig(
        num_hidden_layers=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=spec["eos"], hidden_act="silu",
        attention_bias=False, mlp_bias=False, tie_word_embeddings=spec["tied"],
        rope_parameters=new_parameters(spec["rope"], spec["theta"]), **{"rms_norm_eps": 1e-5, **spec["sizes"]})
    model = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * noise)  # norm weights away from 1, or a missing one would not show
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(0.15 * noise)
            elif "q_proj" in name or "k_proj" in name:
                p.copy_(0.3 * noise)  # attention far from uniform
            else:
                p.copy_(0.15 * noise)
    return model


def rewrite_config(folder, spec):
    """transformers 5 writes `rope_parameters` and `dtype`; published Llama-3.x folders carry the older layout."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if spec.get("layout") != "v5":
        if "head_dim" not in spec["sizes"]:
            config.pop("head_dim", None)  # folders from before Llama 3.2 lack the key
        config.pop("rope_parameters")
        config.update(rope_theta=spec["theta"], rope_scaling=spec["rope"], torch_dtype=config.pop("dtype"),
                      transformers_version="4.43.0.dev0")
        config = dict(sorted(config.items()))
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_checkpoint(model, folder, spec):
    shutil.rmtree(folder, ignore_errors=True)
    shard = {"max_shard_size": spec["max_shard_size"]} if "max_shard_size" in spec else {}
    model.to(spec["dtype"]).save_pretrained(folder, **shard)
    probe = torch.arange(3, 90)[None]
    with torch.no_grad():
        before = load(folder, torch.float32)(probe).logits
        rewrite_config(folder, spec)
        after = load(folder, torch.float32)(probe).logits
    assert torch.equal(before, after), f"{folder}: config.json rewritten to something else"


def load(folder, dtype):
    """Weights widened exactly. Loaded as float32 and then cast, since a cast also reaches the RoPE table, which the float64
    path does not use."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.to(dtype).eval()


def memorise(model, batch):
    """Trains until the mean log-probs of `batch` are spread over (0, 0.99): near 1 both for chosen and rejected answers."""
    caps = torch.tensor([0.9, 0.5, 0.995, 0.3, 0.97, 0.8, 0.97, 0.6, 0.995, 0.6, 0.7, 0.05], dtype=torch.float64)
    steps = 2000
    with float64_model():
        model = model.double().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        schedule = get_cosine_schedule_with_warmup(optimizer, 0, steps)
        for _ in range(steps):
            mean = score(model, batch)["seq_mean"]
            below = mean.detach().exp() < caps
            if not below.any():
                break
            optimizer.zero_grad()
            (-(mean * below).sum()).backward()
            optimizer.step()
            schedule.step()
    return model.float()


def perturbed(model, seed):
    """A reference near its policy: log-ratios neither zero nor huge."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.03 * torch.randn(p.shape, generator=generator))
    return model


# --- transformers in float64 -------------------------------------------------------------------------------------------

def rope_frequencies(config):
    """The inverse frequencies in float64, from the published definitions (Su et al. 2021; Llama 3.1's scaling)."""
    p = config.rope_parameters
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = [p["rope_theta"] ** (-i / size) for i in range(0, size, 2)]
    if p["rope_type"] == "linear":
        plain = [f / p["factor"] for f in plain]
    elif p["rope_type"] == "llama3":
        low, high, old = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
        scaled = []
        for f in plain:
            turns = old * f / (2 * math.pi)  # how often this frequency turns within the original context
            keep = min(1.0, max(0.0, (turns - low) / (high - low)))
            scaled.append(keep * f + (1 - keep) * f / p["factor"])
        plain = scaled
    else:
        assert p["rope_type"] == "default", p
    return torch.tensor(plain, dtype=torch.float64)


class Float32IsFloat64:
    """Stands in for the module `torch` inside modeling_llama: its own code, with `torch.float32` meaning float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def float64_model():
    def rope_tables(self, x, position_ids):
        angles = position_ids[..., None].double() * rope_frequencies(self.config)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    rope = modeling_llama.LlamaRotaryEmbedding
    saved = modeling_llama.torch, rope.forward
    modeling_llama.torch, rope.forward = Float32IsFloat64(), rope_tables
    try:
        yield
    finally:
        modeling_llama.torch, rope.forward = saved


def precision(dtype):
    return float64_model() if dtype == torch.float64 else contextlib.nullcontext()


# --- Batches and losses ------------------------------------------------------------------------------------------------

def make_batches(folder):
    """Ids 4..95 everywhere, so that one batch fits every checkpoint; 1 opens a prompt, 2 closes an answer."""
    rng = random.Random(20240916)

    def ids(n):
        return [rng.randrange(4, 96) for _ in range(n)]

    def pair(prompt, chosen, rejected, shared=0):
        head = ids(shared)
        return {"prompt_input_ids": [1] + ids(prompt - 1),
                "chosen_input_ids": head + ids(chosen - 1 - shared) + [2],
                "rejected_input_ids": head + ids(rejected - 1 - shared) + [2]}

    batches = {
        # prompts from one token up, one-token answers on either side, answers with a common beginning
        "mixed6": [pair(7, 9, 14), pair(3, 13, 5, 2), pair(12, 6, 6, 5), pair(20, 1, 17), pair(1, 4, 1), pair(33, 11, 8)],
        # everything as short as it can be, and chosen == rejected
        "edges4": [pair(1, 1, 2), pair(2, 2, 1), pair(5, 3, 3, 2), pair(9, 8, 8, 7)],
        # prompt and answers beyond 64 tokens
        "long2": [pair(70, 30, 20, 10), pair(17, 40, 66)],
        "train12": [pair(rng.randrange(3, 12), rng.randrange(4, 20), rng.randrange(4, 20)) for _ in range(12)],
    }
    edge = batches["edges4"]
    edge[0]["chosen_input_ids"] = [17]
    edge[3]["rejected_input_ids"] = list(edge[3]["chosen_input_ids"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in batches.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return batches


def collate(pairs):
    rows = [p["prompt_input_ids"] + p[f"{side}_input_ids"] for side in ("chosen", "rejected") for p in pairs]
    prompts = [len(p["prompt_input_ids"]) for p in pairs] * 2
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real, answer = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (row, prompt) in enumerate(zip(rows, prompts)):
        ids[i, : len(row)] = torch.tensor(row)
        real[i, : len(row)] = 1
        answer[i, prompt : len(row)] = 1
    return ids, real, answer


def score(model, pairs):
    ids, real, answer = collate(pairs)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    real, answer = real[:, 1:].to(logps), answer[:, 1:].to(logps)
    total, length = (logps * answer).sum(1), answer.sum(1)
    return {"token_logps_all": logps * real, "real": real, "seq_sum": total, "seq_mean": total / length,
            "seq_len": length}


def log1mexp(a):
    """log(1 - e^a) for a < 0."""
    return torch.where(a > -math.log(2), torch.log(-torch.expm1(a)), torch.log1p(-torch.exp(a)))


def objectives(s, reference):
    """All losses of OBJECTIVES (without a reference: all but dpo), and the values per pair behind them."""
    pairs = s["seq_sum"].shape[0] // 2
    w, l = s["seq_mean"][:pairs], s["seq_mean"][pairs:]
    token_mean = -s["seq_sum"][:pairs].sum() / s["seq_len"][:pairs].sum()
    full_mean = -s["token_logps_all"][:pairs].sum() / s["real"][:pairs].sum()
    odds_w, odds_l = w - log1mexp(w), l - log1mexp(l)
    align = -w - log1mexp(l)
    beta = HYPER["asft_beta"]
    align_beta = F.softplus(-beta * odds_w) + F.softplus(beta * odds_l)
    ratio = F.logsigmoid(odds_w - odds_l)
    asft, orpo = HYPER["asft_lambda"], HYPER["orpo_lambda"]
    losses = {
        "sft_token_mean": token_mean,
        "sft_seq_mean": -w.mean(),
        "sft_full_token_mean": full_mean,
        "asft": -w.mean() + asft * align.mean(),
        "asft_token_mean_sft": token_mean + asft * align.mean(),
        "asft_beta": -w.mean() + asft * align_beta.mean(),
        "orpo_trl": full_mean - orpo * ratio.mean(),
        "orpo_completion_nll": token_mean - orpo * ratio.mean(),
        "orpo_seq_nll": -w.mean() - orpo * ratio.mean(),
    }
    per_pair = {"asft_align": align, "asft_align_beta": align_beta, "orpo_log_odds": odds_w - odds_l, "orpo_ratio": ratio}
    if reference is not None:
        margin = s["seq_sum"] - reference["seq_sum"]
        delta = margin[:pairs] - margin[pairs:]
        per_pair["dpo_delta"] = delta
        losses["dpo"] = F.softplus(-HYPER["dpo_beta"] * delta).mean()
    return losses, per_pair


# --- Cases, runs, generation -------------------------------------------------------------------------------------------

def compute_case(policy, reference, pairs, dtype):
    """Everything one preference batch gives: (scores, reference scores, losses, per-pair values, gradients)."""
    with precision(dtype):
        model = load(policy, dtype)
        ref = None
        if reference:
            with torch.no_grad():
                ref = score(load(reference, dtype), pairs)
        scores = score(model, pairs)
        losses, per_pair = objectives(scores, ref)
        names, parameters = zip(*model.named_parameters())
        gradients = {name: dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True)))
                     for name, loss in losses.items()}
    return scores, ref, losses, per_pair, gradients


def relative_l2(got, expected):
    expected = expected.double()
    return ((got.double() - expected).norm() / expected.norm()).item()


def float32_distance(low, high):
    """How far float32 PyTorch is from the stored numbers: what an engine in float32 can be held to."""
    return {
        "token_logps_max_abs": (low[0]["token_logps_all"] - high[0]["token_logps_all"]).abs().max().item(),
        "loss_max_abs": max(abs(low[2][n].item() - high[2][n].item()) for n in high[2]),
        "gradient_max_relative_l2": {
            n: max(relative_l2(low[4][n][p], g) for p, g in high[4][n].items()) for n in high[4]},
    }


def make_case(out, checkpoint, batch, pairs, stored_gradients):
    policy = out / "checkpoints" / checkpoint
    reference = policy.with_name(checkpoint + "-reference")
    reference = reference if reference.exists() else None
    high = compute_case(policy, reference, pairs, torch.float64)
    low = compute_case(policy, reference, pairs, torch.float32)
    scores, ref, losses, per_pair, gradients = high
    tensors = {k: scores[k].detach() for k in ("token_logps_all", "seq_sum", "seq_mean", "seq_len")}
    if ref is not None:
        tensors.update({f"ref.{k}": ref[k] for k in ("token_logps_all", "seq_sum")})
    tensors.update({f"per_pair.{k}": v.detach() for k, v in per_pair.items()})
    tensors.update({f"loss.{k}": v.detach().reshape(1) for k, v in losses.items()})
    for name in stored_gradients:
        tensors.update({f"grad.{name}.{p}": g.float() for p, g in gradients[name].items()})
    path = Path("cases") / f"{checkpoint}.{batch}.safetensors"
    (out / path).parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / path)
    return {
        "checkpoint": checkpoint, "reference": f"{checkpoint}-reference" if reference else None, "batch": batch,
        "file": str(path), "losses": {k: v.item() for k, v in losses.items()},
        "gradient_norms": {k: math.sqrt(sum(t.pow(2).sum().item() for t in g.values())) for k, g in gradients.items()},
        "gradients_stored": stored_gradients, "torch_float32_distance": float32_distance(low, high),
    }


def train(policy, reference, pairs, objective, dtype):
    h = HYPER
    with precision(dtype):
        model = load(policy, dtype).train()
        frozen = load(reference, dtype) if reference else None
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        plain = [p for p in model.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": h["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
            lr=h["learning_rate"], betas=(h["adam_beta1"], h["adam_beta2"]), eps=h["adam_epsilon"], foreach=False)
        schedule = get_cosine_schedule_with_warmup(optimizer, h["warmup_steps"], h["max_steps"])
        steps = []
        for step in range(h["max_steps"]):
            first = step * h["pairs_per_step"] % len(pairs)
            batch = pairs[first : first + h["pairs_per_step"]]
            ref = None
            if frozen is not None:
                with torch.no_grad():
                    ref = score(frozen, batch)
            loss = objectives(score(model, batch), ref)[0][objective]
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), h["max_grad_norm"])
            steps.append({"step": step + 1, "loss": loss.item(), "learning_rate": schedule.get_last_lr()[0],
                          "grad_norm": norm.item()})
            optimizer.step()
            schedule.step()
    return steps, {name: p.detach().clone() for name, p in model.named_parameters()}


def make_run(out, checkpoint, pairs, objective):
    policy = out / "checkpoints" / checkpoint
    reference = policy.with_name(checkpoint + "-reference") if objective == "dpo" else None
    steps, final = train(policy, reference, pairs, objective, torch.float64)
    low_steps, low_final = train(policy, reference, pairs, objective, torch.float32)
    entry = {
        "checkpoint": checkpoint, "reference": reference and reference.name, "batch": RUN_BATCH, "objective": objective,
        "steps": steps,
        "torch_float32_distance": {
            "loss_max_abs": max(abs(a["loss"] - b["loss"]) for a, b in zip(low_steps, steps)),
            "grad_norm_max_relative": max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(low_steps, steps)),
            "final_max_relative_l2": max(relative_l2(low_final[n], p) for n, p in final.items()),
            "final_max_abs": max((low_final[n] - p).abs().max().item() for n, p in final.items()),
        },
    }
    return entry, {f"train_final.{objective}.{n}": p.float().contiguous() for n, p in final.items()}


def make_generation(out, checkpoint, prompts, new_tokens=24):
    """Greedy continuation in float64 over the whole sequence each time: no cache to be wrong about. It ends with an
    end-of-sequence id or after `new_tokens`. Checked against `generate` in float32; the smallest gap between the two best
    logits says that rounding cannot change the answer."""
    folder = out / "checkpoints" / checkpoint
    eos = CHECKPOINTS[checkpoint]["eos"]
    eos = eos if isinstance(eos, list) else [eos]
    entries = []
    for prompt in prompts:
        ids, gap = list(prompt), math.inf
        with torch.no_grad(), float64_model():
            model = load(folder, torch.float64)
            for _ in range(new_tokens):
                best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
                gap = min(gap, (best.values[0] - best.values[1]).item())
                ids.append(best.indices[0].item())
                if ids[-1] in eos:
                    break
        continuation = ids[len(prompt) :]
        assert gap > 1e-3, f"{checkpoint}: a tie within {gap}; take another prompt"
        hf = load(folder, torch.float32).generate(
            torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)[0].tolist()
        assert hf == ids, f"{checkpoint}: generate() says {hf[len(prompt):]}, the loop {continuation}"
        entries.append({"checkpoint": checkpoint, "prompt": prompt, "continuation": continuation,
                        "ended_by": "eos" if continuation[-1] in eos else "max_new_tokens", "smallest_logit_gap": gap})
    return entries


def make_checkpoints(out, batches):
    table = {}
    for index, (name, spec) in enumerate(CHECKPOINTS.items()):
        folder = out / "checkpoints" / name
        model = random_model(spec, seed=100 + index)
        if spec.get("memorise"):
            model = memorise(model, batches["mixed6"])
        save_checkpoint(model, folder, spec)
        table[name] = {"path": f"checkpoints/{name}", "note": spec["note"], "dtype": str(spec["dtype"]).split(".")[1]}
        if spec.get("reference"):
            # bfloat16: half the bytes here, and policy and reference need not have the same dtype.
            ref = perturbed(load(folder, torch.float32), seed=200 + index)
            save_checkpoint(ref, folder.with_name(name + "-reference"), {**spec, "dtype": torch.bfloat16})
            table[name + "-reference"] = {
                "path": f"checkpoints/{name}-reference", "note": f"{name} plus noise, a reference for DPO",
                "dtype": "bfloat16"}
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)  # one order of summation: the same bits on every machine of one kind
    for part in ("checkpoints", "batches", "cases", "runs"):
        shutil.rmtree(out / part, ignore_errors=True)
    batches = make_batches(out / "batches")
    manifest = {
        "made_by": "make_golden.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "safetensors": safetensors.__version__},
        "hyper": HYPER,
        "objectives": OBJECTIVES,
        "batches": {name: {"path": f"batches/{name}.jsonl", "pairs": len(p)} for name, p in batches.items()},
        "checkpoints": make_checkpoints(out, batches),
    }
    manifest["cases"] = [make_case(out, c, b, batches[b], g) for c, b, g in CASES]
    manifest["runs"], finals = [], {}
    for checkpoint, objective, stored in RUNS:
        entry, final = make_run(out, checkpoint, batches[RUN_BATCH], objective)
        path = f"runs/{checkpoint}.{RUN_BATCH}.safetensors"
        entry["final_weights"] = path if stored else None
        if stored:
            finals.setdefault(path, {}).update(final)
        manifest["runs"].append(entry)
    (out / "runs").mkdir()
    for path, tensors in finals.items():
        save_file(tensors, out / path)
    learnt = [p["prompt_input_ids"] for p in batches["mixed6"][:2]]
    manifest["generations"] = [
        entry for name, spec in CHECKPOINTS.items()
        for entry in make_generation(out, name, learnt if spec.get("memorise") else GENERATION_PROMPTS)]
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
