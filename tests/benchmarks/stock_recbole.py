"""Stock RecBole on one thread, led over its standard input; runs where RecBole is installed, without this project.

`python stock_recbole.py FOLDER NAME MODEL LENGTH` answers in JSON, a line each: first `batches` of an epoch, then for
every number that is read the CPU seconds of training on so many batches. A line `epochs=N` trains N epochs and answers
with NDCG@10 on validation after each, at last with the test metrics of the best.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


def main(folder: str, name: str, model: str, length: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # RecBole prints
    torch.set_num_threads(1)
    settings = {
        "data_path": folder,
        "checkpoint_dir": tempfile.mkdtemp(),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": int(length),
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10, 20],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
    }
    config = Config(model=model, dataset=name, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers)

    def after_epoch(epoch: int, score: float) -> None:
        answer(epoch=epoch + 1, val=score)

    answer(batches=len(train))
    for line in sys.stdin:
        if line.startswith("epochs="):
            # Its search for anomalies costs a third of the time and changes no number.
            torch.autograd.set_detect_anomaly(False)
            trainer.epochs = int(line.removeprefix("epochs="))
            trainer.fit(train, valid, verbose=False, callback_fn=after_epoch)
            answer(**trainer.evaluate(test, load_best_model=True))
        else:
            start = time.process_time()
            trainer._train_epoch(itertools.islice(train, int(line)), 0)
            answer(seconds=time.process_time() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
