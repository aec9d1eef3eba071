"""A stranger who has nothing but HTTP: what browsers and programs send, and what neither would."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import httpx

from lumiere.page import strings

PATIENCE = 600  # s; only a failing test waits that long, and a busy machine takes minutes to start a page
CLIP = {"prompt": "a red ball bouncing", "frames": 8, "steps": 2, "seed": 7}  # unless a test says otherwise
LABELS = {name: label for name, (label, _) in strings.FIELDS.items()}


class Stranger:
    """One visitor, or one program; `session` is the name that a browser gives itself."""

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False)
        self.session = secrets.token_hex(6)

    def post(self, path: str, body, **options) -> httpx.Response:
        """body: whatever JSON can hold, and what Python's adds to it (NaN), or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        return self.http.post(f"/gradio_api/{path}", content=content, headers=headers, **options)

    # Programs: the typed endpoints, one for each mode.

    @cached_property
    def endpoints(self) -> dict:
        return self.http.get("/gradio_api/info").json()["named_endpoints"]

    def values(self, endpoint: str = "generate", **fields) -> list:
        """What is sent to an endpoint: its own values and those of `CLIP`, but for these fields."""
        usual = {
            each["parameter_name"]: each.get("parameter_default")
            for each in self.endpoints[f"/{endpoint}"]["parameters"]
        }
        return list((usual | CLIP | fields).values())

    def call(self, data: list, endpoint: str = "generate") -> tuple[str, object]:
        """What an endpoint answers to these values: ("complete", [file, settings]) or ("error", sentence)."""
        answer = self.post(f"call/{endpoint}", {"data": data})
        if answer.status_code != 200:
            return "error", answer.json()["detail"]
        with self.listening(answer.json()["event_id"], endpoint) as stream:
            return finished(stream)

    def generate(self, endpoint: str = "generate", **fields) -> tuple[str, object]:
        return self.call(self.values(endpoint, **fields), endpoint)

    def begin(self, **fields) -> str:
        """Asks for a clip without waiting for it; returns the id of the event."""
        return (
            self.post("call/generate", {"data": self.values(**fields)}).raise_for_status().json()["event_id"]
        )

    @contextmanager
    def listening(self, event: str, endpoint: str = "generate"):
        with self.http.stream("GET", f"/gradio_api/call/{endpoint}/{event}") as stream:
            yield stream

    def refusal(self, endpoint: str = "generate", **fields) -> str:
        """The sentence with which a clip is refused, checked to be one."""
        outcome, told = self.generate(endpoint, **fields)
        assert outcome == "error", told
        return sentence(told)

    # The page.

    @cached_property
    def config(self) -> dict:
        return self.http.get("/config").json()

    def event(self, name: str) -> dict:
        return next(each for each in self.config["dependencies"] if each["api_name"] == name)

    def form(self, **fields) -> list:
        """What the page sends for a clip: the values of its form as it opens, but for these fields."""
        parts = {part["id"]: part["props"] for part in self.config["components"]}
        given, data = CLIP | {"randomise": False} | fields, []
        for part in self.event("make")["inputs"]:
            props = parts[part]
            own = {"value": props.get("value")}
            for name, value in given.items():
                if props.get("elem_id") == name or props.get("label") == LABELS.get(name, name):
                    own["value"] = value
            data.append(own["value"])
        return data

    def press(self, name: str, data: list) -> httpx.Response:
        """Sends an event of the page, and does not wait for what comes of it."""
        body = {"data": data, "fn_index": self.event(name)["id"], "session_hash": self.session}
        return self.post("queue/join" if self.event(name)["queue"] else f"run/{name}", body)

    def news(self) -> Iterator[dict]:
        """The messages for this visitor, until there are none to come."""
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in lines(stream):
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def make(self, **fields) -> dict:
        """Makes a clip on the page; the last status that it shows."""
        self.press("make", self.form(**fields)).raise_for_status()
        return status(list(self.news()))

    # Files.

    def upload(self, *files: tuple[str, bytes]) -> httpx.Response:
        return self.http.post("/gradio_api/upload", files=[("files", file) for file in files])

    def uploaded(self, name: str, data: bytes) -> str:
        """The path under which the server keeps a file that it took."""
        return self.upload((name, data)).raise_for_status().json()[0]

    def file(self, name: str, data: bytes) -> dict:
        """An uploaded file as the value of an endpoint."""
        return {"path": self.uploaded(name, data), "meta": {"_type": "gradio.FileData"}}

    def fetch(self, path: str) -> httpx.Response:
        return self.http.get(f"/gradio_api/file={path}")


def lines(stream) -> Iterator[str]:
    """As browsers do: httpx also breaks lines at U+2028, which JSON may hold as it is."""
    rest = ""
    for text in stream.iter_text():
        *whole, rest = (rest + text).split("\n")
        yield from whole


def finished(stream) -> tuple[str, object]:
    """The last event of a stream of `/call`."""
    kind = None
    for line in lines(stream):
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: ") and kind in ("complete", "error"):
            value = json.loads(line[6:])
            return kind, value["error"] if kind == "error" and isinstance(value, dict) else value
    raise AssertionError("the stream ended without an end")


def status(messages: list[dict]) -> dict:
    """The status of the page in the last of these messages that ends an event."""
    last = [message for message in messages if message["msg"] == "process_completed"][-1]
    return next(value for value in last["output"]["data"] if isinstance(value, dict) and "state" in value)


def sentence(text) -> str:
    """Checks that a refusal is one: without a traceback, markup or the names of files."""
    assert type(text) is str and text[:1].isupper() and text.endswith("."), text
    assert "\n" not in text and len(text) < 250 and not set(text) & set("<>{}/$"), text
    assert "Traceback" not in text and "Error" not in text, text
    return text
