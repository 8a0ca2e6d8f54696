"""Makes events.tfevents out of metrics.jsonl with TensorBoard's own messages and record writer, and reads it back.

    python make_events.py            # writes events.tfevents beside this file
    python make_events.py --read DIR # prints what TensorBoard reads in a folder that `asft report --tensorboard` wrote

Needs the package tensorboard (2.21 made the file in the repository).
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = Path(__file__).parent


def lines():
    return [json.loads(line) for line in (HERE / "metrics.jsonl").read_text().splitlines()]


def scalars(line):
    prefix = any(key.startswith("eval_") for key in line)
    for key, value in line.items():
        if key == "step" or isinstance(value, (dict, type(None))):
            continue
        yield ("eval/" + key.removeprefix("eval_") if prefix else "train/" + key), value


def make(path):
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        seconds = 0.0
        for line in lines():
            seconds += line.get("step_seconds", 0.0)
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line)]
            event = Event(wall_time=seconds, step=line["step"], summary=Summary(value=values))
            writer.write(event.SerializeToString())


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        for tag, points in sorted(read(sys.argv[2]).items()):
            print(tag, points[:3], "..." if len(points) > 3 else "", len(points))
        sys.exit()
    path = HERE / "events.tfevents"
    make(path)
    import numpy

    found = read(path)
    expected = {}
    for line in lines():
        for tag, value in scalars(line):
            expected.setdefault(tag, []).append((line["step"], float(numpy.float32(value))))
    assert found == expected, (found, expected)
    print(f"{path}: {path.stat().st_size} bytes, {sum(map(len, found.values()))} values read back")
