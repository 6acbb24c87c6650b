"""URLs: what is one, what of it may be shown, and what tells its content from that of others."""

import re
from pathlib import Path

# A path that went through `Path` has one slash left.
_SCHEME = r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]+:/+)"
# github://OWNER:REPOSITORY@BRANCH/... only looks as if it held a password.
_WITH_PASSWORD = re.compile(rf"{_SCHEME}(?<!github://)(?<!github:/)(?!\[)[^\s/?#@:]*:\S*@", re.IGNORECASE)
_WITH_USER = re.compile(rf"{_SCHEME}[^\s/?#@:\"']+@")
# Not of a host, whose colon a port follows, or the rest of a sentence.
_WITH_SPACES = re.compile(
    rf"{_SCHEME}(?<!github://)(?<!github:/)(?!\[)[^\s/?#@:\"']*:(?!\d*(?:[/?#\s\"',;)\]]|$))[^/?#@\"'\r\n]*@",
    re.IGNORECASE,
)
# Of a message that shows the beginning of a value; what follows the colon of HOST:PORT is a number.
_CUT_OFF = re.compile(
    rf"{_SCHEME}(?<!github://)(?<!github:/)(?!\[)[^\s/?#@:\"']*:(?!\d*(?:[/?#\s\"',;)\]]|$))[^\s@]+(?!\S*@)",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"([?&#;][^=&#\s]*(?:signature|sig|token|key|secret|passw|pass(?=[=_-])|pwd|credential|auth(?!or)|jwt)[^=&#\s]*="
    r"[\"']?)[^&#\s\"']+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\b(gh[oprsu]_|github_pat_|hf_)[A-Za-z0-9]{16}\w*")

SIGNING = ("x-amz-", "x-goog-")
"""How parameters begin that sign a URL of S3 or Google Cloud Storage."""
SIGNATURE = {
    *("signature", "sig", "token", "access_token", "expires"),
    *("awsaccesskeyid", "googleaccessid", "ossaccesskeyid"),
}
"""Parameters that say who may fetch something, and until when."""
WITH_SIGNATURE = {
    *("policy", "key-pair-id", "sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv"),
}
"""Those of CloudFront and Azure, which may be anything in a URL without a signature."""

_copies: dict[str, str] = {}
"""By the path of each copy that this process reads: its URL, as it may be shown."""


def is_url(name: object) -> bool:
    """Whether a name is a URL rather than a path.

    >>> is_url("s3://bucket/features.h5"), is_url("features/a.h5")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)", str(name)) is not None and "://" in str(name)


def masked(text: str) -> str:
    """Return a text with the credentials of URLs in it replaced: user and password, and secrets of signed URLs.

    Where a password holds "/" or "@", more than the password may be: what is after the last "@" stays.

    >>> masked("sftp://me:sec/r@t@host/a.h5, https://host/a.h5?X-Signature=12ab&part=1")
    'sftp://***@host/a.h5, https://host/a.h5?X-Signature=***&part=1'
    """
    if ":/" in text:
        for pattern in (_WITH_PASSWORD, _WITH_SPACES, _WITH_USER):
            text = pattern.sub(r"\1***@", text)
        text = _CUT_OFF.sub(r"\1***", text)
    return _TOKEN.sub(r"\1***", _SECRET.sub(r"\1***", text))


def identity(url: str) -> str:
    """Return a URL without what may differ when the same is fetched again: password, signature, time of expiry.

    >>> identity("https://me:secret@host/a.h5?part=1&Expires=7&Signature=12ab")
    'https://me@host/a.h5?part=1'
    """
    url = re.sub(rf"{_SCHEME}(?<!github://)([^\s/?#@:]*):[^\s/?#]*@", r"\1\2@", url)
    return re.sub(r"(https?://[^?#]*)\?([^#]*)", _unsigned, url)


def _unsigned(found: "re.Match[str]") -> str:
    words = found[2].split("&")
    names = [word.partition("=")[0].lower() for word in words]
    dropped = SIGNATURE | (WITH_SIGNATURE if {"sig", "signature"} & set(names) else set())
    kept = [w for w, name in zip(words, names, strict=True) if name not in dropped and not name.startswith(SIGNING)]
    return f"{found[1]}?{'&'.join(kept)}" if kept else found[1]


class Masked(Exception):
    """An error whose message shows no credentials of URLs."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(value) if isinstance(value, str) else value for value in arguments))


def note_copy(path: Path, url: str) -> Path:
    """Return the path of a copy, of which errors are to name the URL."""
    _copies[str(path)] = url
    return path


def with_urls(text: str) -> str:
    """Return an error with URLs instead of the copies that it names, and at its end where these are."""
    for path, url in _copies.items():
        if path in text:
            text = f"{text.replace(path, url)}; {url} was read from its copy {path}"
    return text
