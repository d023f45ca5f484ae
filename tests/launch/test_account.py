import pytest

from src.launch.account import has_key, host, mode_of, unreachable
from src.launch.machine import absent


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No account of whoever runs the tests."""
    for name in ("MODE", "SWEEP_ID", "BASE_URL", "API_KEY", "IDENTITY_TOKEN_FILE", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_run_is_offline_unless_somebody_says_otherwise(monkeypatch, tmp_path):
    assert mode_of(None) == "offline"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert mode_of(None) == "online"  # a sweep is led by the server
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")  # of `wandb offline`
    assert mode_of(None) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of(None) == "disabled"
    assert mode_of("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert mode_of(None) == "offline"


def test_a_host_and_its_key_are_found_where_wandb_login_puts_them(monkeypatch, tmp_path):
    assert (host(), has_key()) == ("https://api.wandb.ai", False)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nbase_url = https://dash.example:8080/\n")
    assert (host(), has_key()) == ("https://dash.example:8080", False)
    (tmp_path / "netrc").write_text("machine dash.example:8080\n  login user\n  password key\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert (host(), has_key()) == ("https://other.example", False)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_key()


def test_a_key_is_missed_with_the_command_that_brings_it(monkeypatch):
    config = {"logger": {"mode": None}}
    assert list(absent(config, multirun=False)) == []
    monkeypatch.setenv("WANDB_MODE", "online")
    (fault,) = absent(config, multirun=False)
    assert "no key of Weights & Biases for https://api.wandb.ai; run `wandb login` once" in fault
    monkeypatch.setenv("WANDB_BASE_URL", "https://dash.example")
    (fault,) = absent(config, multirun=False)
    assert "run `wandb login --host https://dash.example` once" in fault


def test_a_host_without_a_server_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "refused" in unreachable()
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    assert "unknown url type" in unreachable()
