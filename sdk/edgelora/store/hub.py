"""The door to the Hub's own client, `huggingface_hub`: everything that changes a remote repository.

It is imported when something is published, or when the Hub's token is asked for; reading needs neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from edgelora.errors import (
    AdapterNotFound,
    EdgeloraError,
    OfflineNotCached,
    PublishRaced,
    ReplyRefused,
    StoreError,
    StoreUnreachable,
)
from edgelora.store.endpoint import Endpoint, is_loopback, is_offline
from edgelora.store.http_connections import may_leave_by_proxy

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationCopy, HfApi

MAIN = "main"


class AlreadyThere(Exception):
    """A tag or branch of this name exists."""


def official_token() -> str | None:
    """The user's token for the Hub, from where its client keeps it; None if it may not be sent unasked."""
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


class HubClient:
    """Changes repositories of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._made: HfApi | None = None

    def make_repository(self, adapter: str, *, public: bool) -> None:
        """Make a repository; one that is there stays as it is."""
        with self._translated(adapter):
            self._api.create_repo(adapter, private=not public, exist_ok=True)

    def commit(
        self,
        adapter: str,
        additions: Mapping[str, BinaryIO],
        deletions: list[str],
        *,
        parent: str | None,
        message: str,
        branch: str = MAIN,
    ) -> str:
        """Change a branch in one commit, or not at all; the commit's id.

        Args:
            adapter: ``ns/name``.
            additions: Open files by their path in the repository.
            deletions: Paths to delete.
            parent: The commit that must still be the branch's newest.
            message: First line of the commit.
            branch: Which branch.

        Raises:
            PublishRaced: It no longer is.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        for file in additions.values():
            file.seek(0)
        with self._translated(adapter), _quiet_client():
            # Open files go by LFS, which every endpoint understands; by path they would need a xet service.
            operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
                *(CommitOperationAdd(path, file) for path, file in additions.items()),
                *(CommitOperationDelete(path, is_folder=False) for path in deletions),
            ]
            return self._api.create_commit(
                adapter, operations, commit_message=message, revision=branch, parent_commit=parent
            ).oid

    def make_branch(self, adapter: str, branch: str, *, start: str) -> None:
        """Make a branch; one that is there stays as it is."""
        with self._translated(adapter):
            self._api.create_branch(adapter, branch=branch, revision=start, exist_ok=True)

    def tag(self, adapter: str, version: str, *, commit: str) -> None:
        """Name a commit.

        Raises:
            AlreadyThere: The name is taken.
        """
        with self._translated(adapter):
            self._api.create_tag(adapter, tag=version, revision=commit, exist_ok=False)

    def untag(self, adapter: str, version: str) -> None:
        """Take a name away."""
        with self._translated(adapter):
            self._api.delete_tag(adapter, tag=version)

    @property
    def _api(self) -> HfApi:
        if is_offline():
            raise OfflineNotCached(
                f"{self._endpoint.address} is on a network, and edgelora is told to stay offline",
                fix="leave --offline out, or unset HF_HUB_OFFLINE and EDGELORA_OFFLINE",
            )
        if is_loopback(self._endpoint.url) and may_leave_by_proxy(self._endpoint.url):
            raise StoreError(
                f"{self._endpoint.address} is on this machine, and what is pushed there would go to a proxy",
                fix="leave this machine out of it: export NO_PROXY=localhost,127.0.0.1,::1",
            )
        if self._made is None:
            from huggingface_hub import HfApi

            # Without a token, the client's LFS calls would add the Hub's own token whatever the endpoint is,
            # unless the header is set already (huggingface_hub 2.4.0, lfs.py, post_lfs_batch_info).
            headers = None if self._endpoint.token else {"authorization": ""}
            self._made = HfApi(self._endpoint.url, token=self._endpoint.token or False, headers=headers)
        return self._made

    @contextmanager
    def _translated(self, adapter: str) -> Iterator[None]:
        """Let the client's failures be errors of edgelora, without a word of what was sent."""
        try:
            yield
        except EdgeloraError:
            raise
        # The client raises its own errors, those of its HTTP library, ValueError and RuntimeError.
        except Exception as error:
            raise self._error(_root_of(error), adapter) from None

    def _error(self, error: BaseException, adapter: str) -> Exception:
        from huggingface_hub.errors import HfHubHTTPError

        address = self._endpoint.address
        response = getattr(error, "response", None)
        if isinstance(error, HfHubHTTPError) and response is not None:
            return self._refusal(int(response.status_code), adapter)
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            return StoreUnreachable(
                f"{address} does not answer: {type(error).__name__}",
                fix="check the network and the address, then push again",
            )
        if isinstance(error, ValueError) and "metadata" in str(error).lower():
            return StoreError(
                f"{address} refuses the front matter of README.md",
                fix="correct it, then pack the adapter again",
            )
        return ReplyRefused(
            f"{address} answers a push in a way the Hub's client does not understand: {type(error).__name__}",
            fix="use another store, or tell its operator",
        )

    def _refusal(self, status: int, adapter: str) -> Exception:
        address = self._endpoint.address
        if status == 412:
            return PublishRaced(
                f"others publish to {adapter} in {address} at the same time", fix="run the push again"
            )
        if status == 409:
            return AlreadyThere()
        if status in (401, 403):
            return StoreError(
                f"{address} does not let this user write to {adapter} ({status})",
                fix="log in with a token that may write: hf auth login, or edgelora stores add --token-env",
            )
        if status == 404:
            return AdapterNotFound(f"{address} holds no {adapter}", fix="correct the name, or push it first")
        if status in (408, 429) or status >= 500:
            return StoreUnreachable(f"{address} answers {status}", fix="push again later")
        return ReplyRefused(f"{address} refuses the push with {status}", fix="tell the store's operator")


def _root_of(error: BaseException) -> BaseException:
    """The cause of what the client wrapped while uploading in threads."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client's own bars and warnings from stderr: edgelora says what is going on."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    log = logging.getLogger("huggingface_hub")
    level, restore = log.level, _nothing if are_progress_bars_disabled() else enable_progress_bars
    log.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        restore()


def _nothing() -> None:
    pass
