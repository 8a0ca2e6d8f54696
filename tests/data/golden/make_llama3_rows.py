#!/usr/bin/env python3
"""What transformers makes of real HH-RLHF rows with Llama 3's tokenizer, for the test `real_rows_have_transformers_ids`.

    python3 make_llama3_rows.py TOKENIZER_FOLDER ROWS.jsonl N > rows.jsonl
    ASFT_LLAMA3_TOKENIZER=TOKENIZER_FOLDER ASFT_LLAMA3_ROWS=rows.jsonl cargo test --test data real_rows

Neither the tokenizer nor the rows may be shipped, so the result is not kept. One line a row: the row, and for the chat
template and for plain text the ids of prompt, chosen and rejected, N rows spread evenly over the file. A row is a transcript
whose two texts share all messages but the last.
"""

import json
import re
import sys

from transformers import AutoTokenizer

ROLES = {"Human": "user", "Assistant": "assistant"}


def turns(text):
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    messages = []
    for name, words in zip(pieces[1::2], pieces[2::2]):
        role = ROLES[name]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = "\n\n".join(filter(None, [messages[-1]["content"], words.strip()]))
        else:
            messages.append({"role": role, "content": words.strip()})
    return messages


def main():
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    rows = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
    count = int(sys.argv[3])
    for row in (rows[place * len(rows) // count] for place in range(count)):
        conversations = {role: turns(row[role]) for role in ("chosen", "rejected")}
        if any(messages[-1]["role"] != "assistant" or not messages[-1]["content"] for messages in conversations.values()):
            print(json.dumps({"row": row, "dropped": True}))
            continue
        prompt = conversations["chosen"][:-1]
        assert prompt == conversations["rejected"][:-1]
        chat = {role: tokenizer.apply_chat_template(messages, return_dict=False) for role, messages in conversations.items()}
        chat["prompt"] = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        names = {role: name for name, role in ROLES.items()}
        text = "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in prompt) + "\n\nAssistant:"
        plain = {"prompt": tokenizer(text)["input_ids"]}
        for role, messages in conversations.items():
            plain[role] = tokenizer(text + " " + messages[-1]["content"])["input_ids"] + [tokenizer.eos_token_id]
        for ids in (chat, plain):
            for role in conversations:
                assert ids[role][: len(ids["prompt"])] == ids["prompt"]
                ids[role] = ids[role][len(ids["prompt"]) :]
        print(json.dumps({"row": row, "chat": chat, "plain": plain}))


main()
