"""What goes wrong far away, each as one line with what to do about it."""

from __future__ import annotations

import math
import os
import socket
from shlex import quote
from typing import TYPE_CHECKING

from convinspect.errors import PACKAGES, BrokenFile, ChangedMeanwhile, ConvInspectError, NotInstalled, NotThere, named
from convinspect.remote.secrets import without_secrets

if TYPE_CHECKING:
    from convinspect.remote.addresses import Address

_LOGINS = {
    "hf": "log in with hf auth login, or set HF_TOKEN",
    "s3": "see whether AWS_ACCESS_KEY_ID or AWS_PROFILE names who may read it; a public bucket: FSSPEC_S3_ANON=true",
    "gs": "log in with gcloud auth application-default login",
    "http": "give an address that holds the login, or ask its owner",
}
_AGAIN = "see whether its server and the network are well, and try again"
_MOST_TEXT = 160


def of_status(path: Address, status: int, again_in: float | None = None) -> ConvInspectError:
    """The error for an answer of HTTP that is no success.

    Args:
        path: What was asked for.
        status: The answer's number.
        again_in: Seconds for which it asks to be left alone, where it does.
    """
    login = _LOGINS.get(path.scheme, _LOGINS["http"])
    if status == 401:
        return NotThere("its server asks who is there (401)", login, path)
    if status == 403:
        return NotThere("its server does not give it to whoever asks (403)", login, path)
    if status in (404, 410):
        return NotThere(f"there is no such file ({status})", "see whether the address is right", path)
    if status == 429:
        return BrokenFile("its server has had too many requests (429)", _after(again_in), path)
    if status >= 500:
        remedy = _AGAIN if again_in is None else _after(again_in)
        return BrokenFile(f"its server failed ({status})", remedy, path)
    return BrokenFile(f"its server answers {status}", _AGAIN, path)


def _after(seconds: float | None) -> str:
    known = seconds is not None and math.isfinite(seconds)
    return f"wait {math.ceil(seconds or 0):,} seconds, and try again" if known else "wait a while, and try again"


def no_ranges(path: Address) -> ConvInspectError:
    """The error for a server that sends the whole file only."""
    problem = "its server sends no parts of a file (it answers 200 to a request with a Range)"
    return BrokenFile(problem, f"fetch all of it: curl -LO {quote(named(path))}", path)


def changed(path: Address) -> ConvInspectError:
    """The error for a file that is another one than a moment ago."""
    return ChangedMeanwhile("it changed while it was read", "try again", path)


def other_bytes(path: Address, why: str) -> ConvInspectError:
    """The error for a server that does not send what was asked for."""
    return BrokenFile(f"its server sends other bytes than were asked for ({why})", "fetch it in another way", path)


def redirected(path: Address, where: str) -> ConvInspectError:
    """The error for a server that sends whoever asks to an address of a kind that is not followed."""
    problem = f"its server redirects to {without_secrets(where)}, which is not followed"
    return BrokenFile(problem, "give the address itself where you trust it", path)


def no_answer(path: Address, seconds: float) -> ConvInspectError:
    """The error for a server that is silent for too long."""
    return BrokenFile(f"its server did not answer within {seconds:g} seconds", _AGAIN, path)


def no_address(path: Address) -> ConvInspectError:
    """The error for a text that begins like an address, and is none."""
    return NotThere("it is no address that a server could be found by", "see how it is spelled", path)


def broke_off(path: Address) -> ConvInspectError:
    """The error for a connection that ended before all was sent."""
    return BrokenFile("the connection to its server broke off", _AGAIN, path)


def of_exception(error: BaseException, path: Address) -> ConvInspectError:
    """The error for what a library raised on the way to a file."""
    if isinstance(error, ConvInspectError):
        return error
    if (missing := _not_installed(error, path.scheme)) is not None:
        return missing
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "NoCredentialsError" in kinds or isinstance(error, PermissionError):
        return NotThere(f"it may not be read ({_text(error)})", _LOGINS.get(path.scheme, "ask its owner"), path)
    if kinds & {"GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError"}:
        return NotThere("there is no such repository or revision, or it is private", _LOGINS["hf"], path)
    if isinstance(error, FileNotFoundError):
        if any("repository" in text.lower() for text in map(str, (error, error.__cause__))):
            return NotThere("there is no such repository, or it is private", _LOGINS["hf"], path)
        # A bucket or a file may itself be called so.
        is_bucket = type(error.__cause__).__name__ == "NoSuchBucket" or "bucket does not exist" in str(error).lower()
        what = "bucket" if is_bucket else "file"
        return NotThere(f"there is no such {what}", "see whether the address is right", path)
    if isinstance(error, IsADirectoryError):
        return NotThere("it is a folder, not a file", "give the address of a file in it", path)
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return NotThere(f"fsspec knows no addresses that begin with {path.scheme}://", "fetch it first", path)
    # The last is what it says of `hf://` alone.
    unnamed = type(error) is ValueError or "HFValidationError" in kinds or isinstance(error, NotImplementedError)
    if path.scheme == "hf" and unnamed:
        return NotThere("it names no repository of the Hub", "give hf://OWNER/NAME", path)
    if isinstance(error, TimeoutError) or "FSTimeoutError" in kinds:
        return BrokenFile("its server did not answer in time", _AGAIN, path)
    if (status := _status_of(error)) is not None:
        return of_status(path, status)
    return BrokenFile(f"it cannot be read ({_text(error)})", _AGAIN, path)


def of_connection(error: OSError, path: Address, host: str) -> ConvInspectError:
    """The error for a connection that could not be made."""
    inner = getattr(error, "os_error", error)
    if "certificate" in str(error).lower() or "ssl" in type(error).__name__.lower():
        remedy = "see whether the address is right, or let SSL_CERT_FILE name the certificates that you trust"
        return NotThere(f"the certificate of {host} is not trusted", remedy, path)
    if isinstance(inner, socket.gaierror) or "DNS" in type(error).__name__:
        return NotThere(f"there is no host {host}", "see whether the address is right, and the network is up", path)
    reason = os.strerror(inner.errno) if inner.errno else "no connection"
    return NotThere(f"{host} cannot be reached ({reason})", _AGAIN, path)


def _not_installed(error: BaseException, scheme: str) -> NotInstalled | None:
    """The error for a package that is missing, which fsspec's own error names in the one that it is raised from."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ModuleNotFoundError) and link.name is not None:
            package = link.name.partition(".")[0]
            # Of others the libraries themselves depend on.
            return NotInstalled(package, f"an address that begins with {scheme}://") if package in PACKAGES else None
        link = link.__cause__ or link.__context__
    return None


def _status_of(error: BaseException) -> int | None:
    """The number of the answer that an exception of httpx, aiohttp or botocore is about."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None)
    return found if isinstance(found, int) and found >= 400 else None


def _text(error: BaseException) -> str:
    return _first_line(without_secrets(str(error))) or type(error).__name__


def _first_line(text: str) -> str:
    line = (text.strip().splitlines() or [""])[0].strip()
    return line if len(line) <= _MOST_TEXT else line[: _MOST_TEXT - 1] + "…"
