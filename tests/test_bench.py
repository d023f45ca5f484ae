"""The benchmark at toy sizes: it runs, both sides agree, no row is missing. Times are not looked at."""

import logging
import math
import re

import pytest
import torch
import transformers

from tests.bench import SECTIONS, main
from tests.benchmarks.comparison import Row, show_seconds


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """What a benchmark sets for itself alone is not left to the tests after it."""
    lightning = logging.getLogger("lightning.pytorch")
    threads, level, verbosity = torch.get_num_threads(), lightning.level, transformers.logging.get_verbosity()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    lightning.setLevel(level)
    transformers.logging.set_verbosity(verbosity)


def test_a_row_shows_the_median_of_the_pairs_own_ratios():
    # B / A = 2 / 1, 30 / 10, 4 / 4: median 2, not the 4 / 4 = 1 of the sides' medians.
    row = Row("x", ("old", "new"), [(1.0, 2.0), (10.0, 30.0), (4.0, 4.0)], show_seconds, "<= 3", "equal")
    assert row.ratios == [2.0, 3.0, 1.0]
    assert str(row) == "| x | old: 4.00 s | new: 4.00 s | **2.00** (1.00 .. 3.00) | 3 | <= 3 | equal |"


EXPECTED = {
    "decoding": [
        ("tiny_llama", "same top 10 for 100.0%"),
        ("Guided decoding", "weight 0 finds the same for 100.0%"),
        ("SmolLM2's shape", "same top 10 for 100.0%"),
    ],
    "step": [("CPU time of a step, V = 512", "negatives a label")] * 2,
    "memory": [("added by the steps", "fresh process"), ("of the whole process", "fresh process")] * 2,
    "packing": [("prompt=instruction", "places a token"), ("train a next item", "tokens a next item")],
    "loss": [("N = 20", "equal: "), ("N = 20", "equal: ")],
    "density": [
        (f"{part}, N = 18, V = 64, {share} negatives: {measure}", "equal: ")
        for share in ("5.0%", "50.0%")
        for part in ("CPO", "CRR, rewards of all tokens", "CRR, rewards listed", "Reward look-up")
        for measure in ("time", "peak memory added")
    ],
    "rewards": [("Token rewards", "sum to 1"), ("peak memory added", "fresh process")],
    "answers": [("Official scores of 8 answers", "8 of 8 scores equal")],
    "rollout": [("1 process", "8 of 8 answered"), ("2 processes", "8 of 8 answered"), ("Peak memory", "fresh process")],
    "generation": [("CPU time to write", "known turns were replayed, all")] * 2,
    "imitation": [("CPU time to learn", "loss before the first step")],
    "start-up": [("--help", "exit with 0"), ("--cfg job", "exit with 0")],
}


_LONG = ("memory", "rewards")  # a dozen fresh processes


@pytest.mark.parametrize("section", [pytest.param(s, marks=pytest.mark.slow) if s in _LONG else s for s in SECTIONS])
def test_every_section_gives_its_rows(section, capsys):
    main(["--quick", "--only", section])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"Commit \w+.*; .+ cores, load .+, threads 1; Python 3\..*torch \d.*peft \d", lines[0])
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows) == len(EXPECTED[section])
    for (what, _, _, ratios, _, _, check), (part, evidence) in zip(rows, EXPECTED[section], strict=True):
        assert part in what
        assert evidence in check
        assert "NOT" not in check
        assert all(math.isfinite(float(ratio)) and float(ratio) > 0 for ratio in re.findall(r"[\d.]*\d", ratios))
