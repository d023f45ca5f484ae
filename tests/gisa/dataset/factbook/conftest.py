"""What the tests of the embedded web share: the facts of both days, the suite, sets, a cache of their own."""

import random

import pytest

from src.gisa.dataset.factbook.records import FIRST, LATER, facts_of
from src.gisa.dataset.factbook.suite import make_set, make_suite


@pytest.fixture(scope="session")
def days():
    return facts_of(FIRST), facts_of(LATER)


@pytest.fixture(scope="session")
def suite(days):
    return make_suite(*days, random.Random(1))


@pytest.fixture(scope="session")
def sets(days):
    names = {"train": "train 1", "entities": "entities 1", "families": "forms 1"}
    return {
        split: make_set(split, *days, random.Random(seed), per_type=45, max_pages=4) for split, seed in names.items()
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder that holds no suite at first."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr("src.gisa.dataset.factbook.suite.cache_folder", lambda: folder)
        yield folder
