"""The tokenizer configs compose, build and fit."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.ilrec.tokenizer.embeddings import CollaborativeEmbedding, FileEmbedding, JointEmbedding, TextEmbedding
from src.ilrec.tokenizer.index_file import IndexFile
from src.ilrec.tokenizer.rq_vae import RqVae
from src.ilrec.tokenizer.semantic_id import ResidualKMeans
from src.ilrec.tokenizer.sentence_embedding import SentenceEmbedding

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture
def composed(tmp_path):
    """Compose the tokenizer group alone."""
    (tmp_path / "primary.yaml").write_text(
        f"defaults:\n  - tokenizer: residual_kmeans\n  - _self_\nseed: 7\nhydra:\n  searchpath: ['file://{CONF}']\n"
    )

    def composed(*overrides):
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("primary", overrides=list(overrides)).tokenizer

    return composed


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("text", TextEmbedding), ("collaborative", CollaborativeEmbedding), ("joint", JointEmbedding)],
)
def test_the_embedding_is_chosen_by_one_override_and_the_ids_are_unique(composed, make_interactions, name, kind):
    tokenizer = instantiate(composed(f"tokenizer/embedding={name}", "tokenizer.codebook_size=3"))
    assert isinstance(tokenizer, ResidualKMeans)
    assert isinstance(tokenizer.embedding, kind)
    shop = make_interactions([[0, 1, 2, 3, 4, 0, 1], [4, 3, 5, 2, 0, 1], [5, 1, 0, 2]])
    assert tokenizer.fit(shop).report["distinct_ids"] == 6


def test_the_run_s_seed_reaches_every_part(composed):
    config = OmegaConf.to_container(composed("tokenizer/embedding=joint"), resolve=False)
    assert config["seed"] == config["embedding"]["text"]["seed"] == "${seed}"
    assert config["embedding"]["collaborative"]["seed"] == "${seed}"
    assert instantiate(composed("tokenizer/embedding=joint")).embedding.text.seed == 7


def test_the_index_file_takes_its_path_from_the_command_line(composed):
    tokenizer = instantiate(composed("tokenizer=index_file", "tokenizer.path=shop.index.json"))
    assert isinstance(tokenizer, IndexFile)
    assert tokenizer.path == Path("shop.index.json")


def test_rq_vae_composes_builds_and_fits(composed, make_interactions, tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    short = ["tokenizer.codebook_size=3", "tokenizer.training.epochs=3", "tokenizer.training.steps_per_epoch=4"]
    tokenizer = instantiate(composed("tokenizer=rq_vae", *short), _convert_="all")
    assert isinstance(tokenizer, RqVae)
    assert tokenizer.seed == tokenizer.embedding.seed == 7
    assert tokenizer.training.widths == [128, 64]
    shop = make_interactions([[0, 1, 2, 3, 4, 0, 1], [4, 3, 5, 2, 0, 1], [5, 1, 0, 2]])
    assert tokenizer.fit(shop).report["distinct_ids"] == 6


@pytest.mark.parametrize("tokenizer", ["residual_kmeans", "rq_vae"])
@pytest.mark.parametrize(
    ("name", "overrides", "kind"),
    [
        ("language_model", [], SentenceEmbedding),
        ("sentence_encoder", ["tokenizer.embedding.name=folder"], SentenceEmbedding),
        ("file", ["tokenizer.embedding.path=x.npy"], FileEmbedding),
    ],
)
def test_every_tokenizer_takes_the_embeddings_of_others(composed, tokenizer, name, overrides, kind):
    config = composed(f"tokenizer={tokenizer}", f"tokenizer/embedding={name}", *overrides)
    assert isinstance(instantiate(config, _convert_="all").embedding, kind)


def test_a_language_model_can_be_the_text_half_of_the_joint_embedding(composed):
    config = composed("tokenizer/embedding=joint", "tokenizer/embedding@tokenizer.embedding.text=language_model")
    assert isinstance(instantiate(config).embedding.text, SentenceEmbedding)
