"""Published files: from the Hugging Face hub and from plain addresses, kept in the caches that other tools use."""

import hashlib
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from foveal.files import replacing
from foveal.weights.read import NAMES, WeightsError, is_plain, shards

ATTEMPTS = 5  # of a download that breaks off
PAUSE = 0.5  # seconds before the second attempt, twice as many before each further one
TIMEOUT = 20  # seconds without a byte
CHUNK = 1 << 20
LOGIN = 'log in with `hf auth login`, or set HF_TOKEN'
HASH = re.compile(r'-([0-9a-f]{8,64})\.')  # as torch.hub has it: the first digits of the file's sha256 in its name


def download(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """A file of a hub repository, from its cache or the network. A download that broke off goes on where it stopped.

    The environment says the rest, as for all of the hub's tools: HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT, HF_HOME.

    Args:
        repo_id: `owner/name`.
        filename: the file in the repository.
        revision: branch, tag or commit; the main branch if not given.
        cache_dir: the hub's cache if not given.
        local_files_only: take it from the cache or not at all.

    Raises:
        MissingFileError: the repository has no such file, or it is neither cached nor to be had now.
        WeightsError: it cannot be had for another reason; the message says why.
    """
    from huggingface_hub import errors, hf_hub_download

    wanted = f'{filename} of {repo_id}' + (f'@{revision}' if revision else '')
    try:
        return Path(
            hf_hub_download(
                repo_id, filename, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
            )
        )
    except errors.LocalEntryNotFoundError as error:
        raise MissingFileError(f'cannot fetch {wanted}: it is not in the cache, and {unreachable(error)}') from error
    except errors.EntryNotFoundError as error:
        raise MissingFileError(f'cannot fetch {wanted}: the repository has no such file') from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f'cannot fetch {wanted}: the repository has no revision {revision!r}') from error
    except errors.GatedRepoError as error:
        raise WeightsError(f'cannot fetch {wanted}: access has to be asked for at its page; then {LOGIN}') from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f'cannot fetch {wanted}: there is no such repository, or it is private: {LOGIN}') from error
    except errors.HFValidationError as error:
        raise WeightsError(f'{repo_id!r} is no repository of the hub, which are named owner/name') from error
    except Exception as error:  # whatever a network and its libraries raise
        raise WeightsError(f'cannot fetch {wanted}: {type(error).__name__}: {error}') from error


class MissingFileError(WeightsError):
    """A repository without the file that was asked for."""


def unreachable(error: BaseException) -> str:
    """Why the hub was not asked, or did not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return 'HF_HUB_OFFLINE forbids to ask the hub'
    cause = error.__cause__ or error.__context__
    return f'the hub cannot be reached ({cause or error})'


def split_revision(repository: str) -> tuple[str, str | None]:
    """('owner/name', 'revision') of 'owner/name@revision'; None where none is named."""
    repo_id, _, revision = repository.partition('@')
    return repo_id, revision or None


def download_weights(repository: str, filename: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """The weights of a hub repository.

    Args:
        repository: `owner/name`, or `owner/name@revision`.
        filename: the weights file; if not given, the first of `foveal.weights.read.NAMES` that is there.
        cache_dir: the hub's cache if not given.

    Returns:
        The file; of weights in several files the index, with its files beside it.

    Raises:
        WeightsError: as in `download`.
    """
    repo_id, revision = split_revision(repository)
    refused: MissingFileError | None = None
    for name in [filename] if filename else NAMES:
        try:
            path = download(repo_id, name, revision, cache_dir, local_files_only=offline(refused))
        except MissingFileError as error:
            refused = refused or error
            continue
        if name.endswith('.index.json'):
            for shard in sorted(set(named_shards(path).values())):
                # the folder of a snapshot is named for its commit: the files belong together
                download(repo_id, shard, path.parent.name, cache_dir)
        return path
    raise refused or MissingFileError(f'{repository} names no weights')


def offline(refused: MissingFileError | None) -> bool:
    """Whether the hub was found out of reach: then its cache alone is asked for further names."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return refused is not None and isinstance(refused.__cause__, LocalEntryNotFoundError)


def named_shards(index: Path) -> dict[str, str]:
    """`shards` of a downloaded index, with a clear error."""
    try:
        return shards(index)
    except ValueError as error:
        raise WeightsError(f'cannot read weights from {index}: {error}') from error


def download_url(url: str, cache_dir: str | Path | None = None) -> Path:
    """The file at an address, from torch's cache or the network.

    A name such as `resnet50-0676ba61.pth` holds the first digits of the file's SHA-256, which are checked; such a
    download goes on where an earlier one broke off. The file takes its place whole or not at all.

    Args:
        url: an http or https address that ends in a file name.
        cache_dir: folder to keep it in; `checkpoints` of torch's hub folder (`TORCH_HOME`) if not given.

    Raises:
        WeightsError: no such address, no network, an incomplete file, or one with another hash.
    """
    parts = urlsplit(url)
    name = unquote(parts.path.rpartition('/')[2])
    if parts.scheme not in ('http', 'https') or not is_plain(name):
        raise WeightsError(f'{url!r} is no http address of a file')
    path = folder_of_urls(cache_dir) / name
    if path.is_file():
        return path
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f'cannot fetch {url}: it is not in {path.parent}, and HF_HUB_OFFLINE forbids to ask for it')
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f'.{name}.lock')):
        return path if path.is_file() else download_locked(url, path)


def download_locked(url: str, path: Path) -> Path:
    """`download_url` where nobody else writes the file."""
    digest = HASH.search(path.name)
    with replacing(path) as temporary:
        # without a hash nobody could tell that the two halves are of one file
        partial = path.with_name(f'.{path.name}.partial') if digest else temporary
        try:
            fetch(url, partial)
        except (OSError, HTTPException, ValueError) as error:
            raise WeightsError(f'cannot fetch {url}: {explained(error)}') from error
        found = sha256(partial)
        if digest and not found.startswith(digest[1]):
            partial.unlink()
            raise WeightsError(f'{url} gave a file of SHA-256 {found[:16]}..., its name promises {digest[1]}...')
        if partial != temporary:
            partial.replace(temporary)
    return path


def folder_of_urls(cache_dir: str | Path | None) -> Path:
    """Where files of plain addresses are kept."""
    if cache_dir is not None:
        return Path(cache_dir)
    from torch.hub import get_dir

    return Path(get_dir()) / 'checkpoints'


def fetch(url: str, partial: Path) -> None:
    """Write an address's content to a file, after what is there already; a broken download is taken up again.

    Raises:
        OSError, HTTPException: the last attempt's error.
    """
    for attempt in range(ATTEMPTS):
        try:
            return fetch_rest(url, partial)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise
        except (OSError, HTTPException):
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(PAUSE * 2**attempt)
    return None


def fetch_rest(url: str, partial: Path) -> None:
    """One attempt: ask for what the file lacks, and append it."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {'User-Agent': 'foveal', 'Accept-Encoding': 'identity'} | ({'Range': f'bytes={have}-'} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        answer: Any = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing follows: the file was whole, or is longer than the address's
            return
        raise
    with answer, partial.open('ab') as file:
        if answer.status != 206:  # the server sends it from the start
            file.truncate(0)
        expected = answer.length
        written = 0
        while chunk := answer.read(CHUNK):
            written += file.write(chunk)
    if expected is not None and written < expected:
        raise ConnectionError(f'the connection broke after {written} of {expected} bytes')


def explained(error: Exception) -> str:
    """An error of a download in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answers {error.code} {error.reason}'
    return f'{error.reason}' if isinstance(error, urllib.error.URLError) else f'{type(error).__name__}: {error}'


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
