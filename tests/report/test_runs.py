import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.launch.errors import InputError
from src.report.runs import collect, find_runs
from src.report.tables import _counts


def test_seed_experiment_and_resume_do_not_split_a_cell(tmp_path, write_run):
    write_run(tmp_path / "0", seed=1, overrides=["trainer.max_steps=5"])
    write_run(tmp_path / "1", seed=2, overrides=["resume=outputs/1", "trainer.max_steps=5"])
    collection = collect(find_runs([tmp_path]))
    (cell,) = collection.cells
    assert (cell.label, collection.shared) == ("sft", {"All runs": ["trainer.max_steps=5"]})
    assert [run.seed for run in cell.runs] == [1, 2]


def test_what_all_runs_share_is_told_once_and_not_in_every_label(tmp_path, write_run):
    for number, strength in enumerate((0.1, 0.5)):
        write_run(tmp_path / str(number), overrides=["dataset=lcrec", f"stage.strength={strength}"])
    collection = collect(find_runs([tmp_path]))
    assert [cell.label for cell in collection.cells] == ["sft stage.strength=0.1", "sft stage.strength=0.5"]
    assert collection.shared == {"All runs": ["dataset=lcrec"]}
    assert "All runs: `dataset=lcrec`" in _counts(collection)


def test_what_all_runs_of_a_recipe_share_is_told_once_too(tmp_path, write_run):
    jobs = [("sft", ["a=1", "b=2"]), ("ilrec", ["a=1", "c=3", "d=4"]), ("ilrec", ["a=1", "c=3"])]
    for number, (name, overrides) in enumerate(jobs):
        write_run(tmp_path / str(number), name=name, overrides=overrides)
    collection = collect(find_runs([tmp_path]))
    assert [cell.label for cell in collection.cells] == ["sft", "ilrec d=4", "ilrec"]
    assert collection.shared == {"All runs": ["a=1"], "sft": ["b=2"], "ilrec": ["c=3"]}
    assert "All runs: `a=1`\n\nsft: `b=2`\n\nilrec: `c=3`" in _counts(collection)


def test_checkpoints_to_start_from_are_told_apart_by_the_recipe_that_made_them(tmp_path, write_run):
    for number, (name, seed) in enumerate([("sft", 1), ("sft", 2), ("ilrec_stage1", 1)]):
        path = f"outputs/{number}/best.ckpt"
        write_run(
            tmp_path / str(number),
            seed=seed,
            overrides=[f"stage.init_from={path}"],
            config={"seed": seed, "stage": {"init_from": path}},
            lineage={"init_from": {"path": path, "sha256": "0" * 64, "name": name}},
        )
    collection = collect(find_runs([tmp_path]))
    assert [(cell.label, len(cell.runs)) for cell in collection.cells] == [
        ("sft stage.init_from=sft", 2),
        ("sft stage.init_from=ilrec_stage1", 1),
    ]
    assert collection.warnings == []


def test_where_other_runs_are_told_only_by_those_that_build_on_them(tmp_path, write_run):
    path = "outputs/3/best.ckpt"
    settings = {"overrides": [f"++upstream.sasrec={path}"], "config": {"upstream": {"sasrec": path}}}
    write_run(tmp_path / "sft", **settings)
    reward_model = {"path": path, "sha256": "0" * 64, "name": "sasrec"}
    write_run(tmp_path / "ilrec", **settings, name="ilrec", lineage={"reward_from": reward_model})
    collection = collect(find_runs([tmp_path]))
    assert sorted(cell.label for cell in collection.cells) == ["ilrec", "sft"]
    assert collection.shared == {"ilrec": ["upstream.sasrec=sasrec"]}


def test_several_reward_models_are_told_by_the_names_of_their_runs(tmp_path, write_run):
    names = {f"outputs/{name}/best.ckpt": name for name in ("sasrec", "counting")}
    lineage = {
        f"reward_from[{n}]": {"path": path, "sha256": "0" * 64, "name": name}
        for n, (path, name) in enumerate(names.items())
    }
    typed = {"overrides": [f"stage.reward_from=[{','.join(names)}]"], "config": {"stage": {"reward_from": [*names]}}}
    write_run(tmp_path / "a", **typed, lineage=lineage)
    (found,) = find_runs([tmp_path])
    assert found.label == "sft stage.reward_from=sasrec,counting"


def test_a_folder_given_twice_counts_its_runs_once(tmp_path, write_run):
    write_run(tmp_path / "a/0")
    assert len(find_runs([tmp_path, tmp_path / "a"])) == 1


def test_a_seed_run_twice_counts_once_and_warns(tmp_path, write_run):
    write_run(tmp_path / "0", ranks=(1, 1, 1, 1))
    write_run(tmp_path / "1", ranks=(None, None, None, None))
    collection = collect(find_runs([tmp_path]))
    assert [run.folder.name for run in collection.cells[0].runs] == ["1"]
    assert collection.warnings == ["sft: a seed was run more than once; only its latest run counts."]


def test_runs_of_one_cell_with_different_configs_or_commits_warn(tmp_path, write_run):
    write_run(tmp_path / "0", seed=1)
    write_run(tmp_path / "1", seed=2, config={"seed": 2, "stage": {"strength": 0.7}}, commit="def456")
    assert collect(find_runs([tmp_path])).warnings == [
        "sft: its runs differ in more than the seed: stage.strength, logger.save_dir.",
        'sft: its runs differ in commit: "abc123" / "def456".',
    ]


def test_copies_of_the_seed_and_paths_of_the_run_folder_do_not_warn(tmp_path, write_run):
    write_run(tmp_path / "0", seed=1, config={"seed": 1, "fixed": 1, "data": {"seed": 1}, "dir": "a/0/x"})
    write_run(tmp_path / "1", seed=2, config={"seed": 2, "fixed": 1, "data": {"seed": 2}, "dir": "a/1/x"})
    assert collect(find_runs([tmp_path])).warnings == []


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(InputError, match="absent is not a folder"):
        find_runs([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"status": "fin', "Unterminated string"),
        ("[]", "it holds a list, not an object"),
        (
            '{"status": "done", "name": "x", "started_at": "2026-01-01T00:00:00+00:00", "overrides": []}',
            "status: Input",
        ),
        ("", "Expecting value"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"name": "\\ud800"}', "surrogates not allowed"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_a_corrupt_result_is_named_with_its_fault(tmp_path, content, fault):
    (tmp_path / "result.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        find_runs([tmp_path])
    assert f"{tmp_path / 'result.json'} is not a result of src.run: " in str(caught.value)
    assert fault in str(caught.value)
    assert "run that job again" in str(caught.value)


@settings(max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_any_json_is_either_a_run_or_an_input_error(tmp_path, content):
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not a result of src.run"):
        find_runs([tmp_path])


def test_seeds_are_missing_only_beside_cells_of_the_same_given_folder(tmp_path, write_run):
    write_run(tmp_path / "a/0", "sft", seed=1)
    write_run(tmp_path / "a/1", "ilrec_stage1", seed=2)
    write_run(tmp_path / "b/0", "dpo", seed=3)
    assert collect(find_runs([tmp_path / "a", tmp_path / "b"])).missing == ["sft seed=2", "ilrec_stage1 seed=1"]
