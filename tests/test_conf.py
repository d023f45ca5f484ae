"""The config folder: every file composes, passes the check, and points at the package of its name."""

import functools
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from src.launch.config import Config, check, fields, resolve
from src.launch.errors import InputError
from src.run import CONF

ROOT = CONF.parent
FILES = sorted(CONF.glob("*/**/*.yaml"))
RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
ADDED_BY_HAND = ("experiment", "sweep", "ablation")
KEYS = set(re.findall(r"key_env: (\w+_KEY)", "".join(path.read_text() for path in FILES)))
CHOICES = [f"{path.relative_to(CONF).parent}={path.stem}" for path in FILES if path.parent.name not in ADDED_BY_HAND]


def recipe_text(name):
    return (CONF / "experiment" / f"{name}.yaml").read_text()


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Give every service a key, so that only faults of the config are found."""
    for name in KEYS:
        monkeypatch.setenv(name, "given")


@functools.cache
def composed(*overrides):
    """Compose as ``src.run`` does, once; return the config and Hydra's own part of it, which nobody may change."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
    config = resolve(cfg)
    HydraConfig.instance().cfg = None
    return config, hydra


def open_values(value, path=""):
    """Yield the path of every ``???``."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from open_values(inner, f"{path}.{key}".lstrip("."))
    elif value == "???":
        yield path


def check_with_open_values_given(*overrides):
    """Pass the check; where values are open, it first lists each of them with what to type, and nothing else."""
    upstream = composed()[0]["upstream"]
    overrides = (*overrides, *(f"++upstream.{name}={ROOT / 'README.md'}" for name in upstream))  # files that exist
    overrides = (*overrides, "checkpoint=given", "predictions=given")
    config, _ = composed(*overrides)
    if paths := list(open_values(config)):
        with pytest.raises(InputError) as caught:
            check(config)
        assert str(caught.value).splitlines()[1:] == [f"- {path}: needs a value; type {path}=..." for path in paths]
        config, _ = composed(*overrides, *(f"{path}=given" for path in paths))
    check(config)
    return config


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_with_the_rest_and_passes_the_check(choice, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    agent_only = choice.startswith(("agent", "task=gisa_rollout", "task=gisa_traces", "wing=gisa"))  # need an agent
    recipe = ["+experiment=gisa_rollout"] if agent_only else []
    own = ("gisa_imitation", "gisa_grpo", "evaluate", "export", "recommend")  # the last have no parts, a checkpoint has
    if choice.removeprefix("task=") in own:
        recipe = [f"+experiment={choice.removeprefix('task=')}"]
    check_with_open_values_given(*recipe, choice)


@pytest.mark.parametrize("ablation", sorted(path.stem for path in (CONF / "ablation").glob("*.yaml")))
def test_every_ablation_takes_one_part_from_ilrec(ablation):
    whole = composed("+experiment=ilrec")[0]["stage"]
    stage = check_with_open_values_given("+experiment=ilrec", f"+ablation={ablation}")["stage"]
    changed = [key for key in whole if stage[key] != whole[key] and key != "reward_from"]
    parts = {"full": 0, "sft": 4}  # all three terms, and the layers are observed instead
    others = composed("+experiment=ilrec", f"+ablation={ablation}")[0]["stage"]["reward_from"] != whole["reward_from"]
    assert len(changed) + others == parts.get(ablation, 1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_the_check_and_carries_its_name(recipe):
    assert check_with_open_values_given(f"+experiment={recipe}")["name"] == recipe


@pytest.mark.parametrize("recipe", [name for name in RECIPES if re.search(r"\n  - \w+\n", recipe_text(name))])
def test_a_recipe_that_builds_on_another_keeps_nothing_meant_for_a_group_that_it_changes(recipe):
    told = yaml.safe_load(recipe_text(recipe))
    own, config = leaves(told), composed(f"+experiment={recipe}")[0]
    changed = [pair for one in told["defaults"] if isinstance(one, dict) for pair in one.items()]
    for group, choice in ((name.removeprefix("override /"), choice) for name, choice in changed):
        if choice is None or "@" in group or "/" in group:
            continue
        values = leaves(yaml.safe_load((CONF / group / f"{choice}.yaml").read_text()), group)
        for name, value in values.items():
            if type(value) in (int, float) and name not in own:  # files of the whole config have other names
                assert leaves(config).get(name, value) == value, f"{recipe}: {name} is that of another recipe"


def leaves(node, path=""):
    """Return every value of nested settings by its dotted path."""
    if not isinstance(node, dict):
        return {path: node}
    inner = (leaves(one, f"{path}.{key}".lstrip(".")) for key, one in node.items())
    return {name: value for each in inner for name, value in each.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_adapters_are_whole_in_every_recipe(recipe):
    model = composed(f"+experiment={recipe}")[0].get("model") or {}
    if adapters := model.get("lora"):  # which a recipe may take away, and one that builds on it bring back
        assert adapters.keys() == {"rank", "alpha", "dropout"}


def test_a_recipe_that_builds_on_another_run_names_it_where_it_is_missing():
    with pytest.raises(InputError) as caught:
        check(composed("+experiment=ilrec_stage2")[0])
    for key, name in (("init_from", "ilrec_stage1"), ("reward_from", "sasrec")):
        assert f"stage.{key}=outputs/{name}/<run>/checkpoints/best.ckpt: no such file" in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "sweep"),
    [
        *((recipe, "main_table") for recipe in RECIPES),
        *((recipe, s) for s in SWEEPS for recipe in ("ilrec", "gisa_rollout")),
    ],
)
def test_every_sweep_composes_with_recipes_of_both_wings_and_names_what_is_swept(recipe, sweep):
    config, hydra = composed(f"+experiment={recipe}", f"+sweep={sweep}")
    assert hydra.sweeper.params
    told = ""
    try:
        check(config)
    except InputError as error:
        told = str(error)  # of runs that it builds on and that have to be named
    if (recipe, sweep) != ("gisa_rollout", "efficiency"):  # which changes settings of the other wing's stages
        assert "no such" not in told.replace("no such file", "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_short_and_show_their_command(recipe):
    lines = (CONF / "experiment" / f"{recipe}.yaml").read_text().splitlines()
    assert len(lines) <= 40
    assert any(f"python -m src.run +experiment={recipe}" in line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_says_first_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if line != "# @package _global_"]
    assert lines[0].startswith("# ")


def test_the_keys_of_the_recipes_are_those_of_the_schema():
    keys = {key for recipe in RECIPES for key in composed(f"+experiment={recipe}")[0]}
    assert keys == {field.name for field in fields(Config)}


def targets(value):
    if isinstance(value, dict):
        yield from [value["_target_"]] if "_target_" in value else []
        for inner in value.values():
            yield from targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets(inner)


def test_targets_of_a_group_lie_in_a_room_of_its_name():
    """In one of a wing or of the floor; what trains, logs, calls back and searches is other people's."""
    homes = {
        "trainer": "lightning.", "logger": r"(src\.training\.dashboard|lightning\.pytorch\.loggers)\.",
        "callbacks": "lightning.pytorch.callbacks.", "hydra": r"(src\.launch\.search|optuna\.(samplers|pruners))\.",
        "optimizer": r"(torch\.optim|transformers)\.", "scheduler": r"transformers\.",
    }  # fmt: skip
    for path in FILES:
        group = path.relative_to(CONF).parts[0]
        home = re.compile(homes.get(group) or rf"src\.((ilrec|gisa)\.)?{group}\.")
        assert all(map(home.match, targets(yaml.safe_load(path.read_text())))), path


@pytest.mark.parametrize(
    ("model", "learning_rate", "rank"), [("hub", 5e-5, 64), ("smollm2", 5e-4, 16)], ids=["hub", "smollm2"]
)
@pytest.mark.parametrize("recipe", [[], ["+experiment=sft"], ["+experiment=ilrec_stage1"]], ids=str)
def test_a_pretrained_model_brings_prompt_learning_rate_and_epochs_and_what_is_typed_wins(
    model, learning_rate, rank, recipe
):
    config, _ = composed(*recipe, f"model={model}")
    assert config["prompt"]["_target_"] == "src.ilrec.prompt.instruction.InstructionPrompt"
    assert (config["stage"]["learning_rate"], config["trainer"]["max_epochs"]) == (learning_rate, 1)
    assert config["model"]["lora"]["rank"] == rank
    typed = ("prompt=ids", "++stage.learning_rate=0.1", "++trainer.max_epochs=7")
    for overrides in ((*typed, *recipe, f"model={model}"), (*recipe, f"model={model}", *typed)):
        config, _ = composed(*overrides)
        assert config["prompt"]["_target_"] == "src.ilrec.prompt.ids.IdsPrompt"
        assert (config["stage"]["learning_rate"], config["trainer"]["max_epochs"]) == (0.1, 7)


@pytest.mark.parametrize("recipe", ["sft", "ilrec_stage1", "ilrec"])
def test_the_papers_scale_goes_with_every_recipe_of_ours(recipe, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = check_with_open_values_given(f"+experiment={recipe}", "scale=paper")
    assert config["model"]["name"] == "meta-llama/Llama-3.1-8B"
    assert config["batches"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] == 256
    assert config["stage"]["learning_rate"] == 5e-5
    assert config["prompt"]["_target_"] == "src.ilrec.prompt.instruction.InstructionPrompt"
    assert config["prompt"]["max_length"] == 1024
    assert config["model"]["lora"] == {"rank": 64, "alpha": 32, "dropout": 0.05}
    assert config["checkpointing"]["every_steps"] == 200


def test_one_override_sends_the_papers_sweep_to_a_cluster():
    _, hydra = composed("+experiment=ilrec", "scale=paper", "hydra/launcher=submitit_slurm", "model.name=given")
    assert hydra["launcher"]["_target_"].endswith("SlurmLauncher")


def test_one_seed_reaches_every_part_that_draws():
    def seeds(value):
        if isinstance(value, dict):
            yield from [value["seed"]] if "seed" in value else []
            for inner in value.values():
                yield from seeds(inner)

    config, _ = composed("++seed=7", "tokenizer/embedding=joint")
    # The run itself, both embeddings, the codes, the model and the stage; the data module takes it from the run.
    assert list(seeds(config)) == [7] * 6


NESTED = [  # (file, group, package, choice), as comments write them:  group@package=choice | choice
    (path, group, package, choice)
    for path in FILES
    for group, package, choices in re.findall(r"\+?([a-z_/]+)@([a-z_.]+)=([a-z_]+(?: \| [a-z_]+)*)", path.read_text())
    for choice in choices.split(" | ")
]


@pytest.mark.parametrize(("path", "group", "package", "choice"), NESTED)
def test_a_choice_within_another_can_be_typed_as_comments_write_it(path, group, package, choice):
    own = [f"{path.relative_to(CONF).parent}={path.stem}"]
    if own[0].startswith("agent"):
        own.insert(0, "+experiment=gisa_rollout")
    added = "+" if f"+{group}@{package}=" in path.read_text() else ""
    config, _ = composed(*own, f"{added}{group}@{package}={choice}")
    for key in package.split("."):
        config = config[key]
    assert config["_target_"] == yaml.safe_load((CONF / group / f"{choice}.yaml").read_text())["_target_"]


def test_commands_in_comments_and_readme_name_choices_that_there_are():
    """Overrides such as ``model=hub`` in a file's header or in README.md; those with a capital are placeholders."""
    texts = [*(path.read_text() for path in FILES), (ROOT / "README.md").read_text()]
    groups = {str(path.parent.relative_to(CONF)) for path in FILES}
    known = {*CHOICES, *(f"experiment={name}" for name in RECIPES), *(f"sweep={name}" for name in SWEEPS)}
    known |= {f"ablation={path.stem}" for path in (CONF / "ablation").glob("*.yaml")}
    for text in texts:
        for group, names in re.findall(r"(?:^|[\s`+])([a-z_/]+)=([a-z][\w,]*)(?=[\s`)])", text):
            if group in groups:
                assert {f"{group}={name}" for name in names.split(",")} <= known, (group, names)
