#!/usr/bin/env python3
"""Makes hft.json: twenty steps of Half Fine-Tuning (arXiv 2404.18466) as PyTorch takes them, in float64.

    venv/bin/python tests/golden/make_hft.py          # set up as make_golden.py says

The model is transformers', the optimizer one `torch.optim.AdamW` for the whole run. A frozen parameter has
`requires_grad = False`, so it has no gradient: AdamW passes it over, decay and step count included, and goes on with the
moments it had when it is learnt again. Which parameters a round freezes is drawn here once more from its definition
(src/train/half.rs), with the permutations of tests/data/golden/reference_order.py.
"""

import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "data" / "golden")]

import torch
from make_golden import HYPER, RUN_BATCH, load, objectives, precision, score
from reference_order import permutation
from transformers import get_cosine_schedule_with_warmup

CHECKPOINT, OBJECTIVE, SEED, STEPS_PER_ROUND = "gqa-llama3", "asft", 42, 3
KINDS = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
    ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    ["input_layernorm", "post_attention_layernorm"],
]


def frozen(layers, seed, round_):
    draw = lambda length, stream: permutation(length, seed, (1 << 62) + (round_ << 20) + stream)
    by_two = draw(layers, 0)[: layers // 2]
    names = []
    for layer in range(layers):
        counts = [2, 2 if layer in by_two else 1, 1]
        for kind, (parts, count) in enumerate(zip(KINDS, counts)):
            order = draw(len(parts), 3 * layer + kind + 1)
            names += [f"model.layers.{layer}.{parts[part]}.weight" for part in order[:count]]
    return sorted(names)


def train(pairs, dtype):
    h = HYPER
    with precision(dtype):
        model = load(HERE / "checkpoints" / CHECKPOINT, dtype).train()
        initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": h["weight_decay"]},
             {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
            lr=h["learning_rate"], betas=(h["adam_beta1"], h["adam_beta2"]), eps=h["adam_epsilon"], foreach=False)
        schedule = get_cosine_schedule_with_warmup(optimizer, h["warmup_steps"], h["max_steps"])
        steps, rounds = [], []
        for step in range(h["max_steps"]):
            if step % STEPS_PER_ROUND == 0:
                rounds.append(frozen(model.config.num_hidden_layers, SEED, step // STEPS_PER_ROUND))
                for name, p in model.named_parameters():
                    p.requires_grad = name not in rounds[-1]
            first = step * h["pairs_per_step"] % len(pairs)
            loss = objectives(score(model, pairs[first : first + h["pairs_per_step"]]), None)[0][OBJECTIVE]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], h["max_grad_norm"])
            steps.append({"loss": loss.item(), "learning_rate": schedule.get_last_lr()[0], "grad_norm": norm.item()})
            optimizer.step()
            schedule.step()
    moved = {name: (p.detach() - initial[name]).norm().item() for name, p in model.named_parameters()}
    return steps, rounds, moved


def main():
    torch.set_num_threads(1)
    lines = (HERE / "batches" / f"{RUN_BATCH}.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    steps, rounds, moved = train(pairs, torch.float64)
    low, _, low_moved = train(pairs, torch.float32)
    entry = {
        "made_by": "make_hft.py", "versions": {"torch": torch.__version__}, "checkpoint": CHECKPOINT, "batch": RUN_BATCH,
        "objective": OBJECTIVE, "seed": SEED, "steps_per_round": STEPS_PER_ROUND, "frozen": rounds, "steps": steps,
        "moved": moved,
        "torch_float32_distance": {
            "loss_max_abs": max(abs(a["loss"] - b["loss"]) for a, b in zip(low, steps)),
            "moved_max_relative": max(abs(low_moved[n] / m - 1) for n, m in moved.items()),
        },
    }
    assert all(math.isfinite(step["loss"]) for step in steps)
    (HERE / "hft.json").write_text(json.dumps(entry, indent=1) + "\n")


if __name__ == "__main__":
    main()
