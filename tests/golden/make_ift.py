#!/usr/bin/env python3
"""Golden values of IFT (arXiv 2405.11870) as the authors' code computes it: ift.json and ift.safetensors in this folder.

    venv/bin/python tests/golden/make_ift.py        # the set-up of make_golden.py, seconds

Written down again from the released algorithm (`src/trainers.py` of the authors' repository, branch `ift`) with autograd in
float64: a first pass without gradients, its argmax in place of every response token, `inputs_embeds` of (1 - lambda) E[x]
+ lambda E[argmax], and a second pass on which the tokens themselves are the targets. Discounted sums are products with a
matrix of powers of gamma, so neither the scans nor the derivatives of the program appear here. The model is transformers'
own LlamaForCausalLM, each sequence run alone.

    ift.json
        losses   log-probs of answers (f32 values), parameters, the mean loss of the step, d loss / d log-prob
        steps    one step of a checkpoint on a batch: parameters, loss; how many predictions are not the token itself, and the
                 smallest distance of a predicted logit from the second best, without which f32 might predict another
    ift.safetensors (f32, rounded from f64)
        CHECKPOINT.PARAMETER                          gradients with a live table, through both terms of the mix
        CHECKPOINT.frozen.model.embed_tokens.weight   tied: what is left where no gradient passes through the inputs
"""
import json
import random
import struct
from pathlib import Path

import torch
from make_golden import float64_model, load
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent
torch.set_default_dtype(torch.float64)
random.seed(2405)


def weights(losses, gamma):
    """Row t holds gamma^(j - t) for j >= t."""
    n = len(losses)
    powers = torch.arange(n)[None, :] - torch.arange(n)[:, None]
    return torch.where(powers >= 0, torch.tensor(gamma) ** powers.clamp(min=0), torch.tensor(0.0))


def sequence_loss(losses, propagation, gamma, detach):
    n = len(losses)
    if propagation == "none":
        return losses.mean()
    later = weights(losses, gamma) @ losses
    if propagation == "paper-linear":
        return later.sum()
    # Released: "L1" renormalises the weights to mean 1; their own 1/n cancels.
    c = later / n
    if detach:
        c = c.detach()
    w = n * c / c.sum()
    return (w * losses).mean()


FORMS = [
    {"ift_propagation": "released", "gamma": gamma, "ift_detach_weights": detach}
    for gamma in (0.95, 0.5, 0.0, 1.0) for detach in (False, True)
] + [{"ift_propagation": "paper-linear", "gamma": gamma} for gamma in (0.95, 0.0, 1.0)] + [{"ift_propagation": "none"}]


def loss_case(form):
    f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
    scales = [1e-7, 1e-3, 1.0, 50.0]
    draw = lambda: f32(-random.expovariate(1.0) * random.choice(scales) - 1e-9)
    answers = [[draw() for _ in range(n)] for n in (1, 2, 7, 40)]
    leaves = [torch.tensor(answer, requires_grad=True) for answer in answers]
    losses = [sequence_loss(-leaf, form["ift_propagation"], form.get("gamma", 0.95), form.get("ift_detach_weights", False))
              for leaf in leaves]
    loss = torch.stack(losses).mean()
    loss.backward()
    return {"parameters": form, "answers": answers, "loss": loss.item(), "slopes": [leaf.grad.tolist() for leaf in leaves]}


def step(model, pairs, mixed, propagation, gamma, live):
    """One step: loss, gradients, predictions that are not the token, the smallest distance of two best logits."""
    model.zero_grad(set_to_none=True)
    table = model.model.embed_tokens.weight
    losses, other, margin = [], 0, float("inf")
    for pair in pairs:
        prompt, chosen = pair["prompt_input_ids"], pair["chosen_input_ids"]
        ids = torch.tensor(prompt + chosen)
        response = torch.arange(len(ids)) >= len(prompt)
        with torch.no_grad():
            logits = model(inputs_embeds=table[ids][None]).logits[0]
        predicted = torch.cat([ids[:1], logits[:-1].argmax(-1)])
        predicted = torch.where(response, predicted, ids)
        best = logits[:-1].topk(2).values[response[1:]]
        margin = min(margin, (best[:, 0] - best[:, 1]).min().item())
        other += (predicted != ids).sum().item()
        source = table if live else table.detach()
        inputs = (1 - mixed) * source[ids] + mixed * source[predicted]
        logits = model(inputs_embeds=inputs[None]).logits[0]
        logp = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        losses.append(sequence_loss(-logp[response[1:]], propagation, gamma, False))
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, other, margin


def main():
    tensors, steps = {}, []
    for checkpoint, batch in [("gqa-llama3", "mixed6"), ("mqa-linear-tied", "mixed6")]:
        pairs = [json.loads(line) for line in (FOLDER / f"batches/{batch}.jsonl").read_text().splitlines()]
        with float64_model():
            model = load(FOLDER / "checkpoints" / checkpoint, torch.float64)
            for mixed, propagation in [(0.2, "released"), (0.2, "paper-linear"), (0.2, "none"), (0.7, "released")]:
                loss, gradients, other, margin = step(model, pairs, mixed, propagation, 0.95, True)
                assert other > 20 and margin > 1e-4, (checkpoint, other, margin)
                stored = (mixed, propagation) == (0.2, "released")
                steps.append({"checkpoint": checkpoint, "batch": batch, "parameters":
                              {"lambda": mixed, "gamma": 0.95, "ift_propagation": propagation}, "loss": loss,
                              "other_predictions": other, "smallest_margin": margin, "gradients": stored})
                if not stored:
                    continue
                tensors.update({f"{checkpoint}.{name}": gradient.float() for name, gradient in gradients.items()})
                _, frozen, _, _ = step(model, pairs, mixed, propagation, 0.95, False)
                name = "model.embed_tokens.weight"
                tied = frozen.pop(name, None)
                assert all(torch.equal(gradients[other], value) for other, value in frozen.items())
                assert (tied is not None) == model.config.tie_word_embeddings
                if tied is not None:
                    tensors[f"{checkpoint}.frozen.{name}"] = tied.float()
    save_file(tensors, FOLDER / "ift.safetensors")
    document = {"losses": [loss_case(form) for form in FORMS], "steps": steps}
    lines = lambda cases: "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"
    (FOLDER / "ift.json").write_text(
        "{\n" + ",\n".join(f'"{key}": {lines(cases)}' for key, cases in document.items()) + "\n}\n")


if __name__ == "__main__":
    main()
