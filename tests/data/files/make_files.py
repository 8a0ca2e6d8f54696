"""Writes the files of this folder: the same rows as JSON lines, packed, and as Parquet in several codecs.

Run with Python 3.11, pyarrow 26:  python make_files.py
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def chat_rows():
    """Message lists; columns and fields that only some rows have; text that needs escapes; numbers of each kind."""
    rows = []
    for n in range(8):
        row = {
            "prompt_id": f"{n:04x}",
            "prompt": [message("user", f"What is {n} + {n}?\nSay it “aloud”, 説明 \U0001f9ee.")],
            "chosen": [message("assistant", f"{2 * n}")],
            "rejected": [message("assistant", f"\"{n}\\{n}\"\t" + "long " * (n * 20))],
            "score_chosen": n + 0.1,
            "turns": n * 2**33,
            "good": n % 2 == 0,
            "tags": [f"tag {i}" for i in range(n % 3)],
            "source": {"name": "made up", "year": 1990 + n},
        }
        if n % 3 == 0:
            row["prompt"].insert(0, message("system", "Be brief.", name="rules"))
        if n % 4 == 1:
            row["comment"] = "here only"
        rows.append(row)
    return rows


def token_rows():
    return [
        {
            "prompt_input_ids": list(range(1, n + 2)),
            "chosen_input_ids": [7, 8, n],
            "rejected_input_ids": [2**17 + n],
        }
        for n in range(5)
    ]


def schema():
    """The columns in the types that Hugging Face's `datasets` gives them, `rejected` in its large variants."""
    def messages(text):
        return pa.list_(pa.struct([("content", text), ("name", text), ("role", text)]))

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("prompt", messages(pa.string())),
            ("chosen", messages(pa.string())),
            ("rejected", pa.large_list(pa.struct([("content", pa.large_string()), ("role", pa.large_string())]))),
            ("score_chosen", pa.float64()),
            ("turns", pa.int64()),
            ("good", pa.bool_()),
            ("tags", pa.list_(pa.string())),
            ("source", pa.struct([("name", pa.dictionary(pa.int32(), pa.string())), ("year", pa.int16())])),
            ("comment", pa.string()),
            ("never", pa.null()),
        ]
    )


def write_text(name, rows):
    lines = [json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows)]
    (HERE / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [line.encode() for line in lines]


def main():
    chat, tokens = chat_rows(), token_rows()
    lines = write_text("chat", chat)
    write_text("tokens", tokens)
    # Two members or frames, the border within a line.
    halves = [b"".join(lines)[:700], b"".join(lines)[700:]]
    (HERE / "chat.jsonl.gz").write_bytes(b"".join(gzip.compress(half, mtime=0) for half in halves))
    (HERE / "chat.jsonl.zst").write_bytes(
        b"".join(pa.compress(half, codec="zstd", asbytes=True) for half in halves)
    )
    (HERE / "chat.json").write_text(json.dumps(chat, indent=2), encoding="utf-8")
    table = pa.Table.from_pylist(chat, schema=schema())
    for codec in ["none", "snappy", "gzip", "zstd", "lz4"]:
        pq.write_table(table, HERE / f"chat.{codec}.parquet", compression=codec, row_group_size=3)
    pq.write_table(table, HERE / "chat.v2.parquet", compression="zstd", data_page_version="2.0", use_dictionary=False)
    pq.write_table(table, HERE / "chat.brotli.parquet", compression="brotli")
    ids = {name: pa.list_(pa.int32()) for name in tokens[0]}
    ids["rejected_input_ids"] = pa.list_(pa.uint64())
    pq.write_table(pa.Table.from_pylist(tokens, schema=pa.schema(list(ids.items()))), HERE / "tokens.parquet")


if __name__ == "__main__":
    main()
