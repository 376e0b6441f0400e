"""The benchmark of imports, on a few small images."""

import json
import sys

from benchmarks import importing


def test_importing_prints_json(capsys, monkeypatch):
    """The figures aren't valid JSON, a setting is missing, or what is timed is no import."""
    for name in ("VITSCALE_MIRROR", "VITSCALE_THREADS"):
        monkeypatch.setenv(name, "")  # which the benchmark sets
    monkeypatch.setattr(importing, "SETTINGS", (((40, 30), 16), ((40, 30), 8), ((8, 8), 8)))
    monkeypatch.setattr(sys, "argv", ["importing", "--json", "--images", "100", "--repeats", "1"])
    imported, bring = [], importing.sources.bring

    def counting(name, entry, out, kept):
        found = bring(name, entry, out, kept)
        imported.append(
            (entry.image_size, len((out / "train/images.npy").read_bytes()) // entry.image_size**2)
        )
        return found

    monkeypatch.setattr(importing.sources, "bring", counting)
    importing.main()
    figures = json.loads(capsys.readouterr().out)
    assert [(line["size"], line["side"]) for line in figures["imports"]] == [
        ([40, 30], 16),
        ([40, 30], 8),
        ([8, 8], 8),
    ]
    assert all(min(line["images_per_second"].values()) > 0 for line in figures["imports"])
    assert [side for side, _ in imported] == [16, 16, 8, 8, 8, 8] and all(rows >= 300 for _, rows in imported)
