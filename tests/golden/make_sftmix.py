#!/usr/bin/env python3
"""What transformers and autograd make of one SFTMix step in float64, on checkpoints of this folder.

    python3 tests/golden/make_sftmix.py        # the set-up of make_golden.py; rewrites sftmix.json and cases/sftmix.*

The chosen answers of batch mixed6, with given confidences and mixing weights. The three rows of least confidence are unconfident,
the others confident; the i-th of one half is mixed with the i-th of the other, in the order of the file:

    L = -mean over chosen tokens of log p  -  mu mean over mixed tokens of  k log p(y_c | H~) + (1 - k) log p(y_u | H~)
    H~ = k H_c + (1 - k) H_u

H: what the model hands to lm_head, at the positions that predict the answers' tokens, cut to the shorter answer. Only these
lines are written here; the model is LlamaForCausalLM, the gradients are autograd's. Rows are run one by one, without padding.

    sftmix.json                             confidences, weights, mu, and per checkpoint the losses, and how far from them and from
                                            the gradients PyTorch is in bf16
    cases/sftmix.CHECKPOINT.safetensors     grad.PARAMETER f32, rounded from f64
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from make_golden import float64_model, load, relative_l2

HERE = Path(__file__).parent
CHECKPOINTS = ["gqa-llama3", "mqa-linear-tied"]
CONFIDENCE = [-3.5, -1.25, -7.0, -2.0, -40.0, -1.25]
# Multiples of 2^-24, so that they and what is left of 1 are exact in f32.
WEIGHTS = [0.3125, 0.9375, 0.0625]
MU = 0.75


def pairs():
    order = sorted(range(len(CONFIDENCE)), key=lambda row: CONFIDENCE[row])
    half = len(order) // 2
    return list(zip(sorted(order[half:]), sorted(order[:half])))


def losses(model, rows, mu):
    hidden, targets = [], []
    for row in rows:
        prompt, answer = row["prompt_input_ids"], row["chosen_input_ids"]
        states = model.model(input_ids=torch.tensor([prompt + answer]), use_cache=False).last_hidden_state[0]
        hidden.append(states[len(prompt) - 1:-1])
        targets.append(torch.tensor(answer))
    log_softmax = lambda h: F.log_softmax(model.lm_head(h).to(torch.promote_types(h.dtype, torch.float32)), -1)
    log_p = [log_softmax(h).gather(-1, y[:, None])[:, 0] for h, y in zip(hidden, targets)]
    nll = -torch.cat(log_p).mean()
    terms = []
    for (c, u), k in zip(pairs(), WEIGHTS):
        n = min(len(targets[c]), len(targets[u]))
        mixed = k * hidden[c][:n] + (1 - k) * hidden[u][:n]
        soft = k * F.one_hot(targets[c][:n], model.config.vocab_size) \
            + (1 - k) * F.one_hot(targets[u][:n], model.config.vocab_size)
        terms.append((soft * log_softmax(mixed)).sum(-1))
    mix = -torch.cat(terms).mean()
    return nll + mu * mix, nll, mix


def main():
    rows = [json.loads(line) for line in (HERE / "batches/mixed6.jsonl").read_text().splitlines()]
    report = {"batch": "batches/mixed6.jsonl", "confidence": CONFIDENCE, "weights": WEIGHTS, "mu": MU, "pairs": pairs(),
              "cases": []}
    for name in CHECKPOINTS:
        with float64_model():
            model = load(HERE / "checkpoints" / name, torch.float64)
            loss, nll, mix = losses(model, rows, MU)
            loss.backward()
        low = load(HERE / "checkpoints" / name, torch.bfloat16)
        low_loss, _, _ = losses(low, rows, MU)
        low_loss.backward()
        both = [(q.grad.double().flatten(), p.grad.flatten()) for q, p in zip(low.parameters(), model.parameters())]
        bf16 = {"loss_abs": abs(low_loss.item() - loss.item()),
                "max_relative_l2": max(relative_l2(got, exact) for got, exact in both),
                "min_cosine": min(F.cosine_similarity(got, exact, dim=0).item() for got, exact in both)}
        gradients = {f"grad.{key}": p.grad.float().contiguous() for key, p in model.named_parameters()}
        save_file(gradients, HERE / "cases" / f"sftmix.{name}.safetensors")
        report["cases"].append({"checkpoint": f"checkpoints/{name}", "file": f"cases/sftmix.{name}.safetensors",
                                "loss": loss.item(), "nll": nll.item(), "mix": mix.item(), "bf16": bf16})
    (HERE / "sftmix.json").write_text(json.dumps(report, indent=1) + "\n")


main()
