"""Where the page is served, read from the environment before gradio is imported (standard library only).

Gradio reads about thirty environment variables, which platforms set too. Most would change what is served: a
front proxy in Node replaces our signal handlers, static workers bypass the request guard, a public link opens
the page to everybody. Only the variables in `HONOURED` count; `ignore_others` removes the rest.
"""

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

HONOURED = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH", "GRADIO_TEMP_DIR")
HARMLESS = ("GRADIO_ANALYTICS_ENABLED",)  # off by our own arguments, so that nothing needs to be said
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
ROOT_PATH = re.compile(r"(/[\w.~-]+)*")
HTTP = re.compile(r"https?://[^\s/?#]+")


@dataclass(frozen=True)
class Site:
    """Where the page is served.

    Attributes:
        host: host name or address to listen on. None is 127.0.0.1.
        port: None is the first free port from 7860.
        root_path: path or address of the page behind a proxy; no trailing slash.
        url: public address for link previews; no trailing slash, empty if unknown.
    """

    host: str | None = None
    port: int | None = None
    root_path: str = ""
    url: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine is meant to reach the page."""
        return self.host in (None, "127.0.0.1", "::1", "localhost") and not (self.root_path or self.url)

    @classmethod
    def read(cls, environment: MutableMapping[str, str] = os.environ) -> "Site":
        """Reads the variables of the site.

        Args:
            environment: variables by name.

        Raises:
            ValueError: a variable is not valid; the message names it.
        """
        given = {name: environment.get(name, "").strip() for name in (*HONOURED, "LUMIERE_URL", "SPACE_HOST")}
        url = given["LUMIERE_URL"].rstrip("/")
        if url and not HTTP.match(url):
            raise ValueError(f"LUMIERE_URL must be an address such as https://example.org: received {url}.")
        space = given["SPACE_HOST"]
        return cls(
            host=given["GRADIO_SERVER_NAME"] or None,
            port=_port(given["GRADIO_SERVER_PORT"]),
            root_path=_root_path(given["GRADIO_ROOT_PATH"]),
            url=url or (f"https://{space}" if space else ""),
        )


def root_prefix(root_path: str) -> str:
    """Returns the path of a root path, which may be an address: `https://example.org/studio` -> `/studio`."""
    return urlsplit(root_path).path.rstrip("/")


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise ValueError(f"GRADIO_SERVER_PORT must be a whole number from 1 to 65535: received {text}.")
    return int(text)


def _root_path(text: str) -> str:
    """Normalises `studio/` to `/studio`; the router compares root paths character by character."""
    if HTTP.match(text):
        path = urlsplit(text).path
        address = text.rstrip("/")
    else:
        path = address = "/" + text.strip("/") if text.strip("/") else ""
    if not ROOT_PATH.fullmatch(path.rstrip("/")):
        raise ValueError(
            "GRADIO_ROOT_PATH must be a path such as /studio or an address such as "
            f"https://example.org/studio: received {text}."
        )
    return address


def ignore_others(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Removes gradio's variables that do not count.

    Args:
        environment: variables by name.

    Returns:
        Names of the removed variables whose value was not empty.
    """
    others = [name for name in environment if name.startswith("GRADIO_") and name not in HONOURED]
    return sorted(name for name in others if environment.pop(name) and name not in HARMLESS)


@contextmanager
def without_proxies(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Hides proxies and certificate files, which do not count for our own address.

    Gradio asks its own address at start. HTTP clients read these variables when they are created, at the
    import of gradio, and raise for an unsupported proxy or a missing certificate file; `no_proxy` does not
    prevent that. Use it at start only, while no other thread fetches anything.

    Args:
        environment: variables by name.
    """
    hidden = [name for name in environment if name.lower().endswith("_proxy") or name in CERTIFICATES]
    kept = {name: environment.pop(name) for name in hidden}
    try:
        yield
    finally:
        environment.update(kept)
