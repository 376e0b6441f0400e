"""What stages say about data sets of another shape or another hash, and about a faulty params.yaml."""

import re

import pytest

from vitscale.data.sources import SPLITS
from works import UNKNOWN, WRONG, fingerprints, make_set, members_of


# ---- the shape of a data set ----
@pytest.mark.parametrize("name", ["things", "things.zip"])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_class_folder(work, name, hidden):
    """A class folder without an image, or with none but a hidden file."""
    extra = {f"{split}/cow/" if not hidden else f"{split}/cow/.DS_Store": b"" for split in SPLITS}
    if hidden:
        extra = {f"{split}/cow/": b"" for split in SPLITS} | extra if name.endswith(".zip") else extra
    where = work.put(name, members_of(make_set()) | extra)
    work.refused("download", f"{where}: the class folder train/cow holds no image; fill it or take it out")


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_no_train(work, name):
    members = members_of(make_set())
    where = work.put(
        name, {member: content for member, content in members.items() if member.startswith("test")}
    )
    work.refused(
        "download",
        f"{where} has no train/ with class folders; it needs train/<class>/<image>, and for a target test/ or val/ beside it",
    )


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_a_target_needs_a_test_split(work, name):
    """A data set without one is downloaded, and then divided by zero images."""
    members = members_of(make_set())
    work.put(name, {member: content for member, content in members.items() if member.startswith("train")})
    work.params(things={"source": "imagefolder", "image_size": 32, "sha256": UNKNOWN})
    result = work.run("download")
    assert result.returncode == 0 and "has no test split: it can be pretrained on" in result.stdout
    work.refused("prepare", "target: things has no test split; name a data set that has one")


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_other_classes_in_test_than_in_train(work, name):
    members = members_of(make_set())
    where = work.put(
        name, {member.replace("test/dog", "test/wolf"): content for member, content in members.items()}
    )
    work.refused(
        "download", f"{where}: train/ and test/ must have the same classes; only one of them has dog, wolf"
    )


def test_nothing_in_the_mirror(work):
    """Two lines: what was looked for, and what to set."""
    before = work.everything()
    result = work.run("download")
    assert result.returncode == 1 and work.everything() == before
    assert result.stderr == (
        f"VITSCALE_MIRROR={work.mirror} has no things/, things.zip, things.tar, things.tar.gz or things.tgz\n"
        "error: things: set VITSCALE_MIRROR to the folder that has things/, things.zip, things.tar, things.tar.gz or "
        "things.tgz; where DVC has removed the data, `git checkout params.yaml && dvc checkout` brings it back\n"
    )


# ---- fingerprints ----
@pytest.mark.parametrize("wrong", [("train",), ("test",), SPLITS])
def test_wrong_fingerprint(work, wrong):
    """Both values are printed, for each split that is another one."""
    work.put("things", members_of(make_set()))
    right = fingerprints(make_set())
    work.params(
        things={"source": "imagefolder", "image_size": 32, "sha256": right | dict.fromkeys(wrong, WRONG)}
    )
    work.refused(
        "download",
        *(
            f"things/{split} is not the data set of params\\.yaml: download\\.things\\.sha256\\.{split} is "
            f"{WRONG}, found {right[split]}"
            for split in wrong
        ),
    )


def test_missing_fingerprint_is_printed_to_be_pasted(work):
    """With null the stage fails, or doesn't say what to paste; pasted, it says it still."""
    work.put("things", members_of(make_set()))
    entry = {"source": "imagefolder", "image_size": 32}
    work.params(things=entry | {"sha256": UNKNOWN})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    printed = dict(
        re.findall(
            r"^download\.things\.sha256\.(\w+) is not pinned; to pin what was imported, paste (\w+)$",
            result.stdout,
            re.MULTILINE,
        )
    )
    assert printed == fingerprints(make_set())
    work.params(things=entry | {"sha256": printed})
    result = work.run("download")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# ---- params.yaml ----
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lr: \xff\xfe\n", "params\\.yaml .+"),
        (b"\x1f\x8b\x08\x00binary", "params\\.yaml .+"),
        (b"lr: [1, 2\n", "params\\.yaml is not valid YAML: .+"),
        (b"lr: 2026-02-31\n", "params\\.yaml .+"),
        (b"", "params\\.yaml holds no mapping of names to values"),
        (b"- lr\n", "params\\.yaml holds no mapping of names to values"),
        (None, "params\\.yaml: No such file or directory; run this in a folder that has one"),
    ],
    ids=["not UTF-8", "binary", "unclosed", "no such day", "empty", "a list", "absent"],
)
def test_unreadable_params(work, content, expected):
    path = work.folder / "params.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    work.refused("download", expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"source": "imagefolder", "sha256": UNKNOWN},
            "download\\.extra\\.image_size: missing; every parameter must be given",
        ),
        ({"source": "nowhere", "sha256": UNKNOWN}, "download\\.extra\\.source: must be one of .+"),
        (
            {"source": "cifar10", "sha256": {"train": "abc", "test": None}},
            "download\\.extra\\.sha256\\.train: .+",
        ),
        ({"source": "cifar10", "sha256": UNKNOWN, "url": "x"}, "download\\.extra\\.url: no such parameter"),
        ({"source": "digits", "classes": [1, 1], "sha256": UNKNOWN}, "download\\.extra\\.classes.*: .+"),
    ],
    ids=["missing", "unknown source", "no sha256", "unknown key", "a class twice"],
)
def test_faulty_download_entry(work, entry, expected):
    """Any stage refuses it, even one of another entry."""
    work.put("things", members_of(make_set()))
    work.params(extra=entry)
    work.refused("download", f"params\\.yaml: {expected}")


@pytest.mark.parametrize("stage", ["download", "prepare"])
def test_unknown_key(work, stage):
    """A key that the stage's section lacks; it never becomes a path."""
    work.refused(stage, f"{stage} has no entry ../things; params\\.yaml has things", key="../things")
