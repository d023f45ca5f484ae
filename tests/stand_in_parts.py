"""Small parts with the interfaces of the real ones, for tests of what surrounds them; each fit takes a second."""

import json
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import Precision
from torch.utils.data import DataLoader, TensorDataset

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.item_tokens import ItemTokens

USERS, ITEMS, WIDTH = 24, 8, 4


def dataset(*, size: int = 3) -> Interactions:
    items = np.tile(np.arange(size), USERS)
    ids = [f"u{user}" for user in range(USERS)]
    return Interactions(
        "toy", np.arange(USERS + 1) * size, items, ids, [str(item) for item in range(ITEMS)], [""] * ITEMS,
        [""] * ITEMS, "f" * 64, {"users": USERS},
    )  # fmt: skip


class Tokenizer:
    def fit(self, interactions):
        return ItemTokens.from_codes(np.arange(ITEMS)[:, None], [range(ITEMS)], {})


class Model(torch.nn.Module):
    tokenizer = None

    def __init__(self, vocabulary, *, width: int = WIDTH):
        super().__init__()
        self.layer = torch.nn.Linear(width, len(vocabulary))


def prompt(tokenizer, items):
    return None


def evaluator(items, *, num_beams: int = 20, exclude_history: bool = False):
    return None


class Data(lightning.LightningDataModule):
    def __init__(
        self,
        interactions,
        prompt,
        seed: int,
        *,
        batch_size: int = 4,
        evaluation_batch_size: int = 16,
        crop: float = 0.0,
        max_users: int | None = None,
    ):
        super().__init__()
        self.seed, self.batch_size = seed, batch_size
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(USERS, WIDTH, generator=generator)
        self.targets = torch.randint(ITEMS, (USERS,), generator=generator)

    def train_dataloader(self):
        return Batches(self)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=16)

    test_dataloader = val_dataloader


class Batches:
    """The batches of an epoch follow from seed and epoch."""

    def __init__(self, data):
        self.data, self.epoch, self.batch = data, 0, 0

    def __len__(self):
        return USERS // self.data.batch_size

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch, self.batch = state["epoch"], state["batch"]

    def __iter__(self):
        if self.batch == len(self):
            self.epoch, self.batch = self.epoch + 1, 0
        generator = torch.Generator().manual_seed(1000 * self.data.seed + self.epoch)
        batches = torch.randperm(USERS, generator=generator).view(-1, self.data.batch_size)
        while self.batch < len(self):
            chosen = batches[self.batch]
            self.batch += 1
            yield self.data.inputs[chosen], self.data.targets[chosen]


class Stage(lightning.LightningModule):
    def __init__(
        self, model, evaluator, *, lr: float = 0.1, init_from: str | None = None, fail_in_epoch: int | None = None
    ):
        super().__init__()
        self.model, self.lr, self.fail_in_epoch = model, lr, fail_in_epoch

    def initialise(self):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        if self.current_epoch == self.fail_in_epoch:
            raise FloatingPointError("loss is NaN")
        torch.manual_seed(self.global_step)
        inputs, targets = batch
        noisy = inputs + 0.1 * torch.randn_like(inputs)  # stands for dropout
        loss = torch.nn.functional.cross_entropy(self.model.layer(noisy), targets)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self):
        self.hits = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        scores = self.model.layer(inputs)
        self.hits.append((scores >= scores.gather(1, targets[:, None])).sum(1))

    test_step = validation_step

    def on_validation_epoch_end(self):
        self.log("val/ndcg@10", (1 / torch.log2(1.0 + torch.cat(self.hits))).mean())

    def on_test_epoch_end(self):
        ranks = torch.cat(self.hits).double().numpy()
        users = [f"u{user}" for user in range(len(ranks))]
        self.test_ranks = {"user": users, "target": ["0"] * len(ranks), "rank": ranks}
        self.log("test/ndcg@10", float((1 / np.log2(1 + ranks)).mean()), prog_bar=True)


class Told(lightning.Callback):
    """A callback that writes down the epochs."""

    def __init__(self, path: str):
        self.path = Path(path)

    def on_train_epoch_end(self, trainer, pl_module):
        with self.path.open("a") as stream:
            stream.write(f"{trainer.current_epoch}\n")


class Log(Logger):
    """A logger that keeps the last value of every metric in ``log.json``."""

    name, version = "log", ""

    def __init__(self, save_dir: str | None = None):
        super().__init__()
        self.folder, self.metrics = save_dir, {}

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics
        (Path(self.folder) / "log.json").write_text(json.dumps(self.metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        self.metrics["learning rate"] = params["stage"]["lr"]


class CountedPrecision(Precision):
    """A plugin that counts the backward passes."""

    passes = 0

    def pre_backward(self, tensor, module):
        CountedPrecision.passes += 1
        return super().pre_backward(tensor, module)


class NeedsWhatIsNotHere:
    def __init__(self):
        import nothing_of_that_name  # noqa: F401
