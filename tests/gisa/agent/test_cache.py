import pytest

from src.gisa.agent.cache import Cache


@pytest.mark.parametrize(
    "content", [b"", b'{"key": ["2026', b"\0\0", b"null", b"[]", b"{}", b'{"key": ["2026-01", "search", "x"]}']
)
def test_a_damaged_cache_file_is_as_good_as_none(tmp_path, content):
    cache = Cache(str(tmp_path), bucket="2026-01")
    cache.put({"a": "Zoë \ud800"}, "search", "x")
    assert cache.get("search", "x") == {"a": "Zoë \ud800"}
    assert cache.get("search", "y") is None
    (path,) = tmp_path.glob("*/*.json")
    path.write_bytes(content)
    assert cache.get("search", "x") is None
