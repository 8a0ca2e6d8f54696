"""How far PyTorch in bf16 is from the goldens' f64: what an engine in bf16 is held to.

Mixed precision as trainers do it: the model runs in bf16, AdamW works on f32 master weights from which the bf16 ones are
rounded after every update, gradients are widened to f32, log-probs are formed in f32 from bf16 logits. Reads `manifest.json` and
what lies beside it (see `make_golden.py` for the set-up: torch, transformers, safetensors on a CPU) and writes `bf16.json`:
per run the largest and the mean distance of its losses and the largest relative distance of its gradient norms; per case the
largest distance of a log-prob, and per objective the largest relative L2 distance and the smallest cosine of a gradient tensor.

    python3 tests/golden/make_bf16.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

from make_golden import HYPER, load, objectives, relative_l2

HERE = Path(__file__).parent


def score(model, pairs):
    import make_golden
    ids, real, answer = make_golden.collate(pairs)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits.float()
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    real, answer = real[:, 1:].to(logps), answer[:, 1:].to(logps)
    total, length = (logps * answer).sum(1), answer.sum(1)
    return {"token_logps_all": logps * real, "real": real, "seq_sum": total, "seq_mean": total / length, "seq_len": length}


def train(policy, reference, pairs, objective):
    h = HYPER
    model, master = load(policy, torch.bfloat16).train(), load(policy, torch.float32)
    frozen = load(reference, torch.bfloat16) if reference else None
    stored, exact = list(model.parameters()), list(master.parameters())
    groups = [{"params": [p for p in exact if p.ndim >= 2], "weight_decay": h["weight_decay"]},
              {"params": [p for p in exact if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=h["learning_rate"], betas=(h["adam_beta1"], h["adam_beta2"]), eps=h["adam_epsilon"])
    schedule = get_cosine_schedule_with_warmup(optimizer, h["warmup_steps"], h["max_steps"])
    steps = []
    for step in range(h["max_steps"]):
        first = step * h["pairs_per_step"] % len(pairs)
        batch = pairs[first : first + h["pairs_per_step"]]
        with torch.no_grad():
            ref = score(frozen, batch) if frozen is not None else None
        loss = objectives(score(model, batch), ref)[0][objective]
        model.zero_grad()
        loss.backward()
        for p, q in zip(stored, exact):
            q.grad = p.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(exact, h["max_grad_norm"])
        steps.append((loss.item(), norm.item()))
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for p, q in zip(stored, exact):
                p.copy_(q)
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
        print(runs[-1])
    for case in manifest["cases"]:
        policy = path("checkpoints", case["checkpoint"])
        pairs, exact = read(case["batch"]), load_file(HERE / case["file"])
        model = load(policy, torch.bfloat16)
        with torch.no_grad():
            ref = score(load(path("checkpoints", case["reference"]), torch.bfloat16), pairs) if case["reference"] else None
        scores = score(model, pairs)
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
        print(cases[-1])
    text = json.dumps({"made_by": "make_bf16.py", "versions": {"torch": torch.__version__}, "runs": runs, "cases": cases}, indent=1)
    (HERE / "bf16.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
