#!/usr/bin/env python3
"""Golden values of the objectives from TRL's own code: loss, derivative for every token, metrics.

    python3 tests/objective/golden/make_trl.py > tests/objective/golden/trl.json      (trl 1.16.0, torch, CPU, seconds)

TRL's methods are called as they are, on trainers that were never initialised and "models" that hand out log-probs which
are leaves of the graph: `DPOTrainer._compute_loss`, `KTOTrainer._compute_loss`, `TPOTrainer._compute_loss`, and
`get_batch_loss_metrics` of ORPO's and CPO's trainers. Where a trainer wants logits it gets two per token, log p and
log(1 - p), whose log-softmax is log p again, with derivative 1. All in f64, except where TRL itself casts to f32.

Every log-prob that is given is an f32, so that a reader has it exactly.
"""
import json
import random
import struct
import warnings
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace as Space

import torch
import trl
import trl.trainer.dpo_trainer as dpo_module
import trl.trainer.kto_trainer as kto_module
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.tpo import TPOTrainer

warnings.simplefilter("ignore")
assert trl.__version__ == "1.16.0", trl.__version__
torch.set_default_dtype(torch.float64)
random.seed(16)
KEEP = ("rewards/", "logps/", "kl", "nll_loss", "log_odds")


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def logps(length, scale=2.0):
    return [f32(-random.expovariate(1 / scale) - 1e-3) for _ in range(length)]


def accelerator():
    same = lambda x: x
    return Space(device=torch.device("cpu"), gather=same, gather_for_metrics=same, num_processes=1)


def bare(cls, **attributes):
    """A trainer that was never initialised."""
    trainer = cls.__new__(cls)
    trainer.__dict__.update(
        model=Space(training=True, is_gradient_checkpointing=False), accelerator=accelerator(),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        aux_loss_enabled=False, **attributes)
    return trainer


class Padded:
    """Rows of token lists, right-padded behind a prompt of one token, as leaves of the graph."""

    def __init__(self, rows):
        self.lengths = [len(row) for row in rows]
        width = max(self.lengths)
        self.values = torch.tensor([row + [0.0] * (width - len(row)) for row in rows], requires_grad=True)
        self.mask = torch.tensor([[1] * n + [0] * (width - n) for n in self.lengths])

    def log_probs(self):
        return self.values * self.mask

    def completion_mask(self):
        return torch.cat([torch.zeros(len(self.lengths), 1, dtype=torch.long), self.mask], 1)

    def input_ids(self):
        return torch.zeros(self.mask.shape[0], self.mask.shape[1] + 1, dtype=torch.long)

    def slopes(self):
        grad = self.values.grad if self.values.grad is not None else torch.zeros_like(self.values)
        return [grad[i, :n].tolist() for i, n in enumerate(self.lengths)]


def outputs(padded, squares=None):
    zero = torch.zeros_like(padded.values)
    return Space(log_probs=padded.log_probs(), entropy=zero, mean_logits=zero, is_top1=zero.bool(),
                 log_sum_sq_probs=zero if squares is None else squares, aux_loss=None)


def kept(metrics):
    return {k: float(v) for k, v in metrics.items() if k.startswith(KEEP)}


def group(**answers):
    return {"answers": answers}


def with_references(groups, spread=6.0):
    for g in groups:
        g["reference"] = {}
        for role, values in g["answers"].items():
            shift = random.uniform(-spread, spread) / len(values)
            g["reference"][role] = [f32(v + shift + random.gauss(0, 0.5)) for v in values]
    return groups


def case(objective, parameters, groups, loss, slopes, metrics):
    for g, s in zip(groups, slopes):
        g["slopes"] = s
    return {"objective": objective, "parameters": parameters, "groups": groups, "loss": float(loss),
            "metrics": metrics}


def pairs(count=5):
    return [group(chosen=logps(random.randint(1, 9)), rejected=logps(random.randint(1, 9))) for _ in range(count)]


# ----------------------------------------------------------------------------------------------- DPOTrainer

def dpo(objective, parameters, loss_types, loss_weights=None, wpo=False, count=5, **settings):
    groups = with_references(pairs(count))
    roles = ("chosen", "rejected")
    policy = Padded([g["answers"][r] for r in roles for g in groups])
    reference = Padded([g["reference"][r] for r in roles for g in groups])
    squares = None
    if wpo:
        squares = torch.tensor([[f32(-random.expovariate(1.0)) for _ in row] for row in policy.values.tolist()])
        for i, g in enumerate(groups):
            g["log_sum_squares"] = {r: squares[i + k * count, :len(g["answers"][r])].tolist()
                                    for k, r in enumerate(roles)}
    settings = dict(beta=0.1, label_smoothing=0.0, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
                    ld_alpha=None, tau=0.05) | settings
    trainer = bare(dpo_module.DPOTrainer, loss_types=loss_types, loss_weights=loss_weights or [1.0], use_weighting=wpo,
                   precompute_ref_logps=False, ref_model=lambda **_: outputs(reference), beta=settings["beta"],
                   label_smoothing=settings["label_smoothing"], ld_alpha=settings["ld_alpha"],
                   f_divergence_type=settings["f_divergence_type"],
                   f_alpha_divergence_coef=settings["f_alpha_divergence_coef"],
                   args=Space(gradient_checkpointing_kwargs=None, discopop_tau=settings["tau"]))
    inputs = {"input_ids": policy.input_ids(), "completion_mask": policy.completion_mask(),
              "attention_mask": torch.ones_like(policy.input_ids())}
    loss = trainer._compute_loss(lambda **_: outputs(policy, squares), inputs, False)
    loss.backward()
    slopes = policy.slopes()
    slopes = [{"chosen": slopes[i], "rejected": slopes[i + count]} for i in range(count)]
    metrics = {k: v[-1] for k, v in trainer._metrics["train"].items()}
    return case(objective, parameters, groups, loss, slopes, kept(metrics))


def dpo_cases():
    for beta in (0.1, 1.5):
        b = {"beta": beta}
        yield dpo("sigmoid", b, ["sigmoid"], beta=beta)
        for name in ("hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sigmoid_norm"):
            yield dpo(name, b, [name], beta=beta)
        for name in ("exo_pair", "robust", "aot", "aot_unpaired"):
            for e in (0.1, 0.3):
                p = b | {"label_smoothing": e}
                yield dpo(name, p, [name], beta=beta, label_smoothing=e, count=7)
        for tau in (0.05, 1.0):
            yield dpo("discopop", b | {"tau": tau}, ["discopop"], beta=beta, tau=tau)
        # TRL's own names of the divergences.
        for name, alpha in (("forward_kl", 0.5), ("js_divergence", 0.5), ("alpha_divergence", 0.5),
                            ("alpha_divergence", 1.7), ("alpha_divergence", 1.0)):
            short = {"forward_kl": "forward-kl", "js_divergence": "js", "alpha_divergence": "alpha"}[name]
            for loss in ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm"):
                p = b | {"f_divergence": short, "f_alpha": alpha}
                # TRL has a clamp for this one in the three short formats only.
                single = name == "alpha_divergence"
                torch.set_default_dtype(torch.float32 if single else torch.float64)
                yield dpo(loss, p, [loss], beta=beta, f_divergence_type=name, f_alpha_divergence_coef=alpha) | {
                    "single": single}
                torch.set_default_dtype(torch.float64)
        for loss in ("sigmoid", "ipo", "apo_zero", "sppo_hard"):
            yield dpo(loss, b | {"ld_alpha": 0.4}, [loss], beta=beta, ld_alpha=0.4)
            yield dpo(loss, b | {"weighting": "wpo"}, [loss], wpo=True, beta=beta)
    yield dpo("sft", {}, ["sft"])
    yield dpo("sigmoid:0.8,sft:0.2", {"beta": 0.3}, ["sigmoid", "sft"], loss_weights=[0.8, 0.2], beta=0.3)
    yield dpo("sigmoid:0.8,bco_pair:0.1,sft:1", {}, ["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.1, 1.0])


# ----------------------------------------------------------------------------------------------- KTOTrainer

def kto(objective, parameters, drift, **settings):
    count = 7
    groups = []
    for i in range(count):
        n = random.randint(1, 9)
        groups.append(group(completion=logps(n), mismatched=logps(random.randint(1, 9))) | {"label": i % 3 != 1})
    if objective != "kto":
        for g in groups:
            del g["answers"]["mismatched"]
    groups = with_references(groups)
    if objective == "kto":
        # So that the estimate is above or below 0.
        for g in groups:
            n = len(g["answers"]["mismatched"])
            g["reference"]["mismatched"] = [f32(v - drift / n) for v in g["answers"]["mismatched"]]
    completion = Padded([g["answers"]["completion"] for g in groups])
    reference = Padded([g["reference"]["completion"] for g in groups])
    inputs = {"input_ids": completion.input_ids(), "completion_mask": completion.completion_mask(),
              "attention_mask": torch.ones_like(completion.input_ids()), "label": torch.tensor([g["label"] for g in groups])}
    tables = {}
    if objective == "kto":
        shuffled = Padded([g["answers"]["mismatched"] for g in groups])
        theirs = Padded([g["reference"]["mismatched"] for g in groups])
        ids = shuffled.input_ids()
        inputs |= {"KL_input_ids": ids, "KL_attention_mask": torch.ones_like(ids),
                   "KL_completion_mask": shuffled.completion_mask()}
        tables[id(ids)] = (shuffled, theirs)
    tables[id(inputs["input_ids"])] = (completion, reference)

    def model(which):
        return lambda input_ids, **_: outputs(tables[id(input_ids)][which])

    settings = dict(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0) | settings
    trainer = bare(kto_module.KTOTrainer, loss_type=objective, calculate_KL=objective == "kto",
                   precompute_ref_logps=False, ref_model=model(1), args=Space(gradient_checkpointing_kwargs=None),
                   **settings)
    loss = trainer._compute_loss(model(0), inputs, False)
    loss.backward()
    slopes = [{"completion": s} for s in completion.slopes()]
    metrics = kept({k: v[-1] for k, v in trainer._metrics["train"].items()})
    if objective != "kto":
        del metrics["kl"]
    return case(objective, parameters, groups, loss, slopes, metrics)


def kto_cases():
    for name in ("kto", "apo_zero_unpaired"):
        for drift in (3.0, -3.0) if name == "kto" else (0.0,):
            yield kto(name, {}, drift)
            p = {"beta": 0.7, "desirable_weight": 1.3, "undesirable_weight": 0.4}
            yield kto(name, p, drift, **p)


# ------------------------------------------------------------------- TPO, CPO and ORPO, which take logits

def two_logits(values):
    return torch.stack([values, torch.log1p(-torch.exp(values))], -1)


def logits_model(values):
    """Logits at position t are those of token t + 1; the last position predicts nothing."""
    last = torch.zeros(values.shape[0], 1, 2)
    return lambda *_, **__: Space(logits=torch.cat([two_logits(values), last], 1))


def tpo(objective, parameters, loss_type, alpha, **settings):
    count, roles = 5, ("chosen", "rejected", "reference_response")
    groups = [group(**{r: logps(random.randint(1, 9)) for r in roles}) for _ in range(count)]
    used = roles if alpha else roles[:2]
    policy = Padded([g["answers"][r] for r in used for g in groups])
    # Padding must stay a probability for log(1 - p).
    values = policy.values + (1 - policy.mask) * -1.0
    settings = dict(beta=0.01, label_smoothing=0.0, tpo_l_gamma=0.5) | settings
    trainer = bare(TPOTrainer, loss_type=loss_type, tpo_alpha=alpha, args=Space(), **settings)
    inputs = {"input_ids": policy.input_ids(), "completion_mask": policy.completion_mask(),
              "attention_mask": torch.ones_like(policy.input_ids())}
    loss = trainer._compute_loss(logits_model(values), inputs, False)
    loss.backward()
    slopes = policy.slopes()
    slopes = [{r: slopes[i + k * count] if r in used else [0.0] * len(g["answers"][r]) for k, r in enumerate(roles)}
              for i, g in enumerate(groups)]
    metrics = kept({k: v[-1] for k, v in trainer._metrics["train"].items()})
    return case(objective, parameters, groups, loss, slopes, metrics)


def tpo_cases():
    for e in (0.0, 0.2):
        for alpha in (1.0, 0.3):
            p = {"beta": 0.05, "alpha": alpha, "label_smoothing": e}
            yield tpo("tpo", p, "sigmoid", alpha, beta=0.05, label_smoothing=e)
            yield tpo("tpo-l", p | {"gamma": 0.7}, "tpo-l", alpha, beta=0.05, label_smoothing=e, tpo_l_gamma=0.7)
    yield tpo("tpo", {"alpha": 0.0}, "sigmoid", 0.0)


def concatenated(cls, objective, parameters, loss_type=None, prompts=False, **settings):
    """CPO's and ORPO's `get_batch_loss_metrics`; the prompt has three tokens, two of them predicted."""
    count = 5
    groups = pairs(count)
    for g in groups:
        g["prompt"] = logps(2)
    rows = [g["prompt"] + g["answers"][r] for r in ("chosen", "rejected") for g in groups]
    policy = Padded(rows)
    values = policy.values + (1 - policy.mask) * -1.0
    batch = {}
    for k, role in enumerate(("chosen", "rejected")):
        own = Padded(rows[k * count:(k + 1) * count])
        ids = own.input_ids()
        mask = torch.cat([torch.ones(count, 1, dtype=torch.long), own.mask], 1)
        labels = torch.where(mask == 1, ids, torch.full_like(ids, -100))
        labels[:, :3] = -100
        batch |= {f"{role}_input_ids": ids, f"{role}_attention_mask": mask, f"{role}_labels": labels}
    trainer = bare(cls, is_encoder_decoder=False, pad_token_id=0, padding_value=0, loss_type=loss_type, **settings)
    loss, metrics = trainer.get_batch_loss_metrics(logits_model(values), batch)
    loss.backward()
    slopes = policy.slopes()
    slopes = [{"prompt": slopes[i][:2], "chosen": slopes[i][2:], "rejected": slopes[i + count][2:]}
              for i in range(count)]
    return case(objective, parameters, groups, loss, slopes, kept(metrics))


def cpo_cases():
    base = dict(beta=0.1, label_smoothing=0.0, simpo_gamma=0.5, cpo_alpha=1.0, alpha=0.0)
    for e in (0.0, 0.2):
        for cpo_alpha in (1.0, 0.3, 0.0):
            p = {"beta": 0.2, "alpha": cpo_alpha, "label_smoothing": e}
            s = base | {"beta": 0.2, "cpo_alpha": cpo_alpha, "label_smoothing": e}
            yield concatenated(CPOTrainer, "cpo", p, "sigmoid", **s)
            yield concatenated(CPOTrainer, "simpo", p | {"gamma": 0.9}, "simpo", **(s | {"simpo_gamma": 0.9}))
    for alpha in (0.25, -0.5):
        p = {"beta": 2.0, "gamma": 0.3, "alpha": alpha}
        s = base | {"beta": 2.0, "simpo_gamma": 0.3, "alpha": alpha, "cpo_alpha": 0.0}
        yield concatenated(CPOTrainer, "alphapo", p, "simpo", **s)


def orpo_cases():
    for beta in (0.1, 1.0):
        # Casts to f32.
        yield concatenated(ORPOTrainer, "orpo", {"lambda": beta}, beta=beta) | {"single": True}


if __name__ == "__main__":
    # Not part of the numbers, and unwilling to work on stand-ins.
    dpo_module.disable_gradient_checkpointing = kto_module.disable_gradient_checkpointing = lambda *_: nullcontext()
    cases = [c for source in (dpo_cases, kto_cases, tpo_cases, cpo_cases, orpo_cases) for c in source()]
    print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")
