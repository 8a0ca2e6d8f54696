"""How far PyTorch under bf16 autocast is from the goldens' f64: what `--dtype bf16` on the CPU is held to.

Weights, AdamW and gradients of weights are f32; `torch.autocast("cpu", torch.bfloat16)` rounds the operands of matrix products,
attention's among them, and their results; log-probs are formed in f32. Reads and writes what `make_bf16.py` does, but for the
name: `autocast.json`.

    python3 tests/golden/make_autocast.py
"""

import json

import torch

torch.set_num_threads(1)
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

from make_bf16 import HERE, score
from make_golden import HYPER, load, objectives, relative_l2


def autocast_score(model, pairs):
    with torch.autocast("cpu", torch.bfloat16):
        return score(model, pairs)


def train(policy, reference, pairs, objective):
    h = HYPER
    model = load(policy, torch.float32).train()
    frozen = load(reference, torch.float32) if reference else None
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": h["weight_decay"]},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=h["learning_rate"], betas=(h["adam_beta1"], h["adam_beta2"]), eps=h["adam_epsilon"])
    schedule = get_cosine_schedule_with_warmup(optimizer, h["warmup_steps"], h["max_steps"])
    steps = []
    for step in range(h["max_steps"]):
        first = step * h["pairs_per_step"] % len(pairs)
        batch = pairs[first : first + h["pairs_per_step"]]
        with torch.no_grad():
            ref = autocast_score(frozen, batch) if frozen is not None else None
        loss = objectives(autocast_score(model, batch), ref)[0][objective]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, h["max_grad_norm"])
        steps.append((loss.item(), norm.item()))
        optimizer.step()
        schedule.step()
    return steps


def main():
    manifest = json.loads((HERE / "manifest.json").read_text())
    path = lambda kind, name: HERE / manifest[kind][name]["path"]
    read = lambda name: [json.loads(line) for line in path("batches", name).read_text().splitlines()]
    runs, cases = [], []
    for run in manifest["runs"]:
        reference = path("checkpoints", run["reference"]) if run["reference"] else None
        steps = train(path("checkpoints", run["checkpoint"]), reference, read(run["batch"]), run["objective"])
        off = [abs(loss - exact["loss"]) for (loss, _), exact in zip(steps, run["steps"])]
        norms = [abs(norm / exact["grad_norm"] - 1) for (_, norm), exact in zip(steps, run["steps"])]
        runs.append({"checkpoint": run["checkpoint"], "objective": run["objective"], "loss_max_abs": max(off),
                     "loss_mean_abs": sum(off) / len(off), "grad_norm_max_relative": max(norms)})
        print(runs[-1], flush=True)
    for case in manifest["cases"]:
        pairs, exact = read(case["batch"]), load_file(HERE / case["file"])
        model = load(path("checkpoints", case["checkpoint"]), torch.float32)
        reference = case["reference"]
        with torch.no_grad():
            ref = autocast_score(load(path("checkpoints", reference), torch.float32), pairs) if reference else None
        scores = autocast_score(model, pairs)
        losses, _ = objectives(scores, ref)
        names, parameters = zip(*model.named_parameters())
        gradients = {}
        for objective in case["gradients_stored"]:
            got = torch.autograd.grad(losses[objective], parameters, retain_graph=True)
            pair = [(g.double().flatten(), exact[f"grad.{objective}.{n}"].double().flatten()) for n, g in zip(names, got)]
            gradients[objective] = {
                "max_relative_l2": max(relative_l2(g, e) for g, e in pair),
                "min_cosine": min(torch.nn.functional.cosine_similarity(g, e, dim=0).item() for g, e in pair)}
        off = (scores["token_logps_all"] - exact["token_logps_all"]).abs().max().item()
        cases.append({"file": case["file"], "token_logps_max_abs": off, "gradients": gradients})
        print(cases[-1], flush=True)
    made = {"made_by": "make_autocast.py", "versions": {"torch": torch.__version__}, "runs": runs, "cases": cases}
    (HERE / "autocast.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
