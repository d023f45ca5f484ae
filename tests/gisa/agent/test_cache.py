from src.gisa.agent.cache import Cache


def test_a_damaged_cache_file_is_as_good_as_none(tmp_path):
    cache = Cache(str(tmp_path), bucket="2026-01")
    cache.put({"a": "Zoë \ud800"}, "search", "x")
    assert cache.get("search", "x") == {"a": "Zoë \ud800"}
    assert cache.get("search", "y") is None
    (path,) = tmp_path.glob("*/*.json")
    path.write_bytes(path.read_bytes()[:20])
    assert cache.get("search", "x") is None
