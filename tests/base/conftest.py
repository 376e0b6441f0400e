"""A folder of downloads of the test's own, and pauses that are noted and not waited for."""

import pytest


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCALE_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "downloads"


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("vitscale.base.fetch.pause", found.append)
    return found
