#!/usr/bin/env python3
"""Golden values of the objectives: loss, derivative for every token, metrics.

    python3 tests/golden/objective/make.py > tests/golden/objective/cases.json        (mpmath 1.3.0, seconds)

Losses are written as in the papers, with probabilities and odds, in 80-digit arithmetic, where those forms lose
nothing; derivatives are central differences of the loss with a step of 1e-25 on one token at a time. So neither the
rearranged forms nor the derivatives of the program appear here. What is ours is only the rule beyond -eps: a term is
continued by its tangent (the slope again a difference).

    ASFT  arXiv 2409.10571; with c and beta as in arXiv 2502.01237        ORPO  arXiv 2403.07691
    DPO   arXiv 2305.18290; label smoothing as in cDPO             SFT   mean negative log-likelihood

Every log-prob is an f32, so that a reader has it exactly. A coefficient's 1/N is that of `totals`, a whole step.
"""
import itertools
import json
import random
import struct

from mpmath import exp, log, mp, mpf

mp.dps = 80
H = mpf(10) ** -25
random.seed(20240910)

f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
sigma = lambda z: 1 / (1 + exp(-z))
mean = lambda xs: sum(xs) / len(xs)
slope = lambda f, x: (f(x + H) - f(x - H)) / (2 * H)


def neg_log_sigma(z):
    # log1p by hand: at z = 1e4 the 80 digits of 1 + e^-z would hold nothing of e^-z.
    e = exp(-abs(z))
    small = e - e * e / 2 if e < mpf(10) ** -60 else log(1 + e)
    return small + max(-z, mpf(0))


def log_odds(a):
    p = exp(a)
    return log(p / (1 - p)) if p > mpf(10) ** -70 else a + p


def tangent_beyond(eps, f):
    """f below -eps, its tangent at -eps above."""
    return lambda a: f(a) if a <= -eps else f(-eps) + slope(f, -eps) * (a + eps)


class Loss:
    def __init__(self, objective, p, totals):
        self.objective, self.p, self.totals = objective, p, totals
        self.eps = mpf(p["logit_eps"]) if "logit_eps" in p else None
        if objective == "asft":
            beta = mpf(p["beta"])
            self.term_w = tangent_beyond(self.eps, lambda a: neg_log_sigma(beta * log_odds(a)))
            self.term_l = tangent_beyond(self.eps, lambda a: neg_log_sigma(-beta * log_odds(a)))
        if self.eps is not None:
            self.odds = tangent_beyond(self.eps, log_odds)

    def nll_tokens(self, g):
        return g["chosen"] + (g["prompt"] if self.p["nll_on"] == "prompt-and-response" else [])

    def nll(self, g):
        tokens = self.nll_tokens(g)
        if self.p["nll_reduction"] == "sequence":
            return -mean(tokens) / self.totals["groups"]
        covered = self.totals["chosen_tokens"]
        if self.p["nll_on"] == "prompt-and-response":
            covered += self.totals["prompt_tokens"]
        return -sum(tokens) / covered

    def margin(self, g):
        return (sum(g["chosen"]) - mpf(g["reference"][0])) - (sum(g["rejected"]) - mpf(g["reference"][1]))

    def __call__(self, g):
        p, n = self.p, self.totals["groups"]
        if self.objective == "sft":
            return self.nll(g)
        if self.objective == "dpo":
            z, e = mpf(p["beta"]) * self.margin(g), mpf(p["label_smoothing"])
            return ((1 - e) * neg_log_sigma(z) + e * neg_log_sigma(-z)) / n
        w, l = mean(g["chosen"]), mean(g["rejected"])
        if self.objective == "asft":
            return mpf(p["c"]) * self.nll(g) + mpf(p["lambda"]) * (self.term_w(w) + self.term_l(l)) / n
        return self.nll(g) + mpf(p["lambda"]) * neg_log_sigma(self.odds(w) - self.odds(l)) / n

    def metrics(self, g):
        p, out = self.p, {}
        if self.objective == "dpo":
            w, l = sum(g["chosen"]), sum(g["rejected"])
            rw, rl = (mpf(p["beta"]) * (s - mpf(r)) for s, r in zip((w, l), g["reference"]))
        else:
            w, l = mean(g["chosen"]), mean(g["rejected"])
            scale = mpf({"sft": 1, "asft": p.get("beta"), "orpo": p.get("lambda")}[self.objective])
            rw, rl = scale * w, scale * l
            out["nll_loss"] = -mean(self.nll_tokens(g))
        out.update({"rewards/chosen": rw, "rewards/rejected": rl, "rewards/accuracies": mpf(rw > rl),
                    "rewards/margins": rw - rl, "logps/chosen": w, "logps/rejected": l})
        if self.objective == "asft":
            tw, tl, ow, ol = self.term_w(w), self.term_l(l), self.odds(w), self.odds(l)
            beyond = l > -self.eps or (p["beta"] != 1.0 and w > -self.eps)
            out.update({"asft/align_loss": tw + tl, "asft/chosen_logsig": -tw, "asft/rejected_logsig": -tl,
                        "log_odds/chosen": ow, "log_odds/rejected": ol, "log_odds/margin": ow - ol,
                        "asft/clamped_frac": mpf(beyond)})
        if self.objective == "orpo":
            d = self.odds(w) - self.odds(l)
            out.update({"log_odds_ratio": -neg_log_sigma(d), "log_odds_chosen": d})
        return out


def coefficients(loss, g):
    def d(span, t):
        def at(x):
            moved = dict(g)
            moved[span] = g[span][:t] + [x] + g[span][t + 1:]
            return loss(moved)
        return slope(at, g[span][t])
    return {span: [float(d(span, t)) for t in range(len(g[span]))] for span in ("prompt", "chosen", "rejected")}


def answer(a):
    """One to three tokens whose mean is near a, as f32."""
    shape = random.choice([[1.0], [0.5, 1.5], [0.25, 1.0, 1.75]])
    return [mpf(f32(a * x)) for x in shape]


def case(objective, p, a_w, a_l):
    prompt = [mpf(f32(-random.uniform(0.01, 6))) for _ in range(random.choice([0, 1, 3]))]
    g = {"prompt": prompt, "chosen": answer(a_w), "rejected": answer(a_l), "reference": None}
    if a_w == a_l:
        g["rejected"] = list(g["chosen"])
    if objective == "dpo":
        g["reference"] = [float(sum(g[s])) + random.uniform(-30, 30) for s in ("chosen", "rejected")]
    totals = {"groups": 5, "chosen_tokens": 17, "prompt_tokens": 23, "rejected_tokens": 19}
    loss = Loss(objective, p, totals)
    numbers = {k: [float(x) for x in g[k]] for k in ("prompt", "chosen", "rejected")}
    return {"objective": objective, "parameters": p, "totals": totals, **numbers, "reference": g["reference"],
            "loss": float(loss(g)), "coefficients": coefficients(loss, g),
            "metrics": {k: float(v) for k, v in loss.metrics(g).items()}}


# Both sides of the default -eps, both branches of log(1 - e^a) and the point between them, underflow of e^a.
POINTS = [-1e-9, -1e-7, -9e-6, -1.1e-5, -1e-4, -0.1, -0.6931471805599453, -2.0, -60.0, -1e4]
PAIRS = list(itertools.product(POINTS, POINTS))
ASFT = {"c": 1.0, "lambda": 1.0, "beta": 1.0, "logit_eps": 1e-5, "nll_reduction": "sequence", "nll_on": "response"}
ORPO = {"lambda": 0.1, "logit_eps": 1e-5, "nll_reduction": "token", "nll_on": "prompt-and-response"}
NLL = [{"nll_reduction": r, "nll_on": o} for r in ("sequence", "token") for o in ("response", "prompt-and-response")]


def cases():
    for change in [{}, {"beta": 0.1}, {"beta": 0.7, "lambda": 0.5}, {"beta": 2.0}, {"c": 0.0}]:
        for w, l in random.sample(PAIRS, 12) + [(x, x) for x in POINTS[::3]]:
            yield case("asft", ASFT | change, w, l)
    for change in [{}, {"lambda": 1.0, "logit_eps": 1e-3}]:
        for w, l in random.sample(PAIRS, 12) + [(x, x) for x in POINTS[::3]]:
            yield case("orpo", ORPO | change, w, l)
    for form in NLL:
        for w, l in random.sample(PAIRS[50:], 2):
            yield case("asft", ASFT | {"c": 0.3, "lambda": 0.7} | form, w, l)
            yield case("orpo", ORPO | form, w, l)
            yield case("sft", form, w, l)
    for change in [{}, {"label_smoothing": 0.2}, {"beta": 2.0, "label_smoothing": 0.4}]:
        for w, l in random.sample(PAIRS, 6):
            yield case("dpo", {"beta": 0.1, "label_smoothing": 0.0} | change, w, l)


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(c) for c in cases())
    print("[\n" + lines + "\n]")
