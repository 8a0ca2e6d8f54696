"""Scores and winners that Python's `re` finds with the patterns of FastChat's `fastchat/llm_judge/common.py` (Apache-2.0):
judge.json. Only the standard library is needed: python3 make_judge.py
"""

import json
import random
import re
from pathlib import Path

PATTERN = re.compile(r"\[\[(\d+\.?\d*)\]\]", re.ASCII)
BACKUP = re.compile(r"\[(\d+\.?\d*)\]", re.ASCII)


def rating(text):
    match = re.search(PATTERN, text) or re.search(BACKUP, text)
    return float(match.groups()[0]) if match else None


def winner(text):
    return next((letter for letter in "ABC" if f"[[{letter}]]" in text), None)


def main():
    draw = random.Random(7)
    pieces = ["[[", "]]", "[", "]", "7", "10", "3.5", "8.", ".5", " ", "Rating: ", "A", "B", "C", "é", "1", "[[6]]", "[4]", "[[C]]"]
    texts = ["", "[[7]]", "[[7.5]]", "Rating: [[10]].", "[9]", "[[[8]]]", "[[a]] [[2]]", "[3] then [[5]]", "7/10", "[[ 7 ]]",
             "[[7", "[[1]2]]", "[[B]] no, [[A]]", "[[C]]"]
    texts += ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(600)]
    cases = [[text, rating(text), winner(text)] for text in texts]
    path = Path(__file__).with_name("judge.json")
    path.write_text(json.dumps(cases, ensure_ascii=False) + "\n", encoding="utf-8")


main()
