"""A repository of the Hugging Face hub: its config and index are fetched, never weights.

The client library keeps its usual habits: ``HF_ENDPOINT`` names a mirror, ``HF_HOME`` the
cache, ``HF_HUB_OFFLINE`` forbids the network, and a token opens gated repositories.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from kvsim.errors import InputError, MissingExtraError
from kvsim.readers.checkpoint import INDEX_FILE, spec_from_folder
from kvsim.readers.huggingface.config import CONFIG_FILE, QUANTIZATION_FILE
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.readers.huggingface.quantization import states_quantization
from kvsim.readers.json_file import read_json_object
from kvsim.specs.model import ModelSpec

__all__ = ["spec_from_hub"]

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_PART}(?:/{_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def spec_from_hub(
    repo_id: str, revision: str | None = None, overrides: Overrides | None = None
) -> ModelSpec:
    """Fetch a repository's ``config.json``, and beside it what it has of two files.

    They are its weight index, and ModelOpt's account of the weights' formats where the config
    gives none.

    Parameters
    ----------
    repo_id : str
        "org/name", or "name" for the hub's oldest models.
    revision : str, optional
        Branch, tag or commit; None is the default branch.
    overrides : Overrides, optional
        Fields in place of the config's own.

    Returns
    -------
    ModelSpec
        With `hf_id` set, and `weight_bytes_on_disk` where an index tells it.

    Raises
    ------
    MissingExtraError
        Without the package huggingface_hub.
    InputError
        When the name is malformed, unknown or gated, or nothing can be reached and the
        cache does not hold it.
    """
    where = f"hf:{repo_id}"
    _check_names(repo_id, revision, where)
    hub = _client()
    with _one_line_errors(hub, where):
        config = _fetch(hub, repo_id, CONFIG_FILE, revision)
        commit = config.parent.name  # .../snapshots/<commit>/config.json
        _fetch_if_there(hub, repo_id, INDEX_FILE, commit)  # models of one file have none
        if not states_quantization(read_json_object(config)):
            _fetch_if_there(hub, repo_id, QUANTIZATION_FILE, commit)
    spec = spec_from_folder(config.parent, overrides)
    name = repo_id.rpartition("/")[2]
    return spec.model_copy(update={"name": name, "hf_id": repo_id, "source": where})


def _check_names(repo_id: str, revision: str | None, where: str) -> None:
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise InputError(
            f"{repo_id[:80]!r} is not a repository's name", fix="write hf:org/name, as on the hub"
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"{revision[:80]!r} is not a revision", where=where)


def _client() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils.logging
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", "reading a model from the hub") from None
    # Its retries are no lines of ours.
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    module: ModuleType = huggingface_hub
    return module


def _fetch(hub: ModuleType, repo_id: str, filename: str, revision: str | None) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return Path(hub.hf_hub_download(repo_id, filename, revision=revision, endpoint=endpoint))


def _fetch_if_there(hub: ModuleType, repo_id: str, filename: str, commit: str) -> None:
    """Fetch a file that lies beside some configs."""
    if hub.try_to_load_from_cache(repo_id, filename, revision=commit) is not None:
        return  # a commit never changes: it is cached, or known to be absent
    try:
        _fetch(hub, repo_id, filename, commit)
    except hub.errors.EntryNotFoundError:
        return


@contextmanager
def _one_line_errors(hub: ModuleType, where: str) -> Iterator[None]:
    """Turn what the client raises into one line with the way out."""
    try:
        yield
    except hub.errors.GatedRepoError:
        fix = "accept its licence on the hub, and set HF_TOKEN"
        raise InputError(
            "is gated, and this token does not open it", where=where, fix=fix
        ) from None
    except hub.errors.RepositoryNotFoundError:
        fix = "check the spelling; a private repository needs HF_TOKEN"
        raise InputError("no such repository on the hub", where=where, fix=fix) from None
    except hub.errors.RevisionNotFoundError:
        raise InputError("has no such revision", where=where) from None
    except hub.errors.LocalEntryNotFoundError:
        fix = "connect, unset HF_HUB_OFFLINE, or give the path of a config.json"
        raise InputError(_unreachable(), where=where, fix=fix) from None
    except hub.errors.EntryNotFoundError:
        fix = "give a repository in transformers layout, or a .gguf file"
        raise InputError(f"has no {CONFIG_FILE}", where=where, fix=fix) from None
    except Exception as error:  # two HTTP libraries, by version of the client
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot be fetched: {line[:200]}", where=where) from None


def _unreachable() -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "the hub"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "is not in the cache, and HF_HUB_OFFLINE is set"
    return f"is not in the cache, and {endpoint} cannot be reached"
