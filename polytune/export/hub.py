"""Upload of an exported folder, and what to do when the Hub refuses. The token is huggingface_hub's own business."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from polytune.errors import ToldError

CARD = "README.md"


class PushError(ToldError, RuntimeError):
    """The upload failed; the message says why, what to do, and that the local folder is whole."""


def push(folder: Path, repo: str, *, private: bool, overwrite_card: bool) -> str:
    """Upload ``folder`` to the model repository ``repo`` in one commit, made where it does not exist.

    A README.md that the repository has stays unless ``overwrite_card``. Returns the commit's address.

    Raises:
        PushError: not logged in, no network, no permission, no room.
    """
    bars = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        api = HfApi()
        api.whoami()
        address = api.create_repo(repo, private=private, exist_ok=True)
        keeps = not overwrite_card and api.file_exists(repo, CARD)
        if keeps:
            print(f"note: {address} has a {CARD}, which stays: --overwrite_card true replaces it")
        if private and not api.model_info(repo).private:
            print(f"note: {address} is public already, and stays so")
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Upload policy fine-tuned with polytune",
            ignore_patterns=[CARD] if keeps else None,
        )
        return done.commit_url
    except (HfHubHTTPError, httpx.HTTPError, LocalTokenNotFoundError, OSError, ValueError, RuntimeError) as error:
        raise PushError(
            f"{repo} was not pushed: {why(error, repo)}. The export is whole in {folder}: the same command "
            "pushes again."
        ) from error
    finally:
        if not bars:
            enable_progress_bars()


def why(error: BaseException, repo: str) -> str:
    """Reason and remedy of a failed upload. Only the server's own message is quoted, never a request or its headers."""
    causes = list(_causes(error))
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in causes):
        return "you are not logged in to the Hub: run `hf auth login` with a token that may write"
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return "HF_HUB_OFFLINE forbids the network: unset it"
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause.response.status_code, _said(cause), repo)
    if any(isinstance(cause, httpx.HTTPError) for cause in causes):
        return f"the Hub cannot be reached ({type(causes[-1]).__name__}): check the network, a proxy and HF_ENDPOINT"
    text = str(error).splitlines()[-1] if str(error) else type(error).__name__
    if any(word in text.lower() for word in ("quota", "storage")):
        return f"the account has no room left ({text}): free storage on the Hub or push to another account"
    return f"{type(error).__name__}: {text}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _said(error: HfHubHTTPError) -> str:
    """The server's own words in one line."""
    words = " ".join((error.server_message or "").split())
    return f" ({words[:300]})" if words else ""


def _refused(status: int, said: str, repo: str) -> str:
    full = any(word in said.lower() for word in ("quota", "storage", "payment"))
    if full or status in (402, 413, 507):
        return f"the Hub has no room for it{said}: free storage there, make {repo} public, or push to another account"
    return {
        401: f"the Hub does not know your token{said}: run `hf auth login` with a valid one",
        403: f"your token may not write to {repo}{said}: use a token with write access, or a repository of your own",
        404: f"the Hub has no {repo} that you may see{said}: check USER/REPO and the token's permissions",
        429: f"the Hub asks to wait{said}: try again in some minutes",
    }.get(status, f"the Hub answered with status {status}{said}: try again later")
