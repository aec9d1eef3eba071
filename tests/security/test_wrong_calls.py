"""Row 12: too many or too few inputs, unknown endpoint."""

import threading

import pytest

from tests.security.stranger import sentence


def calls(stranger) -> list[tuple]:
    """Path, body and the status of the answer."""
    values, make = stranger.values(), stranger.event("make")["id"]
    session = {"session_hash": stranger.session}
    return [
        ("call/generate", {"data": []}, 400),
        ("call/generate", {"data": values[:-1]}, 400),
        ("call/generate", {"data": [*values, 1, 2]}, 400),
        ("call/generate", {"data": values * 1000}, 400),
        ("call/generate", {"data": {"prompt": "a"}}, 400),
        ("call/generate", {}, 400),
        ("call/generate", [], 400),
        ("call/generate", 3, 400),
        ("call/generate", b"", 400),
        ("call/generate", b"{", 400),
        ("call/generate", b"[" * 100_000, 400),
        ("call/generate", b"\xff\xfe", 400),
        ("call/nothing", {"data": values}, 404),
        ("call/", {"data": values}, 404),
        ("call/v2/nothing", {"prompt": "a"}, 400),
        ("call/v2/generate", {"nothing": "a"}, 400),
        ("call/v2/generate", {}, 400),
        ("run/generate", {"data": values}, 404),  # past the queue
        ("api/generate", {"data": values}, 404),
        ("run/predict", {"data": stranger.form(), "fn_index": make, **session}, 404),
        ("queue/join", {"data": stranger.form(), "fn_index": make}, 400),
        ("queue/join", {"data": stranger.form()[1:], "fn_index": make, **session}, 400),
        ("queue/join", {"data": [], "fn_index": 10**6, **session}, 404),
        ("queue/join", {"data": [], "fn_index": -1, **session}, 404),
        ("queue/join", {"data": [], "fn_index": "make", **session}, 404),
        ("run/note", {"data": [], "fn_index": 0}, 404),  # runs in the browser alone
        ("queue/join", {"data": [], "fn_index": None, **session}, 404),
        ("queue/join", {"data": stranger.form(), "fn_index": make, "session_hash": "x" * 1000}, 400),
        ("queue/join", {"data": stranger.form(), "fn_index": make, "session_hash": {"a": 1}}, 400),
        ("cancel", {"session_hash": 3}, 422),
        ("cancel", [], 400),
        (
            "component_server",
            {"data": 1, "component_id": 1, "session_hash": "a", "fn_name": "preprocess"},
            404,
        ),
        ("process_recording", {}, 404),
        ("vibe-edit", {"prompt": "x"}, 404),
        ("stream/1", {"data": []}, 404),
        ("nothing/at/all", {}, 404),
    ]


@pytest.mark.slow
def test_wrong_calls_are_refused_and_others_unaffected(stranger, server, work, capfd, caplog):
    outcomes = []
    other = threading.Thread(target=lambda: outcomes.append(server.stranger().generate(steps=40)[0]))
    other.start()
    for path, body, expected in calls(stranger):
        answer = stranger.post(path, body)
        assert answer.status_code == expected, (path, str(body)[:80], answer.text)
        if isinstance(told := answer.json()["detail"], str) and expected != 422 and "Queue" not in told:
            assert "Traceback" not in told
    other.join()
    assert outcomes == ["complete"] and work.unet == 40
    assert "Traceback" not in capfd.readouterr().err and "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "path", ["/monitoring", "/monitoring/summary", "/gradio_api/deep_link?session_hash=a"]
)
def test_tools_of_the_framework_are_closed(stranger, path):
    answer = stranger.http.get(path)
    assert answer.status_code == 404 and sentence(answer.json()["detail"])


def test_what_a_browser_may_not_send_is_left_out(stranger):
    """`batched` and the like change how gradio reads a call."""
    form, make = stranger.form(), stranger.event("make")["id"]
    body = {"data": form, "fn_index": make, "session_hash": stranger.session}
    inside = {"batched": True, "simple_format": True, "event_id": "x", "request": {"a": 1}}
    stranger.post("queue/join", body | inside).raise_for_status()
    assert [message for message in stranger.news() if message["msg"] == "process_completed"][0]["success"]
