"""No number, text, list or section of params.yaml without an end."""

import pytest

from schemas import BASE, changed, faults, the_fault
from vitscale.pipeline.schema import NAME, Params


def unbounded(schema: dict, path: str = "") -> list[str]:
    """Return the paths in a JSON schema of what may be as large, as long or as many as it likes."""
    found = []
    kind = schema.get("type")
    if kind in ("integer", "number") and not schema.keys() & {"maximum", "exclusiveMaximum", "const", "enum"}:
        found.append(path)
    has_end = schema.get("pattern", "").endswith("}$") or schema.keys() & {"maxLength", "const", "enum"}
    if kind == "string" and not has_end:
        found.append(path)
    if kind == "array" and "maxItems" not in schema:
        found.append(path)
    sections = (schema.get("additionalProperties"), schema.get("patternProperties"))
    if any(isinstance(each, dict) for each in sections) and "maxProperties" not in schema:
        found.append(path)
    for name, each in schema.items():
        parts = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else []
        if isinstance(each, dict):
            found += unbounded(each, f"{path}/{name}")
        else:
            found += [
                line
                for i, part in parts
                if isinstance(part, dict)
                for line in unbounded(part, f"{path}/{name}/{i}")
            ]
    return found


def test_everything_has_an_upper_bound():
    """A field, of today or of later, takes a number, a text, a list or a section without an end."""
    content = Params.model_json_schema()
    names = {"pattern": NAME, "type": "string"}  # a name's length is settled with what a name may hold

    def without_names(schema):
        if isinstance(schema, list):
            return [without_names(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if all(schema.get(key) == value for key, value in names.items()):
            return {}
        return {key: without_names(each) for key, each in schema.items()}

    assert unbounded({"type": "array", "items": {"type": "number"}}) == ["", "/items"]
    assert unbounded(without_names(content)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 16384, "depth": 1000}, "parameters, more than 2500000000"),
        ({"image_size": 4096, "patch_size": 1}, "16777216 of them, more than 16384"),
    ],
)
def test_a_model_too_large_as_a_whole_is_one_line(changes, words):
    """Sizes that are each within their bounds take all memory together."""
    found = the_fault(changed("models.vit", BASE["models"]["vit"] | changes | {"heads": 4}))
    assert found.startswith("models.vit: ") and found.endswith(words)


def test_the_largest_vits_are_let_through():
    """ViT-H/14 at 518 px or ViT-G/14 is refused."""
    for sizes in ((518, 14, 1280, 32, 16, 5120), (224, 14, 1664, 48, 16, 8192)):
        names = ("image_size", "patch_size", "dim", "depth", "heads", "mlp_dim")
        content = changed("models.big", BASE["models"]["vit"] | dict(zip(names, sizes)))
        assert faults(content) == []


def test_thousands_of_faults_are_a_hundred_lines():
    """A file of 50,000 unknown keys fills the terminal."""
    found = faults(BASE | {f"k{i}": 1 for i in range(5000)})
    assert len(found) == 101 and found[-1] == "params.yaml: and 4900 more faults"


@pytest.mark.parametrize(
    "content", [BASE | {"lr": "x\n" * 10**5}, BASE | {"k\n\x1b" * 10**5: 1}, BASE | {"seed": 10**5000}]
)
def test_a_long_value_is_a_short_line(content):
    """A value or a key of megabytes, or one that a terminal can't print, stands in its line as it is."""
    line = the_fault(content)
    assert len(line) < 600 and line.isprintable()
