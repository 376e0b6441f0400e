"""Print the stages of a pipeline as a Mermaid picture, to paste into Markdown: GitHub and GitLab draw it.

A box is a stage of dvc.yaml, with the number of entries that it runs for; an arrow leads from the stage that
makes a file to the one that needs it. `check`, which all wait for, has no arrows.
"""

import argparse

from vitscale.commands.main import add_pipeline
from vitscale.pipeline.graph import declared, pipeline_in


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_pipeline(parser)


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError where there is no pipeline of ours."""
    print(picture(declared(*pipeline_in(arguments.pipeline))), end="")


def edges(stages: dict[str, dict[str, list[str]]]) -> set[tuple[str, str]]:
    """Return which stage's output another stage needs, as pairs of names without entries.

    An output that lies in a folder which is a dependency counts as well. `check` is left out.
    """
    made = {out: label for label, stage in stages.items() for out in stage["outs"]}
    needed = {
        (made[out], label)
        for label, stage in stages.items()
        for dep in stage["deps"]
        for out in made
        if out == dep or out.startswith(f"{dep}/")
    }
    pairs = {(first.split("@")[0], second.split("@")[0]) for first, second in needed}
    return {(first, second) for first, second in pairs if first != "check"}


def picture(stages: dict[str, dict[str, list[str]]]) -> str:
    """Return the pipeline's graph as Mermaid text: a box a stage, in dvc.yaml's order."""
    labels = [label.split("@") for label in stages]
    lines = ["```mermaid", "flowchart LR"]
    for name in dict.fromkeys(label[0] for label in labels):
        entries = sum(label[0] == name and len(label) > 1 for label in labels)
        lines.append(f'  {name}["{name}{f" × {entries}" if entries else ""}"]')
    lines += [f"  {first} --> {second}" for first, second in sorted(edges(stages))]
    return "\n".join([*lines, "```", ""])
