#!/usr/bin/env python3
"""What Python's difflib, transformers and Algorithm 1 of RSO's paper say, for tests/prepare.

    python3 make_golden.py            # writes diffs.json, weights.json and sampling.json beside itself

diffs.json: pairs of sequences of token ids, and difflib's matching blocks for them.
weights.json: rows of text, and the token weights of BMC's released rule (find_modifications: opcodes replace, delete and
insert of the token ids of prompt + answer, stop words left out), with the tokenizer of tests/data/golden/folder.
sampling.json: scored candidates, the random numbers drawn, and what Algorithm 1 (arXiv 2309.06657, appendix A.1) accepts.
"""

import difflib
import json
import math
import pathlib
import random
import re

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parent.parent.parent


def write(name, value):
    text = "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]\n"
    (HERE / name).write_text(text, encoding="utf-8")


def edited(rng, ids, alphabet, edits):
    ids = list(ids)
    for _ in range(edits):
        place = rng.randrange(len(ids) + 1)
        kind = rng.randrange(3)
        if kind == 0:
            ids.insert(place, rng.randrange(alphabet))
        elif kind == 1 and ids:
            del ids[place % len(ids)]
        elif ids:
            length = rng.randrange(1, 6)
            ids[place : place + length] = [rng.randrange(alphabet) for _ in range(rng.randrange(1, 6))]
    return ids


def diffs():
    rng = random.Random(1)
    pairs = [([], []), ([1], []), ([], [1]), ([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [4, 5, 6])]
    for alphabet, length, count in ((2, 12, 10), (4, 30, 12), (50, 60, 10), (400, 120, 4)):
        for _ in range(count):
            first = [rng.randrange(alphabet) for _ in range(rng.randrange(length))]
            pairs.append((first, edited(rng, first, alphabet, rng.randrange(8))))
            pairs.append((first, [rng.randrange(alphabet) for _ in range(rng.randrange(length))]))
    # Around and beyond the length from which frequent elements start no run: some ids come often, as "," and " the" do.
    for length in (198, 199, 200, 201, 260, 330):
        frequent = lambda: rng.randrange(4) if rng.random() < 0.5 else rng.randrange(300)
        first = [frequent() for _ in range(length)]
        pairs.append((first, edited(rng, first, 300, 25)[:length] + [7] * max(0, length - len(first))))
        pairs.append((edited(rng, first, 300, 25), first))
        # Exactly 200 elements on the second side, and one id at the border of being frequent: n // 100 + 1 = 3.
    border = [1000 + place for place in range(200)]
    for times in (3, 4):
        second = list(border)
        for copy in range(times):
            second[copy * 60] = 5
        pairs.append(([5, 5, 9, 5, 1001, 5], second))
    for first, second in pairs:
        matcher = difflib.SequenceMatcher(None, first, second)
        yield {"first": first, "second": second, "blocks": [list(block) for block in matcher.get_matching_blocks()][:-1]}


def stop_words():
    source = (REPOSITORY / "src/prepare/stop_words.rs").read_text(encoding="utf-8")
    words = re.findall(r'"([^"]+)"', source[source.index("pub const WORDS") :])
    assert len(words) == 179
    return set(words) | {word.capitalize() for word in words if len(word) > 1}


def modifications(original, corrected, left_out):
    masks = [0] * len(original), [0] * len(corrected)
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, original, corrected).get_opcodes():
        if tag in ("replace", "delete"):
            for place in range(i1, i2):
                masks[0][place] = int(original[place] not in left_out)
        if tag in ("replace", "insert"):
            for place in range(j1, j2):
                masks[1][place] = int(corrected[place] not in left_out)
    return masks


ROWS = [
    ("What is the capital of France?", " Paris.", " The dog."),
    ("What is the capital of France?", " It is Paris.", " It is the dog."),
    ("Hello", " world", " world"),
    ("Hello", " The dog is over the fox", "the dog and the fox"),
    ("The quick brown", " fox jumps over the lazy dog", " fox jumped over a lazy dog, and the dog was not"),
    # difflib finds other runs when the two change places.
    ("Q:", " lazy fox dog", " lazy dog fox"),
    ("Q:", " I am not what you think. You are.", " I was not what they think. You were, and the fox is."),
]


def weights():
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "tests/data/golden/folder")
    one_token = lambda words: {ids[0] for ids in (tokenizer(word, add_special_tokens=False)["input_ids"] for word in words) if len(ids) == 1}
    words = stop_words()
    which = {"none": set(), "released": one_token(words), "spaced": one_token(words) | one_token(" " + word for word in words)}
    eos = tokenizer.eos_token_id
    asymmetric = 0
    for prompt, chosen, rejected in ROWS:
        start = tokenizer(prompt)["input_ids"]
        whole = {name: tokenizer(prompt + text)["input_ids"] + [eos] for name, text in (("chosen", chosen), ("rejected", rejected))}
        assert all(ids[: len(start)] == start for ids in whole.values()), prompt
        swapped = modifications(whole["chosen"], whole["rejected"], set())
        asymmetric += list(modifications(whole["rejected"], whole["chosen"], set())) != list(reversed(swapped))
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "weights": {}}
        for name, left_out in which.items():
            of_rejected, of_chosen = modifications(whole["rejected"], whole["chosen"], left_out)
            row["weights"][name] = [of_chosen[len(start) :], of_rejected[len(start) :]]
        yield row
    assert asymmetric > 0


def algorithm_1(rewards, num_samples, beta, uniforms):
    candidates = dict(enumerate(rewards))
    accepted = []
    while len(accepted) < num_samples and candidates:
        max_reward = max(candidates.values())
        to_remove = []
        for candidate, reward in candidates.items():
            if next(uniforms) >= math.exp((reward - max_reward) / beta):
                continue
            accepted.append(candidate)
            to_remove.append(candidate)
            if len(accepted) == num_samples:
                break
        for candidate in to_remove:
            candidates.pop(candidate)
    return accepted


def sampling():
    rng = random.Random(2)
    for count, keep, beta in ((64, 8, 0.5), (64, 8, 0.05), (64, 8, 50.0), (10, 8, 0.5), (5, 8, 0.2), (1, 2, 0.5), (20, 20, 0.3)):
        for _ in range(3):
            scores = [round(rng.gauss(0, 1), 3) for _ in range(count)]
            drawn = []

            def uniforms():
                while True:
                    # As a multiple of 2^-53, which is what a generator of 64 bits gives.
                    drawn.append(rng.getrandbits(53))
                    yield drawn[-1] / 2**53

            accepted = algorithm_1(scores, keep, beta, uniforms())
            yield {"scores": scores, "keep": keep, "beta": beta, "drawn": [str(bits) for bits in drawn], "accepted": accepted}


write("diffs.json", diffs())
write("weights.json", weights())
write("sampling.json", sampling())
