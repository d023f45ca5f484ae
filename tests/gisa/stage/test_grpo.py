"""GRPO for the agent on a small real model: tokens, loss and gradients by hand, rewards, what is refused."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import lightning
import pytest
import torch

from src.gisa.batches.data import GradedQuestion
from src.gisa.dataset.gisa import Question
from src.gisa.stage.grpo import GrpoStage, as_batch, episode_advantages
from src.launch.errors import InputError
from src.losses.preference import group_advantages
from src.model.causal_lm import from_pretrained
from tests.gisa.chat_models import PLAIN, write_folder

# Two questions with two episodes each. The second turn of the first episode reads on behind the first turn; that of the
# second has only understood a part of it (7 is missing), so a new sequence begins there. The last one has no turn.
EPISODES = [
    [([1, 2, 3], [4, 5]), ([1, 2, 3, 4, 5, 6], [7])],
    [([1, 2, 3], [6, 7]), ([1, 2, 3, 6, 8, 9], [5, 4])],
    [([9, 8], [7, 6, 5])],
    [],
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("model"), PLAIN))


def stage(folder, rank=2, temperature=1.0, **changes):
    lora = None if rank is None else {"rank": rank, "alpha": 4, "dropout": 0.0}
    model = from_pretrained((), name=folder, dtype="float32", gradient_checkpointing=False, lora=lora, seed=1)
    settings = {
        "seed": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup_ratio": 0.0, "group_size": 2,
        "process_weight": 0.2, "kl_weight": 0.0, **changes,
    }  # fmt: skip
    rollout = SimpleNamespace(policy=SimpleNamespace(temperature=temperature), manifest=None)
    return GrpoStage(model=model, rollout=rollout, **settings)


def moved(module):
    """Adapters begin as 0, where policy and reference are one; move them away."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return module


def log_p(module, read, written, temperature=1.0):
    """Log-probability of each written token, by itself."""
    logits = module.model.network(torch.tensor([[*read, *written]])).logits[0] / temperature
    return [logits[len(read) - 1 + at].log_softmax(-1)[token] for at, token in enumerate(written)]


def loss_by_hand(module, advantages, kl_weight, temperature=1.0):
    """The formula, one token at a time; an episode without tokens adds its advantage, which no weight moves."""
    total = 0.0
    for turns, advantage in zip(EPISODES, advantages.flatten(), strict=True):
        tokens = []
        for read, written in turns:
            with torch.no_grad(), module.model.network.disable_adapter():
                reference = log_p(module, read, written, temperature)
            for lp, lr in zip(log_p(module, read, written, temperature), reference, strict=True):
                gap = lr - lp
                tokens.append(-torch.exp(lp - lp.detach()) * advantage + kl_weight * (torch.exp(gap) - gap - 1))
        total = total + (sum(tokens) / len(tokens) if tokens else -advantage) / len(EPISODES)
    return total


@pytest.mark.parametrize(("kl_weight", "temperature"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.7)])
def test_loss_and_gradients_are_those_of_the_formula(folder, kl_weight, temperature):
    module = moved(stage(folder, kl_weight=kl_weight, temperature=temperature))
    advantages = torch.tensor([[1.0, -0.5], [0.25, 2.0]])
    loss, gap = module._loss(EPISODES, advantages)
    loss.backward()
    found = {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    module.zero_grad()
    expected = loss_by_hand(module, advantages, kl_weight, temperature)
    expected.backward()
    torch.testing.assert_close(loss.detach(), expected.detach())
    assert found
    for name, one in module.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(found[name], one.grad, rtol=1e-4, atol=1e-6)
    assert (gap is None) == (kl_weight == 0)


def test_every_written_token_is_a_label_once_behind_what_it_was_written_behind():
    """The sequences are 1 2 3 4 5 6 7, then 1 2 3 6 7 and 1 2 3 6 8 9 5 4, then 9 8 7 6 5."""
    batch = as_batch(EPISODES, pad_token_id=0)
    labels = sorted(zip(batch["owner"].tolist(), batch["target"].tolist(), strict=True))
    assert labels == [(0, 4), (0, 5), (0, 7), (1, 4), (1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    assert int((batch["attention_mask"] > 0).sum()) == 7 + 5 + 8 + 5


def test_states_that_predict_what_was_only_read_get_no_gradient(folder):
    module = moved(stage(folder))
    states = []

    def keep(_, __, output):
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    handle = module.model.decoder.register_forward_hook(keep)
    module._loss(EPISODES, torch.tensor([[1.0, -0.5], [0.25, 2.0]]))[0].backward()
    handle.remove()
    rows = as_batch(EPISODES, pad_token_id=0)["rows"]
    assert torch.equal(states[0].grad.abs().sum(2) > 0, rows)
    assert int(rows.sum()) == 3 + 4 + 3


def test_equal_rewards_in_every_group_give_no_gradient(folder):
    module = moved(stage(folder))
    loss, _ = module._loss(EPISODES, group_advantages(torch.tensor([[1.0, 1.0], [0.2, 0.2]])))
    loss.backward()
    assert loss == 0
    assert all(one.grad is None or not one.grad.any() for one in module.parameters())


@torch.no_grad()
def written_log_p(module):
    return [sum(map(float, log_p(module, *EPISODES[at][0]))) for at in (0, 1)]


def test_a_step_makes_what_was_rewarded_likelier_and_the_other_less_likely(folder):
    module = stage(folder)
    before = written_log_p(module)
    optimiser = torch.optim.SGD([one for one in module.parameters() if one.requires_grad], lr=0.05)
    one_turn = [[turns[0]] for turns in EPISODES[:2]]
    module._loss(one_turn, group_advantages(torch.tensor([[1.0, 0.0]])))[0].backward()
    optimiser.step()
    after = written_log_p(module)
    assert after[0] > before[0]
    assert after[1] < before[1]


ASKED = GradedQuestion(
    Question("1", "Where?", "item", "stable", "x"), b"Lima\n", ("Lima",), ("https://a.example/peru",)
)


def record(answer, *calls, outcome="answered", **counts):
    steps = [{"key": f"call/{at}/0", "value": one} for at, one in enumerate(calls)]
    return {
        "question_id": "1", "outcome": outcome, "prediction": f"```tsv\nCity\n{answer}\n```", "steps": steps,
        "counts": {"calls": len(calls), "skipped_calls": 0, "invalid_calls": 0, **counts}, "spent": {},
    }  # fmt: skip


SEARCH = {"content": "Peru", "query": "peru capital"}
VISIT = {"content": "Capital: Lima", "urls": ["https://a.example/peru"]}


def test_the_reward_is_exact_match_and_what_the_steps_brought(folder):
    """A new query 0.02, a human's page 0.2, all cells 0.5, two steps at 0.02: 0.68."""
    module = stage(folder)
    records = [record("Lima", SEARCH, VISIT), record("Cuzco", SEARCH, VISIT)]
    outcome, process = module._judge([ASKED], records)
    assert outcome.tolist() == [1, 0]
    assert process.tolist() == pytest.approx([0.68, 0.68])
    outcome, process = module._judge([ASKED], [record("Lima"), record("Lima", SEARCH, outcome="budget")])
    assert outcome.tolist() == [1, 0]  # told to answer and called a tool instead
    assert process.tolist() == pytest.approx([0, 0])
    assert module._judge([ASKED], [record("Lima"), record("Cuzco")])[1].dtype == torch.float32  # no step at all


class Rollouts:
    """Stands in for the agent: gives records with the tokens behind them."""

    def __init__(self, records, tokens=EPISODES):
        self.records, self.tokens = records, tokens
        self.asked = []

    def run(self, attempts, store):
        self.asked += [(attempt.question_id, attempt.sample) for attempt in attempts]
        for attempt, tokens, record in zip(attempts, self.tokens, self.records, strict=False):
            store.ended[attempt] = SimpleNamespace(tokens=tokens, record=lambda record=record: record)


def step(module, records):
    """A training step; return its loss and what was logged."""
    logged = {}
    module.rollout = Rollouts(records)
    module._log_training = logged.update
    module._share_of_positions = lambda count: 1.0
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(questions=[ASKED]), global_step=3)
    module._fabric = None
    return module.training_step(torch.tensor([0]), 0), logged


@pytest.fixture
def trained(folder, monkeypatch):
    monkeypatch.setattr(GrpoStage, "trainer", property(lambda self: self._trainer))
    monkeypatch.setattr(GrpoStage, "global_step", property(lambda self: 3))
    return moved(stage(folder, process_weight=0.0))


def test_without_process_weight_a_step_is_that_of_the_outcome_alone(trained):
    records = [record("Lima", SEARCH), record("Cuzco", SEARCH, VISIT, invalid_calls=2)]
    loss, logged = step(trained, records)
    expected, _ = trained._loss(EPISODES[:2], group_advantages(torch.tensor([[1.0, 0.0]])))
    torch.testing.assert_close(loss, expected)
    assert trained.rollout.asked == [("1", 8), ("1", 9)]  # step 3 after that of samples 6 and 7; 0 and 1 validate
    # Three of five calls are well-formed, an episode makes 1.5 of these; both ended with an answer.
    values = {name: float(one.detach()) for name, one in logged.items()}
    assert values["reward"] == values["em"] == 0.5
    assert values["valid_calls"] == pytest.approx(3 / 5)
    assert (values["calls"], values["answered"], values["mixed_groups"]) == (1.5, 1, 1)


def test_with_it_wrong_answers_are_compared_by_what_their_steps_found(folder, trained):
    """Nothing, and all cells at 0.5 with a human's page at 0.2: of the mean, half of 0.35 lies on either side."""
    records = [record("Cuzco", SEARCH), record("Cuzco", SEARCH, VISIT)]
    alone, _ = step(trained, records)
    assert alone == 0
    trained.settings = replace(trained.settings, process_weight=0.5)
    gradients = []
    for advantages in (None, torch.tensor([[-0.175, 0.175]])):
        trained.zero_grad()
        loss = step(trained, records)[0] if advantages is None else trained._loss(EPISODES[:2], advantages)[0]
        loss.backward()
        gradients.append([one.grad.clone() for one in trained.parameters() if one.grad is not None])
    torch.testing.assert_close(*gradients)
    assert any(one.any() for one in gradients[0])


def advantages(outcome, process, found, weight=0.2):
    given = (torch.tensor([values]) for values in (outcome, process, found))
    return episode_advantages(*given, process_weight=weight)[0].tolist()


def test_a_group_with_right_and_wrong_answers_is_compared_as_grpo_does():
    """Rewards 1.1, 0, 0.1, 0: mean 0.3; squares of the differences .64 + .09 + .04 + .09 = .86, sd (.86 / 3)^.5."""
    found = advantages([1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.5, 0.0, 0.5, 0.0])
    deviation = (0.86 / 3) ** 0.5 + 1e-4
    assert found == pytest.approx([0.8 / deviation, -0.3 / deviation, -0.2 / deviation, -0.3 / deviation], rel=1e-5)


def test_calling_no_tool_is_not_the_best_of_a_wrong_group():
    """Costs of 0, 0.02 and 0.1 for nothing; one has seen half of the cells, 0.25, for 0.1: 0.2 (0.25 - 0.0625)."""
    found = advantages([0.0] * 4, [0.0, -0.02, -0.1, 0.15], [0.0, 0.0, 0.0, 0.25])
    assert found == pytest.approx([-0.0125, -0.0125, -0.0125, 0.0375])
    assert advantages([0.0] * 3, [0.0, -0.02, -0.6], [0.0, 0.0, 0.0]) == [0, 0, 0]


def test_of_right_answers_none_is_better_for_a_step_that_it_saved():
    assert advantages([1.0] * 4, [0.66, 0.66, 0.64, 0.62], [0.7] * 4) == pytest.approx([0] * 4, abs=1e-7)
    # One without having read what it answers stands behind: 0.2 (0 - 0.35) and 0.2 (0.7 - 0.35).
    assert advantages([1.0, 1.0], [0.0, 0.66], [0.0, 0.7]) == pytest.approx([-0.07, 0.07])


def test_without_process_weight_groups_alike_in_their_outcomes_teach_nothing():
    assert advantages([0.0, 0.0], [0.68, 0.0], [0.7, 0.0], weight=0.0) == [0, 0]


def test_groups_are_compared_by_themselves():
    outcome = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = episode_advantages(outcome, torch.zeros(3, 2), torch.zeros(3, 2), process_weight=0.2)
    torch.testing.assert_close(found, torch.stack([group_advantages(outcome[:1])[0], torch.zeros(2), torch.zeros(2)]))


def test_the_exact_match_of_mixed_groups_is_logged_apart(trained):
    _, logged = step(trained, [record("Lima"), record("Cuzco")])
    assert (float(logged["mixed_groups"]), float(logged["em_mixed"])) == (1, 0.5)
    _, logged = step(trained, [record("Lima"), record("Lima")])
    assert (float(logged["mixed_groups"]), float(logged["em"])) == (0, 1)
    assert "em_mixed" not in logged


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_in_which_nothing_was_written_is_a_skipped_step(trained, processes):
    """As all of its questions are too long to be read; of two processes, the other one's gradients count."""
    trained.rollout = Rollouts([record("", outcome="truncated")] * 2, tokens=[[], []])
    trained._share_of_positions = lambda count: 1.0
    datamodule = SimpleNamespace(questions=[ASKED])
    trained._trainer = SimpleNamespace(datamodule=datamodule, global_step=3, world_size=processes)
    for batch in (torch.tensor([0]), torch.tensor([], dtype=torch.int64)):
        trained.zero_grad()
        loss = trained.training_step(batch, 0)
        if processes == 1:
            assert loss is None
        else:
            loss.backward()
            assert loss == 0
            trained_ones = [one for one in trained.parameters() if one.requires_grad]
            assert all(one.grad is not None and not one.grad.any() for one in trained_ones)


def test_an_episode_that_failed_is_no_wrong_answer(trained):
    failed = record("", outcome="infra_error") | {"reason": "no end within 5 s"}
    with pytest.raises(InputError, match="1 of 2 episodes have no answer.*\n- 1 times: no end within 5 s\n.*resume="):
        step(trained, [record("Lima", SEARCH), failed])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "stage.group_size=1: I need at least 2 episodes to compare"),
        ({"process_weight": -1.0}, "stage.process_weight=-1.0: I need a number of at least 0"),
        ({"kl_weight": -0.1}, "stage.kl_weight=-0.1: I need"),
        ({"kl_weight": 0.1, "rank": None}, "stage.kl_weight=0.1 needs adapters"),
        ({"temperature": 0.0}, "agent.policy.temperature=0: all episodes of a group would be the same"),
    ],
)  # fmt: skip
def test_settings_that_teach_nothing_are_refused(folder, changes, message):
    with pytest.raises(InputError, match=message):
        stage(folder, **changes)


def test_without_adapters_every_weight_learns(folder):
    module = stage(folder, rank=None)
    module._loss(copy.deepcopy(EPISODES), torch.tensor([[1.0, -0.5], [0.25, 2.0]]))[0].backward()
    assert all(one.grad is not None for name, one in module.named_parameters() if "layers" in name)


class Batches(lightning.LightningDataModule):
    questions = (ASKED,)
    manifest = {}

    def train_dataloader(self):
        return torch.utils.data.DataLoader([0, 0, 0], 1)


@pytest.mark.filterwarnings("ignore")
def test_a_skipped_step_is_counted_and_changes_no_weight(folder):
    module = moved(stage(folder, process_weight=0.0))
    weights = [[one.detach().clone() for one in module.parameters()]]
    right_and_wrong = [record("Lima"), record("Cuzco")]
    parts = iter([Rollouts(right_and_wrong, [[], []]), Rollouts(right_and_wrong), Rollouts(right_and_wrong, [[], []])])

    class Agent:
        def run(self, attempts, store):
            weights.append([one.detach().clone() for one in module.parameters()])
            next(parts).run(attempts, store)

    module.rollout = Agent()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_steps=3, accelerator="cpu", gradient_clip_val=1.0, **quiet)
    trainer.fit(module, datamodule=Batches())
    assert trainer.global_step == 3
    weights.append([one.detach().clone() for one in module.parameters()])
    changed = [
        not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        for before, after in zip(weights[1:], weights[2:], strict=False)
    ]
    assert changed == [False, True, False]
