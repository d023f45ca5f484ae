"""RQ-VAE: codes by hand, k-means start, training that a kill does not change, messages."""

import os
import signal

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from src.ilrec.tokenizer.autoencoder import ResidualAutoencoder, Training, train
from src.ilrec.tokenizer.rq_vae import RqVae
from src.ilrec.tokenizer.semantic_id import ResidualCodes
from src.launch.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
# Two numbers an item, seen from five sides.
VECTORS = (np.random.default_rng(0).normal(size=(60, 2)) @ np.random.default_rng(1).normal(size=(2, 5))).astype(
    np.float32
)


class Given:
    """Vectors chosen by the test."""

    def __init__(self, vectors):
        self.vectors = np.asarray(vectors, dtype=np.float32)

    def embed(self, interactions):
        return self.vectors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def training(**settings):
    defaults = {
        "widths": [8],
        "latent_width": 4,
        "commitment": 0.25,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "batch_size": 16,
        "epochs": 3,
        "steps_per_epoch": 4,
        "warmup_epochs": 1,
        "accelerator": "cpu",
    }
    return Training(**{**defaults, **settings})


def tokenizer(vectors=VECTORS, *, seed=1, settings=None, **codes):
    defaults = {
        "levels": 2,
        "codebook_size": 8,
        "last_level": "greedy",
        "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 50,
    }
    return RqVae(embedding=Given(vectors), training=settings or training(), seed=seed, **{**defaults, **codes})


@pytest.fixture
def shop(make_interactions):
    return make_interactions([[0, 0, 0]], items=len(VECTORS))


def weights(cache):
    (path,) = cache.rglob("last.ckpt")
    return {name: value.tolist() for name, value in torch.load(path, weights_only=True)["state_dict"].items()}


def autoencoder(vectors, *, levels=2, codebook_size=2, **settings):
    codes = ResidualCodes(levels, codebook_size, "none", 0.05, 50)
    return ResidualAutoencoder(torch.as_tensor(vectors, dtype=torch.float32), codes, training(**settings), seed=1)


def doubling():
    """One dimension, no hidden layer: the encoder doubles, the decoder halves and adds 0.1."""
    module = autoencoder([[-5.5], [-4.5], [4.5], [5.5]], widths=[], latent_width=1)
    with torch.no_grad():
        module.encoder[0].weight.fill_(2)
        module.encoder[0].bias.fill_(0)
        module.decoder[0].weight.fill_(0.5)
        module.decoder[0].bias.fill_(0.1)
        module.codebooks.copy_(torch.tensor([[[-10.0], [10.0]], [[-1.0], [1.0]]]))
    return module


def test_codes_and_unexplained_variance_by_hand():
    # Latents -11, -9, 9, 11. Level 1: -10, -10, 10, 10, leaving -1, 1, -1, 1, which level 2 hits.
    # Rebuilt after level 1: -4.9, -4.9, 5.1, 5.1: off by .6, -.4, .6, -.4: squares 2 * (.36 + .16) = 1.04.
    # After level 2: all off by .1: .04. Variance: 2 * (5.5 ** 2 + 4.5 ** 2) = 101.
    codes, unexplained = tokenizer(codebook_size=2)._cut(doubling())
    assert codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert unexplained == pytest.approx([1.04 / 101, 0.04 / 101])


def test_the_loss_of_a_batch_by_hand():
    # As above, for the one item 4.5 after the warm-up (here none): rebuilt 4.6, reconstruction .01. Level 1: residual
    # 9, code 10: 1; level 2: residual -1, code -1: 0. Mean over the levels .5, times 1.25 = .625.
    module = doubling()
    module.training_settings = training(warmup_epochs=0)
    module.log_dict = lambda *_, **__: None
    assert module.training_step(torch.tensor([[4.5]]), 0).item() == pytest.approx(0.635)


def test_the_nearest_codes_are_found_one_item_and_level_at_a_time_too():
    module = autoencoder(VECTORS, levels=3, codebook_size=8)
    nn.init.normal_(module.codebooks, generator=torch.Generator().manual_seed(3))
    latent = torch.randn(20, 4, generator=torch.Generator().manual_seed(4))
    chosen = module.nearest(latent)
    for item, residual in enumerate(latent):
        for level in range(3):
            code = min(module.codebooks[level], key=lambda code, residual=residual: ((residual - code) ** 2).sum())
            assert torch.equal(chosen[level, item], code)
            residual = residual - code


def test_codebooks_start_from_k_means_of_what_the_levels_before_leave():
    module = autoencoder(VECTORS, codebook_size=4)
    module.start_codebooks()
    residual = module.encoder(module.vectors).detach().numpy()
    for level in range(2):
        model = KMeans(4, n_init=1, random_state=1 + level).fit(residual)
        np.testing.assert_array_equal(module.codebooks[level].detach().numpy(), model.cluster_centers_)
        residual = residual - model.cluster_centers_[model.predict(residual)]


def test_warm_up_trains_the_autoencoder_alone_and_codes_come_after_it(tmp_path):
    warm = autoencoder(VECTORS, epochs=3, warmup_epochs=2)
    start = {name: value.clone() for name, value in warm.state_dict().items()}
    seen = []
    warm.start_codebooks = lambda: seen.append((warm.global_step, warm.codebooks.abs().max().item()))
    train(warm, tmp_path)
    assert seen == [(8, 0)]
    assert all((warm.state_dict()[name] != value).any() for name, value in start.items())


def test_training_rebuilds_more_than_its_start(shop):
    few, many = (
        tokenizer(settings=training(epochs=epochs, steps_per_epoch=20)).fit(shop).report["unexplained"]
        for epochs in (2, 8)
    )
    assert many[1] < many[0] < few[0]
    assert many[1] < 0.6 * few[1]


def test_items_that_are_all_alike_are_no_reason_to_fail(make_interactions):
    tokens = tokenizer(np.ones((8, 3)), codebook_size=3).fit(make_interactions([[0, 0, 0]], items=8))
    assert tokens.report["distinct_ids"] == 8
    assert np.isfinite(tokens.report["unexplained"]).all()


@pytest.mark.parametrize(("last_level", "rate"), [("greedy", 0), ("sinkhorn", 0), ("none", 0.01)])
def test_the_last_level_keeps_items_apart_unless_told_not_to(shop, last_level, rate):
    tokens = tokenizer(last_level=last_level).fit(shop)
    assert tokens.tokens.shape == (60, 2)
    assert tokens.report["codebook_sizes"] == [8, 8]
    assert tokens.report["items_without_training"] == 59
    assert rate <= tokens.report["collision_rate"] <= 100 * rate


def killed(fit, *, at_write=None, at_step=None):
    """Fit in a forked process that kills itself at its n-th fsync (two a checkpoint) or training step."""
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return

    def killing(function, number):
        calls = iter(range(1, 1_000))

        def wrapped(*arguments):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    try:
        os.fsync = killing(os.fsync, at_write)
        ResidualAutoencoder.training_step = killing(ResidualAutoencoder.training_step, at_step)
        fit()
    finally:
        os._exit(0)


# Checkpoints after steps 4, 8 and 12; the codebooks start before step 5.
@pytest.mark.parametrize(
    "moment",
    [{"at_write": 1}, {"at_step": 6}, {"at_write": 3}, {"at_step": 11}, {"at_write": 5}, {"at_write": 6}],
    ids=str,
)
def test_a_training_killed_at_any_moment_gives_the_ids_of_one_that_was_not(shop, cache, monkeypatch, moment):
    whole = tokenizer().fit(shop)
    undisturbed = weights(cache)
    monkeypatch.setenv("ILREC_GISA_CACHE", str(cache / "other"))
    killed(lambda: tokenizer().fit(shop), **moment)
    resumed = tokenizer().fit(shop)
    assert resumed.tokens.tolist() == whole.tokens.tolist()
    assert resumed.report == whole.report
    assert weights(cache / "other") == undisturbed


def test_a_training_goes_on_from_its_last_checkpoint(shop, monkeypatch):
    killed(lambda: tokenizer().fit(shop), at_step=11)
    steps = []
    training_step = ResidualAutoencoder.training_step
    monkeypatch.setattr(
        ResidualAutoencoder,
        "training_step",
        lambda module, *batch: (steps.append(module.global_step), training_step(module, *batch))[1],
    )
    tokenizer().fit(shop)
    assert steps == [8, 9, 10, 11]
    tokenizer().fit(shop)
    tokenizer(last_level="none").fit(shop)  # the same autoencoder
    assert steps == [8, 9, 10, 11]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"settings": training(learning_rate=1e-3)},
        {"codebook_size": 7},
        {"vectors": VECTORS + np.eye(60, 5)},
    ],
    ids=str,
)
def test_other_embeddings_settings_and_seeds_are_trained_apart(shop, cache, other):
    tokenizer().fit(shop)
    tokenizer(**other).fit(shop)
    assert len(list(cache.rglob("last.ckpt"))) == 2


def test_a_damaged_checkpoint_is_trained_anew(shop, cache):
    first = tokenizer().fit(shop)
    (path,) = cache.rglob("last.ckpt")
    path.write_bytes(path.read_bytes()[:500])
    assert tokenizer().fit(shop).tokens.tolist() == first.tokens.tolist()
    assert weights(cache)


def test_ids_depend_neither_on_threads_nor_on_random_state_and_change_neither(shop, cache, monkeypatch):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    fits = [tokenizer().fit(shop)]
    assert torch.rand(1) == expected
    monkeypatch.setenv("ILREC_GISA_CACHE", str(cache / "other"))
    try:
        torch.set_num_threads(threads + 1)
        fits.append(tokenizer().fit(shop))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert fits[0].tokens.tolist() == fits[1].tokens.tolist()
    assert fits[0].report == fits[1].report


def test_one_process_of_a_distributed_run_trains_by_itself(shop, cache, monkeypatch):
    alone = tokenizer().fit(shop)
    monkeypatch.setenv("ILREC_GISA_CACHE", str(cache / "other"))
    environment = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0,
                   "TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    assert tokenizer().fit(shop).tokens.tolist() == alone.tokens.tolist()
    assert weights(cache / "other")


def test_more_codes_than_items_are_refused(shop):
    with pytest.raises(InputError, match=r"codebook_size=64 is more than the 60 items of 'shop'.*codebook_size=8$"):
        tokenizer(codebook_size=64).fit(shop)


@pytest.mark.parametrize("setting", ["latent_width", "learning_rate", "batch_size", "epochs", "steps_per_epoch"])
def test_settings_that_must_be_positive_are_refused_at_zero(setting):
    with pytest.raises(InputError, match=rf"tokenizer\.training\.{setting}=0: give a number above 0"):
        training(**{setting: 0})


def test_an_empty_layer_a_warm_up_without_end_and_an_absent_device_are_refused():
    with pytest.raises(InputError, match=r"tokenizer\.training\.widths\[1\]=0: give a number above 0"):
        training(widths=[8, 0])
    with pytest.raises(InputError, match=r"warmup_epochs=3: give a number from 0 to 2, so that some of the 3 epochs"):
        training(warmup_epochs=3)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA here.\nType:  tokenizer.training.accelerator=cpu"):
            training(accelerator="cuda")


def test_a_cache_that_cannot_be_written_is_told(shop, cache):
    cache.write_text("a file")
    with pytest.raises(InputError, match="Cannot write into the cache folder"):
        tokenizer().fit(shop)
