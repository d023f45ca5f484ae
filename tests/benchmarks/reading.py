"""How long and how large it is to prepare a large file: ``python -m tests.benchmarks.reading csv 1200000``.

Prints CPU seconds and the peak memory of the process, with what its imports took.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from src.ilrec.dataset.amazon import Amazon2014, Amazon2023
from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.table import Table

SOURCES = {"csv": Amazon2014, "json": Amazon2023, "table": Table}


def write(path: Path, kind: str, count: int) -> None:
    """Write interactions of a tenth as many users and a fortieth as many items, some of both far more active."""
    chance = random.Random(1)
    users = [f"A{chance.getrandbits(52):013X}" for _ in range(count // 10)]
    items = [f"B{chance.getrandbits(36):09X}" for _ in range(count // 40)]
    review = {"rating": 5.0, "title": "Good", "text": "I like it very much, it is a fine thing. " * 4, "images": []}
    with path.open("w") as stream:
        stream.write("user,item,timestamp\n" if kind == "table" else "")
        for _ in range(count):
            user = users[int(len(users) * chance.random() ** 1.5)]
            item = items[int(len(items) * chance.random() ** 2)]
            moment = 1_203_897_600 + int(chance.random() * 1e8)
            if kind == "json":
                record = review | {"parent_asin": item, "user_id": user, "timestamp": 1000 * moment}
                stream.write(json.dumps(record) + "\n")
            else:
                stream.write(f"{user},{item},{'5.0,' if kind == 'csv' else ''}{moment}\n")


def peak_mib() -> float:
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024


def main(kind: str, count: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ILREC_GISA_CACHE"] = folder
        path = Path(folder) / "file"
        if os.fork() == 0:  # so that writing does not count
            write(path, kind, int(count))
            os._exit(0)
        os.wait()
        imports, start = peak_mib(), time.process_time()
        data = prepare(SOURCES[kind](str(path)))
        print(
            f"{kind}, {path.stat().st_size / 1e6:,.0f} MB: {time.process_time() - start:.1f} CPU seconds, peak "
            f"{peak_mib():,.0f} MiB (imports {imports:.0f}); {data.statistics['raw_interactions']:,} interactions, "
            f"{len(data.items):,} kept"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
