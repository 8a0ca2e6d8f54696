#!/usr/bin/env python3
"""Makes token_metrics.json: entropy, mean logits, token accuracy and token count as TRL 1.16's DPO trainer logs them.

    venv/bin/pip install trl==1.16.0                        # beside what make_golden.py says
    venv/bin/python tests/golden/make_token_metrics.py

`DPOTrainer._compute_loss` is called as it is, on a trainer that was never initialised, with golden checkpoints under TRL's own
fused head (`add_fused_lm_head`, its PyTorch path), in float32.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace as Space

import torch
import trl
import trl.trainer.dpo_trainer as dpo_module
from transformers import LlamaForCausalLM

HERE = Path(__file__).parent
CHECKPOINTS, BATCH = ["gqa-llama3", "memorised"], "mixed6"
METRICS = ["entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy", "num_tokens"]


def bare(model):
    same = lambda x: x
    trainer = dpo_module.DPOTrainer.__new__(dpo_module.DPOTrainer)
    trainer.__dict__.update(
        model=model, _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        accelerator=Space(device=torch.device("cpu"), gather=same, gather_for_metrics=same, num_processes=1),
        aux_loss_enabled=False, loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False, beta=0.1, label_smoothing=0.0,
        ld_alpha=None, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5, precompute_ref_logps=True,
        args=Space(gradient_checkpointing_kwargs=None, discopop_tau=0.05))
    return trainer


def main():
    assert trl.__version__ == "1.16.0", trl.__version__
    torch.set_num_threads(1)
    pairs = [json.loads(line) for line in (HERE / "batches" / f"{BATCH}.jsonl").read_text().splitlines()]
    rows = [(p["prompt_input_ids"], p[f"{answer}_input_ids"]) for answer in ("chosen", "rejected") for p in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    padded = lambda row: torch.tensor(row + [0] * (width - len(row)))
    inputs = {
        "input_ids": torch.stack([padded(prompt + answer) for prompt, answer in rows]),
        "attention_mask": torch.stack([padded([1] * (len(prompt) + len(answer))) for prompt, answer in rows]),
        "completion_mask": torch.stack([padded([0] * len(prompt) + [1] * len(answer)) for prompt, answer in rows]),
        "ref_chosen_logps": torch.zeros(len(pairs)), "ref_rejected_logps": torch.zeros(len(pairs)),
    }
    entries = []
    for checkpoint in CHECKPOINTS:
        model = LlamaForCausalLM.from_pretrained(HERE / "checkpoints" / checkpoint, dtype=torch.float32).train()
        dpo_module.add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        trainer = bare(model)
        trainer._compute_loss(model, dict(inputs), False)
        found = {name: trainer._metrics["train"][name][-1] for name in METRICS}
        entries.append({"checkpoint": checkpoint, "batch": BATCH, "metrics": found})
    made = {"made_by": "make_token_metrics.py", "versions": {"torch": torch.__version__, "trl": trl.__version__}}
    (HERE / "token_metrics.json").write_text(json.dumps(made | {"entries": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
