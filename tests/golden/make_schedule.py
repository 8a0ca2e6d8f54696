"""Learning rates of transformers' schedulers, step for step, for tests/schedule.rs.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0
    venv/bin/python tests/golden/make_schedule.py > tests/golden/schedule.json

The rate of step s is what the optimizer holds when it makes its s-th update.
"""

import json

import torch
import transformers

CASES = [
    # scheduler type, learning rate, warm-up steps, steps of the run
    ("linear", 6e-6, 0, 7),
    ("linear", 6e-6, 3, 20),
    ("linear", 1e-3, 20, 20),
    ("linear", 1e-3, 30, 20),
    ("cosine", 6e-6, 0, 7),
    ("cosine", 1e-3, 5, 33),
    ("cosine", 1e-3, 1, 1),
    ("constant_with_warmup", 1e-6, 0, 5),
    ("constant_with_warmup", 1e-6, 4, 9),
]
RATIOS = [(1000, 0.03), (100, 0.1), (7, 0.1), (33, 0.0), (3, 0.5), (1, 0.9), (10, 0.3)]


def rates(kind, rate, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = transformers.get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


# transformers 5 has one argument for both: a warm-up below 1 is a share.
def warmup_steps(steps, ratio):
    arguments = transformers.TrainingArguments("unused", warmup_steps=ratio, report_to="none")
    return arguments.get_warmup_steps(steps)


print(json.dumps({
    "transformers": transformers.__version__,
    "schedules": [
        {"kind": k, "learning_rate": r, "warmup_steps": w, "total_steps": n, "rates": rates(k, r, w, n)}
        for k, r, w, n in CASES
    ],
    "warmup_steps": [{"total_steps": n, "ratio": r, "warmup_steps": warmup_steps(n, r)} for n, r in RATIOS],
}))
