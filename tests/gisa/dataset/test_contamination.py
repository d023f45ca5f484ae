"""Manifests of what was learnt from: what they name, how two are joined, which tests they refuse."""

import json

import pytest

from src.gisa.dataset.contamination import joined_manifest, manifest_of, refuse_benchmark, refuse_contaminated
from src.gisa.dataset.gisa import Gisa
from src.launch.errors import InputError
from tests.gisa.gisa_files import question, write_suite

ABOUT = {
    "1": {"split": "train", "entities": ["Peru", "Fiji"]},
    "2": {"split": "train", "entities": ["Chad", "Peru"]},
    "3": {"split": "train", "entities": ["Mali"]},
}


@pytest.fixture
def suite(tmp_path):
    """Three questions to learn from."""
    root = write_suite(tmp_path / "suite", [question(number) for number in (1, 2, 3)])
    (root / "suite.json").write_text(json.dumps(ABOUT))
    return Gisa(str(root))


def test_a_manifest_names_questions_and_what_they_are_about(suite):
    manifest = manifest_of(suite, {"2", "1", ""})
    assert manifest["suite"] == suite.fingerprint
    assert list(manifest["questions"]) == ["1", "2"]
    assert manifest["entities"] == ["Chad", "Fiji", "Peru"]


def test_manifests_of_two_trainings_are_joined_and_no_question_is_lost():
    """Question 1 of another suite has the same id and another text: both are kept."""
    first = {"suite": "a" * 64, "questions": {"1": "one", "2": "two"}, "entities": ["Fiji", "Peru"]}
    second = {"suite": "b" * 64, "questions": {"1": "another", "2": "two"}, "entities": ["Chad", "Peru"]}
    both = joined_manifest(first, second)
    assert both["questions"] == {"1": "another", "2": "two", "1 of aaaaaaaaaaaa": "one"}
    assert both["entities"] == ["Chad", "Fiji", "Peru"]


def test_a_model_is_not_tested_on_what_it_has_learnt_from(suite, tmp_path):
    manifest = json.loads(json.dumps(manifest_of(suite, {"1", "2"})))
    same_ids = [question(number, text=f"Another one, {number}?") for number in (1, 2, 3)]
    refuse_contaminated(Gisa(str(write_suite(tmp_path / "other", same_ids))), manifest)
    with pytest.raises(InputError) as caught:
        refuse_contaminated(suite, manifest)
    assert "has learnt from 2 of the 3 questions" in str(caught.value)
    assert "ids such as 1, 2)" in str(caught.value)
    assert "dataset=factbook_set dataset.split=entities|families" in str(caught.value)


def test_only_questions_of_the_training_split_are_learnt_from_unless_that_is_said(suite):
    refuse_benchmark(suite, allowed=False)
    suite.metadata["2"]["split"] = "entities"
    with pytest.raises(InputError, match=r"1 of the 3 questions below (.|\n)*ids such as 2(.|\n)*on_benchmark=true"):
        refuse_benchmark(suite, allowed=False)
    refuse_benchmark(suite, allowed=True)
