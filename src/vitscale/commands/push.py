"""An exported folder goes to the Hugging Face hub, as one commit of a repository of models."""

import argparse
import os
import shlex
import sys
import warnings
from pathlib import Path

from vitscale.base.errors import UserError, one_line

# What an export can have beside its card: in the repository they are those of the last export, or gone.
FILES = ("model.onnx", "config.json", "model.safetensors", "preprocessor_config.json")
LOGIN = "`hf auth login` with a token of the kind write, from https://huggingface.co/settings/tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that send an export to the hub."""
    parser.add_argument(
        "--push", metavar="USER/NAME", help="send the export to this repository of the Hugging Face hub too"
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push: the repository is private, or nothing is sent"
    )


def prepare(name: str | None, private: bool) -> None:
    """See that the hub can be reached and takes the token, before an export takes its time.

    Raises UserError where it can't, doesn't, or the name or the options are wrong. Nothing is written.
    """
    if name is None:
        if private:
            raise UserError("--private says how to push; it needs --push USER/NAME")
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {name} is no name of a repository ({one_line(error)})") from error
    if name.count("/") != 1:
        raise UserError(f"--push {name} is no name of a repository: give USER/NAME")
    try:
        account = HfApi().whoami()
    except Exception as error:  # whatever the hub's client, its HTTP library or a proxy's answer raise
        raise UserError(f"nothing is exported: {reason(name, error)}") from error
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise UserError(f"nothing is exported: the token may only read; {LOGIN}{_named_by_environment()}")


def push(folder: Path, name: str, private: bool, row: str) -> str:
    """Send all files of a row's exported folder as one commit; return the repository's address.

    The repository is made where there is none. Files of FILES that this export lacks are deleted there, so
    that none is of another model; git's history on the hub keeps them. Raises UserError where that fails;
    the folder stays, and so does what the repository had.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, again = HfApi(), shlex.join(["hf", "upload", name, str(folder), *(["--private"] if private else [])])
    try:
        url = str(api.create_repo(name, private=private or None, exist_ok=True))
        there = api.model_info(name)
        if private and not there.private:
            raise UserError(
                f"{name} is there already, and public, so nothing was sent: make it private on "
                f"{url}/settings, then `{again}` sends {folder}"
            )
        ours = {path.name: path for path in sorted(folder.iterdir())}
        old = sorted({each.rfilename for each in there.siblings or []} & set(FILES) - set(ours))
        with warnings.catch_warnings(record=True) as said:  # what the hub finds in the card
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            api.create_commit(
                name,
                [CommitOperationAdd(path_in_repo=file, path_or_fileobj=path) for file, path in ours.items()]
                + [CommitOperationDelete(path_in_repo=file) for file in old],
                commit_message=f"vitscale export {row}",
            )
        for warning in said:
            print(f"note: {one_line(UserWarning(warning.message))}", file=sys.stderr)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"stopped; {folder} is whole: `{again}` sends it") from error
    except UserError:
        raise
    except Exception as error:  # whatever the hub's client, its HTTP library or hf_xet raise
        raise UserError(
            f"{folder} is exported but not pushed: {reason(name, error)}; then `{again}` sends it"
        ) from error
    return url


def reason(name: str, error: BaseException) -> str:
    """Return why the hub doesn't take something, and the way out, for what its client raised."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    hub = constants.ENDPOINT
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading …"
        error, hub = error.__cause__, f"{hub}'s storage"  # which knows no token: its addresses are secret
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token of the hub; {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the hub's client off the network; unset it"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401 and hub == constants.ENDPOINT:
            return f"{hub} refuses the token; {LOGIN}{_named_by_environment()}"
        if status == 403 and hub == constants.ENDPOINT:
            owner = name.split("/")[0]
            return (
                f"the token may not write to {name}: take a name of your own, or {LOGIN}, of {owner} or a "
                f"member of it{_named_by_environment()}"
            )
        said = " ".join((error.server_message or "").split()) or error.response.reason_phrase
        return f"{hub} answers {status} ({said}); try again later, or mend what it says"
    if isinstance(error, ValueError):  # a card that the hub doesn't take, among others
        return one_line(error)
    said = one_line(Exception(error)) or type(error).__name__
    return f"{hub} can't be reached, or broke off ({said}); see to the network"


def _named_by_environment() -> str:
    """Say that HF_TOKEN goes before a login, where it is set."""
    return "; HF_TOKEN is set and goes before a login" if os.environ.get("HF_TOKEN") else ""
