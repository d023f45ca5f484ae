import importlib

import pytest

from src.ilrec.model.sequence_models import SASRec
from src.ilrec.task.misfits import _COLLABORATIVE, _LEARNT_BY, _OF_PAIRS, misfits
from src.launch.config import check
from src.launch.errors import InputError
from tests.test_conf import RECIPES, composed

ILREC = [recipe for recipe in RECIPES if not recipe.startswith(("gisa", "recommend", "export"))]


def test_the_classes_that_are_told_apart_are_there():
    rooms = {part: kind for part, (kind, _) in _COLLABORATIVE.items()}
    kinds = [*rooms.items(), *(("stage", kind) for kind in _OF_PAIRS), ("batches", "pairs.PreferenceData")]
    kinds += [("stage", kind) for kind, _ in _LEARNT_BY.values()]
    kinds += [("tokenizer", "title.Titles"), ("prompt", "ids.IdsPrompt"), ("evaluator", "grounding.GroundedEvaluator")]
    for room, kind in [*kinds, ("model", "sequence_models.SASRec"), ("evaluator", "ranking.RankingEvaluator")]:
        module, name = kind.split(".")
        assert hasattr(importlib.import_module(f"src.ilrec.{room}.{module}"), name)


@pytest.mark.parametrize(
    ("choices", "told"),
    [(["+experiment=sasrec", "stage=counting"], "stage: CountingStage is not for SASRec. Type:  stage=collab"),
     (["+experiment=counting", "stage=collaborative_filtering"],
      "stage: CollaborativeFilteringStage is not for Counting. Type:  stage=counting"),
     (["+experiment=sft", "stage=counting"], "stage: CountingStage is for collaborative models, and this one is a")],
    ids=["trained", "counted", "language model"],
)  # fmt: skip
def test_what_is_counted_and_what_is_trained_are_told_apart(choices, told):
    (fault,) = misfits(composed(*choices)[0])
    assert fault.startswith(told)


class Mine(SASRec):
    """A user's own."""


def test_a_model_of_the_users_own_is_of_the_kind_that_it_is_built_on():
    config = composed("+experiment=sasrec", "prompt=ids")[0]
    mine = {**config, "model": {**config["model"], "_target_": f"{__name__}.Mine"}}
    (fault,) = misfits(mine)
    assert fault == "prompt: Mine reads and ranks whole items, not so IdsPrompt. Type:  prompt=items"


@pytest.mark.parametrize("recipe", ILREC)
def test_the_parts_of_every_recipe_go_together(recipe):
    assert list(misfits(composed(f"+experiment={recipe}")[0])) == []


@pytest.mark.parametrize(
    "choices",
    [["tokenizer=title", "prompt=instruction", "evaluator=grounded"], ["tokenizer=title", "prompt=titles"],
     ["tokenizer=item_ids"], ["tokenizer=rq_vae", "model=hub"], ["checkpointing.monitor=val/hit@5"],
     ["optimized_metric=test_excluded/hit@5"], ["optimized_metric=val/ndcg@10"],
     ["evaluator.num_beams=50", "evaluator.cutoffs=[10,50]"]],
    ids=" ".join,
)  # fmt: skip
def test_what_may_be_combined_is_let_pass(choices):
    assert list(misfits(composed("+experiment=sft", *choices)[0])) == []


@pytest.mark.parametrize(
    ("choices", "fault"),
    [(["prompt=titles"], "prompt=titles writes titles one after the other, but these items are semantic IDs."),
     (["tokenizer=title", "prompt=ids_with_titles"], "prompt=ids_with_titles writes semantic IDs one after the "),
     (["stage=dpo", "batches=pairs", "prompt=alignment"], "prompt=alignment asks more than next items, of which "),
     (["evaluator.cutoffs=[5]"], "checkpointing.monitor=val/ndcg@10: evaluator.cutoffs=[5] measure no such metric"),
     (["optimized_metric=val/hit@10"], "optimized_metric=val/hit@10: of the validation, a job returns what its weights "
      "are selected by. Type:  checkpointing.monitor=val/hit@10"),
     (["optimized_metric=val/ndgc@10"], "optimized_metric=val/ndgc@10: evaluator.cutoffs=[5, 10, 20] measure no such "
      "metric; did you mean val/ndcg@10?"),
     (["optimized_metric=test/hit@11"], "optimized_metric=test/hit@11: evaluator.cutoffs=[5, 10, 20] measure no such"),
     (["optimized_metric=ndcg@10"], "optimized_metric=ndcg@10: evaluator.cutoffs=[5, 10, 20] measure no such metric")],
    ids=["ids", "titles", "alignment", "monitor", "validation", "misspelt", "cutoff", "split"],
)  # fmt: skip
def test_prompts_of_other_items_and_metrics_that_are_not_measured_are_named(choices, fault):
    (told,) = misfits(composed("+experiment=sft", *choices)[0])
    assert told.startswith(fault)


@pytest.mark.parametrize(
    ("choice", "fault"),
    [("evaluator.num_beams=3", "evaluator.num_beams=3 finds fewer items than the largest cutoff 20 asks for.\nType:  "),
     ("evaluator.guidance=[0,1]", "evaluator.guidance=[0, 1] needs a collaborative model trained on the same data")],
    ids=["beams", "guidance"],
)  # fmt: skip
def test_too_few_beams_and_missing_rewards_are_named_once(choice, fault):
    with pytest.raises(InputError) as told:
        check(composed("+experiment=sft", choice)[0], parts=True)
    assert str(told.value).startswith(f"The config has 1 fault(s):\n- {fault}")


@pytest.mark.parametrize(
    ("choices", "fault"),
    [(["+experiment=sft", "checkpoint=a.ckpt"], "checkpoint=a.ckpt: a training of a recommender reads none. Type:  "),
     (["+experiment=sft", "predictions=a"], "predictions=a: a training of a recommender reads none. Type:  "),
     (["+experiment=bigrec_sft", "model.new_rows=titles"], "model.new_rows=titles: tokenizer=title adds no tokens, so"),
     (["+experiment=smollm2_ids", "+tokenizer/embedding@tokenizer.start=transitions"],
      "model.new_rows=titles and tokenizer.start both say where the rows of item tokens start. Type:  model.new_rows="),
     (["+experiment=sft", "evaluator.history_penalty=[1,2]", "evaluator.exclude_history=true"],
      "evaluator.history_penalty=[1, 2]: items of the history are left out anyway. Type:  evaluator.history_penalty=0"),
     (["+experiment=sasrec", "evaluator.history_penalty=2", "evaluator.exclude_history=true"],
      "evaluator.history_penalty=2: items of the history are left out anyway."),
     (["+experiment=counting", "+tokenizer/embedding@tokenizer.start=transitions"],
      "tokenizer.start: Counting has no weights that could start. Type:  tokenizer.start=null"),
     (["+experiment=gru4rec", "model.max_history=10"],
      "model.max_history=10, and the prompt shows it 50 items. Type:  prompt.max_history=10, which the model follows")],
    ids=["checkpoint", "predictions", "no rows", "two starts", "penalty", "whole items", "counted", "histories"],
)  # fmt: skip
def test_what_others_leave_without_effect_is_named(choices, fault):
    (told,) = misfits(composed(*choices)[0])
    assert told.startswith(fault)


@pytest.mark.parametrize(
    "choices",
    [["+experiment=sft", "evaluator.history_penalty=2", "evaluator.exclude_history=both"],
     ["+experiment=sft", "evaluator.history_penalty=[0]", "evaluator.exclude_history=true"],
     ["+experiment=sft", "scale=amazon", "evaluator.exclude_history=true"],
     ["+experiment=smollm2_ids", "+tokenizer/embedding@tokenizer.start=transitions", "model.new_rows=mean"],
     ["+experiment=gru4rec", "prompt.max_history=30"], ["+experiment=counting", "scale=amazon"]],
    ids=["both", "zero", "may choose 0", "one start", "follows", "amazon"],
)  # fmt: skip
def test_what_has_an_effect_is_let_pass(choices):
    assert list(misfits(composed(*choices)[0])) == []
