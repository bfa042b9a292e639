"""Two distributions bring `planwire_client`: different versions of them are noticed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from sync.process import distributions


@pytest.mark.parametrize(
    ("installed", "mixed"),
    [
        ({}, False),
        ({"planwire": "1.0"}, False),
        ({"planwire-client": "1.0"}, False),
        ({"planwire": "1.0", "planwire-client": "1.0"}, False),
        ({"planwire": "1.1", "planwire-client": "1.0"}, True),
    ],
)
def test_only_different_versions_are_told(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], mixed: bool
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(distributions, "version", version)
    assert distributions.mixed_versions() == (installed if mixed else {})
