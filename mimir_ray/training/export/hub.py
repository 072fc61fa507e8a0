"""An export becomes a repository of the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id  # type: ignore[attr-defined]

from mimir_ray.config import UserError
from mimir_ray.training.export.directory import ACCOUNT


def require_writable(repo: str, out: str) -> None:
    """Look before any work whether ``out`` can go to ``repo``.

    Raises:
        UserError: no name of a repository, one that holds something else than an export, nobody who is logged in, no
            hub, or an ``out`` that is not on this machine.
    """
    if repo.count("/") != 1:
        raise UserError(f"--push {repo!r} is no repository; name OWNER/NAME")
    if "://" in out:
        raise UserError(f"{out} is not on this machine, from which --push uploads: give a directory with --out")
    with _in_words(repo):
        validate_repo_id(repo)
        HfApi().whoami()
        held = _held(repo)
    if held and ACCOUNT not in held:
        raise UserError(f"{repo} holds something else than an export, which would be lost; choose another --push")


def push(folder: str, repo: str) -> str:
    """Upload a directory in place of the export that the repository may hold; returns its address.

    Raises:
        UserError: the hub does not take it, with its reason and what to do.
    """
    with _in_words(repo, f"; the export itself is at {folder}"):
        url = HfApi().create_repo(repo, private=True, exist_ok=True)
        # What an export of another form had would be read with this one.
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="mimir export", delete_patterns="*")
    return str(url)


def _held(repo: str) -> set[str]:
    try:
        return set(HfApi().list_repo_files(repo)) - {".gitattributes", "README.md"}
    except RepositoryNotFoundError:
        return set()


@contextmanager
def _in_words(repo: str, and_then: str = "") -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"--push {repo!r} is no repository: {error}") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{repo} cannot be reached, as HF_HUB_OFFLINE is set: unset it") from None
    except (httpx.HTTPError, LocalTokenNotFoundError, OSError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, LocalTokenNotFoundError) or status == 401:
            told = f"the hub does not know who uploads to {repo}: run `hf auth login`, or set HF_TOKEN"
        elif status == 403:
            told = f"the hub refuses {repo} ({reason}): use a token that may write there, or another name"
        else:
            told = f"{repo} cannot be uploaded to ({reason}): see that HF_ENDPOINT and the network work, and try again"
        raise UserError(told + and_then) from error
