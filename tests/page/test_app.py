"""The app as programs see it: a real server with the tiny model, real clients, no browser."""

import base64
import io
import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from lumiere import models, page
from lumiere.limits import ServerLimits
from lumiere.media.video import read_clip, read_settings, write_clip
from lumiere.modes import NEEDS
from lumiere.page import controller, endpoints, events, results, showcase, strings, widgets
from lumiere.page.server import files, gradio_private
from lumiere.pipeline import LumierePipeline
from lumiere.request import MODES, Limits, Request
from lumiere.runtime import jobs
from tests.awaiting import awaited

ROOT = Path(page.FOLDER).parents[1]
PATIENCE = 600  # s; only a failing test waits that long


@pytest.fixture(scope="module")
def served(tiny_model, tmp_path_factory):
    """(app, address) of a running page; the pipeline is loaded like in `main`."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("clips")))
    patch.setenv(models.VARIABLE, str(tiny_model))
    app = controller.Controller(models.entry(), models.limits())
    demo = events.blocks(app.controllers)
    app.service.launch(demo)
    app.model.set_result(LumierePipeline.from_pretrained(tiny_model, device="cpu"))
    yield app, demo.local_url
    demo.close()
    patch.undo()


def connect(served) -> Client:
    return Client(served[1], verbose=False, httpx_kwargs={"timeout": PATIENCE})


@pytest.fixture
def client(served):
    return connect(served)


def clip(client, prompt="a red ball bouncing", **fields):
    return client.predict(prompt, api_name="/generate", **({"frames": 8, "steps": 2, "seed": 7} | fields))


def refusal(client, *arguments, **fields) -> str:
    with pytest.raises(Exception) as caught:
        clip(client, *arguments, **fields)
    return str(caught.value)


def device_is_free() -> bool:
    deadline = time.monotonic() + PATIENCE
    while len(jobs.device) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(jobs.device) == 0


def test_generate_gives_a_file_and_its_settings(served, client):
    file, settings = clip(client, fps=12)
    frames, fps = read_clip(file)
    assert len(frames) == 8 and fps == 12
    assert settings["seed"] == 7 and settings["steps"] == 2
    assert (settings["height"], settings["width"]) == (64, 64)  # the model's own
    assert json.loads(read_settings(file)) == settings
    assert (settings["model"], settings["model_version"]) == (served[0].entry.name, served[0].entry.version)


@pytest.mark.slow
def test_one_seed_gives_one_clip_and_no_seed_gives_another(client):
    (one, _), (same, _), (other, settings) = clip(client), clip(client), clip(client, seed=None)
    assert np.array_equal(read_clip(one)[0], read_clip(same)[0])
    assert settings["seed"] != 7 and not np.array_equal(read_clip(one)[0], read_clip(other)[0])


def test_each_clip_is_stored_once(served, client):
    folder = Path(gradio_private.upload_folder())
    before = set(folder.rglob("*.mp4"))
    clip(client)
    assert len(set(folder.rglob("*.mp4")) - before) == 1


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"prompt": "  "}, "Write a prompt"),
        ({"prompt": None}, "Prompt must be text: received nothing"),
        ({"prompt": ["a"]}, "Prompt must be text: received a list"),
        ({"prompt": "x" * 10_000}, "at most 2000 characters: received 10000"),
        ({"prompt": "a\0b"}, "readable text"),
        ({"frames": 18}, "divisible by 4: 18 is not, the nearest are 16 and 20"),
        ({"frames": 100_000}, "divisible by 4"),
        ({"frames": 7.3}, "whole number"),
        ({"steps": 0}, "from 1 to 150: received 0"),
        ({"steps": True}, "received true"),
        ({"steps": "10"}, "received text of length 2"),
        ({"guidance": 1e6}, "from 0 to 30"),
        ({"seed": -1}, "from 0 to 4294967295: received -1"),
        ({"seed": 2**70}, "from 0 to 4294967295"),
        ({"fps": 0}, "from 1 to 60: received 0"),
        ({"scheduler": "<script>"}, "received text of length 8"),
        ({"first_frame": "mine"}, "First frame must be one of none, base"),
        ({"loop": 1}, "Loop must be true or false"),
        ({"height": 7}, "divisible by"),
        ({"width": 16384}, "divisible by"),
    ],
)
def test_refusals_are_one_sentence_and_cost_no_device_work(client, monkeypatch, fields, sentence):
    monkeypatch.setattr(jobs.Job, "start", lambda job: pytest.fail("a job was started"))
    said = refusal(client, **fields)
    assert sentence in said and "Traceback" not in said and "<script>" not in said
    assert said.count("\n") == 0


def test_one_typed_and_documented_endpoint_per_mode(client):
    listed = client.view_api(return_format="dict")
    assert not listed["unnamed_endpoints"]
    assert set(listed["named_endpoints"]) == {f"/{name}" for name, _ in endpoints.MODES.values()}
    for mode, (name, does) in endpoints.MODES.items():
        described = listed["named_endpoints"][f"/{name}"]
        parameters = {each["parameter_name"]: each for each in described["parameters"]}
        assert list(parameters)[: 1 + len(NEEDS[mode])] == ["prompt", *NEEDS[mode]]
        assert {"frames", "seed", "negative_prompt"} <= set(parameters)
        assert ("strength" in parameters) == (mode == "video")
        assert ("first_frame" in parameters) == ("loop" in parameters) == (mode == "text")
        assert set(parameters["steps"]["python_type"]["type"].split(" | ")) == {"int", "None"}
        assert not {"model", "style"} & set(parameters)
        assert described["description"].startswith(does)
        assert parameters["prompt"]["python_type"]["description"] or parameters["prompt"]["label"]


@pytest.fixture(scope="module")
def given_files(tmp_path_factory) -> dict:
    """A picture, a drawn region and a clip of 10 frames, ready to be sent."""
    folder = tmp_path_factory.mktemp("given")
    ramp = np.broadcast_to(np.linspace(0, 255, 80).astype(np.uint8)[:, None, None], (80, 80, 3)).copy()
    region = np.zeros((80, 80), np.uint8)
    region[:, 40:] = 255
    Image.fromarray(ramp).save(folder / "picture.png")
    Image.fromarray(region).save(folder / "region.png")
    write_clip(folder / "clip.mp4", np.stack([np.roll(ramp, n, 0) for n in range(10)]), 16)
    names = {"image": "picture.png", "last_image": "picture.png", "region": "region.png", "clip": "clip.mp4"}
    return {name: handle_file(folder / file) for name, file in names.items()}


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "text"])
def test_every_mode_by_its_endpoint(client, given_files, mode):
    name, _ = endpoints.MODES[mode]
    given = {file: given_files[file] for file in NEEDS[mode]}
    file, settings = client.predict("a red ball", **given, frames=8, steps=2, seed=1, api_name=f"/{name}")
    assert settings["mode"] == mode and settings["strength"] == (0.6 if mode == "video" else 1)
    assert len(read_clip(file)[0]) == (14 if mode == "continue" else 8)


def test_the_operator_says_how_large_given_files_may_be(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    picture, clip = str(tmp_path / "picture.png"), str(tmp_path / "clip.mp4")
    Image.new("RGB", (80, 80)).save(picture)
    write_clip(clip, np.zeros((4, 80, 80, 3), np.uint8), 16)
    small = ServerLimits(image_side=64, video_side=64, video_seconds=7)
    given = {"image": picture, "region": picture, "clip": clip}
    for mode in ("image", "cinemagraph"):
        request = Request("a red ball", mode=mode, height=128, width=128)
        files.sources(request, given, Limits(), ServerLimits())
        with pytest.raises(ValueError, match="at most 64 pixels a side: received 80 x 80"):
            files.sources(request, given, Limits(), small)
    with pytest.raises(ValueError, match="at most 64 pixels"):
        files.read_region(picture, 64)
    told, black = [], np.zeros((4, 80, 80, 3), np.uint8)
    monkeypatch.setattr(files, "read_clip", lambda path, *most: told.append(most) or (black, 16.0))
    request = Request("a red ball", mode="continue", frames=16, fps=16, height=128, width=128)
    made = files.sources(request, given, Limits(max_pixels=40 * 128 * 128), small)
    assert told == [(161, 64, 7, 16)]  # one more than there can be: it would be known to be too long
    assert made.clip.shape == (4, 128, 128, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["continue", "cinemagraph"])
def test_as_many_files_are_read_at_once_as_memory_allows(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    write_clip(tmp_path / "clip.mp4", np.zeros((4, 64, 64, 3), np.uint8), 16)
    Image.new("RGB", (640, 480)).save(tmp_path / "picture.png")
    names = {"clip": "clip.mp4", "image": "picture.png", "region": "picture.png"}
    given = {name: str(tmp_path / file) for name, file in names.items()}
    asked = Request("a red ball", mode=mode, frames=16, fps=16, height=128, width=128), given, Limits()
    readers = threading.BoundedSemaphore(1)
    monkeypatch.setattr(files, "READERS", readers)
    for _ in range(2):  # each gives its place back
        made = files.sources(*asked, ServerLimits())
    assert {part.shape[-3:-1] for part in vars(made).values() if part is not None} == {(128, 128)}
    with readers, pytest.raises(ValueError, match="too many files are being read"):
        files.sources(*asked, ServerLimits(video_seconds=1))


def test_given_clips_keep_their_pace(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    write_clip(tmp_path / "clip.mp4", np.zeros((30, 64, 64, 3), np.uint8), 30)
    for fps, count in ((10, 10), (30, 30), (60, 60)):
        request = Request("a red ball", mode="continue", frames=16, fps=fps, height=128, width=128)
        made = files.sources(request, {"clip": str(tmp_path / "clip.mp4")}, Limits(), ServerLimits())
        assert len(made.clip) == count


def test_without_tools_there_is_nothing_for_them(served):
    assert httpx.post(f"{served[1]}gradio_api/mcp/", json={}).status_code == 404


def test_files_that_were_not_uploaded_are_refused(client):
    for path in ("/etc/passwd", "app.py", "http://127.0.0.1/x.png", str(ROOT / "app.py"), "\0", 7):
        sent = {"path": path, "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(ValueError, match="must be uploaded"):
            files.uploaded(sent)
    with pytest.raises(ValueError, match="must be uploaded"):
        files.uploaded(None)


def test_html_as_served_has_our_link_preview(served):
    text = httpx.get(served[1], headers={"host": "clips.example.org"}).text
    assert '<meta property="og:title" content="Lumiere">' in text and text.count("og:title") == 1
    picture = re.search(r'property="og:image" content="([^"]+)"', text)[1]
    assert picture.startswith("http://clips.example.org/gradio_api/file=/") and text.count('og:image"') == 1
    assert (
        httpx.get(picture.replace("http://clips.example.org/", served[1])).headers["content-type"]
        == "image/png"
    )
    for foreign in ("Gradio, ", "@Gradio", "gradio.app", "header-image.jpg", "manifest.json"):
        assert foreign not in text, foreign
    assert "{{" not in text.split("<style>")[0] and "{%" not in text


def uploaded(name: str, data: bytes) -> dict:
    folder = Path(gradio_private.upload_folder()) / "given"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(data)
    return {"path": str(folder / name), "meta": {"_type": "gradio.FileData"}}


def picture_of(answer: dict) -> np.ndarray:
    kind, data = answer["picture"].split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def moving_gif() -> bytes:
    """A clip that no browser plays in a video element."""
    frames = [Image.new("RGB", (64, 48), (200, 30, 30)), Image.new("RGB", (64, 48), (30, 30, 200))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def test_first_frame_of_a_given_clip_is_sent_as_a_picture(served):
    app = served[0]
    sent = {"name": "clip", "turn": 3, "file": uploaded("a.gif", moving_gif())}
    answer = app.thumbnail(sent)
    picture = picture_of(answer)
    assert answer["turn"] == 3 and picture.shape == (48, 64, 3)
    assert np.abs(picture.mean((0, 1)) - (200, 30, 30)).max() < 12
    buffer = io.BytesIO()
    Image.new("CMYK", (3000, 1500)).save(buffer, "JPEG")
    picture = picture_of(app.thumbnail({"name": "image", "file": uploaded("a.jpg", buffer.getvalue())}))
    assert picture.shape == (384, 768, 3)


def test_says_what_is_changed_in_a_given_clip(served, tmp_path):
    write_clip(tmp_path / "slow.mp4", np.zeros((8, 64, 64, 3), np.uint8), 8)
    clip = uploaded("slow.mp4", (tmp_path / "slow.mp4").read_bytes())
    text = yielded(served[0], {"clip": clip}, mode="video", steps=2)[-1]["status"]["text"]
    assert "The video has 8 frames per second: frames are repeated to keep its pace at 16." in text
    assert files.notes(Request("a"), {"clip": clip}) == files.notes(Request("a", mode="video"), None) == []


def test_a_given_file_that_cannot_be_read_is_refused_at_once(served):
    sent = {"name": "clip", "turn": 1, "file": uploaded("a.mp4", b"no clip")}
    answer = served[0].thumbnail(sent)
    assert answer["turn"] == 1 and answer["sentence"].startswith("Cannot read a video from this file")
    for wrong in (None, {}, {"name": []}, {"name": "clip", "file": {"path": "/etc/passwd"}}, [1], "x"):
        assert served[0].thumbnail(wrong)["sentence"].endswith(".")


def test_other_files_are_not_served(served):
    root = ROOT
    for path in (root / "app.py", "/etc/passwd", "/proc/self/environ", "../app.py"):
        answer = httpx.get(f"{served[1]}gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


@pytest.mark.slow
def test_two_clients_get_their_own_clips(served, tmp_path):
    made = {}

    def ask(seed):
        made[seed] = clip(clients[seed], seed=seed, steps=4)

    clients = {seed: connect(served) for seed in (1, 2)}
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in clients]
    [thread.start() for thread in threads]
    [thread.join(PATIENCE) for thread in threads]
    app = served[0]
    for seed in (1, 2):
        file, settings = made[seed]
        assert settings["seed"] == seed
        *_, alone = app.model.result().generate(Request.from_json(json.dumps(settings)))
        write_clip(tmp_path / "alone.mp4", alone.frames, settings["fps"])
        assert np.array_equal(read_clip(file)[0], read_clip(tmp_path / "alone.mp4")[0])


def test_failure_leaks_nothing_and_the_next_clip_succeeds(served, client, monkeypatch, caplog):
    def broken(self, request, stop=None, given=None):
        raise RuntimeError("secret path /home/someone")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(LumierePipeline, "generate", broken)
        assert "secret" not in refusal(client)
    assert "secret path" in caplog.text  # for the operator
    assert clip(client)[1]["seed"] == 7


def test_out_of_memory_is_explained(served, client, monkeypatch):
    from lumiere.errors import GenerationError

    def exhausted(self, request, stop=None, given=None):
        raise GenerationError("the device ran out of memory: lower frames.")
        yield

    monkeypatch.setattr(LumierePipeline, "generate", exhausted)
    assert "The device ran out of memory: lower frames." in refusal(client)


@pytest.fixture
def steps_done(served, monkeypatch) -> list:
    """Every step of every job, in a list that grows."""
    pipeline, done = served[0].model.result(), []
    generate = pipeline.generate

    def noted(request, stop=None, given=None):
        for item in generate(request, stop, given):
            done.append(item)
            yield item

    monkeypatch.setattr(pipeline, "generate", noted)
    return done


def wait_for(what):
    deadline = time.monotonic() + PATIENCE
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert what()


def test_cancelled_call_frees_the_device(client, steps_done):
    job = client.submit("a red ball", frames=64, steps=150, api_name="/generate")
    wait_for(lambda: steps_done)
    job.cancel()
    assert device_is_free() and len(steps_done) < 150


def test_client_that_goes_away_frees_the_device(served, steps_done):
    call = f"{served[1]}gradio_api/call/generate"
    asked = {"data": ["a red ball", 64, 16, None, None, 150, 4.0, "ddim", 1, "", "base", False]}
    event = httpx.post(call, json=asked).json()["event_id"]
    with httpx.stream("GET", f"{call}/{event}", timeout=PATIENCE):
        wait_for(lambda: steps_done)
    assert device_is_free() and len(steps_done) < 150


# The page's own handler, as gradio runs it: what it yields, in which order.


class Visitor:
    session_hash = "visitor"


def form_of(**changes) -> list:
    usual = {
        "prompt": "a red ball",
        "mode": "text",
        "negative_prompt": "",
        "frames": 8,
        "fps": 16,
        "steps": 4,
    }
    usual |= {"guidance": 4, "scheduler": "ddim", "seed": 3, "randomise": False, "height": 64, "width": 64}
    usual |= {"strength": 0.6, "first_frame": "none", "loop": False} | changes
    return [usual[name] for name in widgets.FORM]


def yielded(app, given=None, **changes) -> list[dict]:
    made = app.make(Visitor, given, *form_of(**changes))
    return [dict(zip(controller.OUTPUTS, values, strict=True)) for values in made]


def is_sheet(value) -> bool:
    return isinstance(value, dict) and "sheet" in value


def test_page_shows_previews_then_the_clip_once_and_no_sheet_last(served):
    seen = yielded(served[0])
    assert seen[0]["status"]["text"] == strings.STARTING
    assert sum(is_sheet(values["player"]) for values in seen) >= 2
    assert [values for values in seen if is_sheet(values["result"])] == [seen[-1]]
    assert "sheet" not in seen[-1]["player"] and seen[-1]["status"]["state"] == "done"
    assert seen[-1]["status"]["text"].startswith("Done in") and "seed 3" in seen[-1]["status"]["facts"]
    result = seen[-1]["result"]
    assert Request.from_json(read_settings(result["path"])).seed == 3
    assert result["count"] == result["frames"] == 8 and result["settings"]["seed"] == 3
    assert result["clip"] == seen[-1]["player"]["clip"] == f"gradio_api/file={result['path']}"
    assert json.dumps([values["status"] for values in seen if isinstance(values["status"], dict)])


def test_page_asks_for_the_first_frame_in_text_mode_only(served):
    assert yielded(served[0], first_frame="base")[-1]["result"]["settings"]["first_frame"] == "base"
    seen = yielded(served[0], first_frame="mine")
    assert "First frame must be one of" in seen[-1]["status"]["text"]
    seen = yielded(served[0], first_frame="mine", mode="image")
    assert "needs a picture" in seen[-1]["status"]["text"]


def test_page_makes_a_loop_in_text_mode(served):
    asked = yielded(served[0], loop=True)[-1]
    assert asked["result"]["settings"]["loop"] is True and "seamless loop" in asked["status"]["facts"]
    assert "true or false" in yielded(served[0], loop="yes")[-1]["status"]["text"]


def test_page_writes_the_drawn_seed_back(served):
    seen = yielded(served[0], randomise=True)
    seeds = {values["seed"] for values in seen if type(values["seed"]) is int}
    assert len(seeds) == 1 and f"seed {seeds.pop()}" in seen[-1]["status"]["facts"]


@pytest.mark.slow
def test_page_keeps_the_clip_of_a_stopped_job(served):
    made, last = served[0].make(Visitor, None, *form_of(steps=150)), {}
    for values in made:
        last = dict(zip(controller.OUTPUTS, values, strict=True))
        if is_sheet(last["player"]):
            awaited(served[0].stop(Visitor))
    assert re.match(r"Stopped at step \d+ of 150\.", last["status"]["text"])
    assert len(read_clip(last["result"]["path"])[0]) == 8


def test_page_refuses_in_words(served):
    seen = yielded(served[0], prompt=" ")
    assert seen[-1]["status"]["state"] == "refused"
    assert seen[-1]["status"]["text"].startswith("Write a prompt")
    assert len(jobs.device) == 0


def test_closed_page_frees_the_device(served):
    made = served[0].make(Visitor, None, *form_of(steps=150))
    for values in made:
        if is_sheet(values[0]):
            break
    made.close()
    assert device_is_free()


def test_page_waits_for_the_model_and_keeps_the_connection_alive(served):
    app = controller.Controller(served[0].entry, served[0].limits)
    made = app.make(Visitor, None, *form_of(steps=2))
    assert next(made)[1]["text"] == strings.WARMING
    assert next(made) == controller.show()
    app.service.tell_loading("Fetching a/b: 1.2 of 3.4 GB.")
    assert next(made)[1]["text"] == "Fetching a/b: 1.2 of 3.4 GB."
    app.model.set_result(served[0].model.result())
    assert is_sheet(list(made)[-1][2])


def test_who_waits_for_the_model_may_stop_and_nobody_else(served):
    app = controller.Controller(served[0].entry, served[0].limits)
    made = app.make(Visitor, None, *form_of(steps=2))
    next(made), next(made)
    assert not app.service.stop_waiting("someone else") and not app.service.stop_waiting(None)
    assert awaited(app.stop(Visitor)).value == strings.STOPPING
    *_, last = made
    assert last[controller.OUTPUTS.index("status")]["text"] == strings.STOPPED_EARLY
    assert not app.service.stop_waiting(Visitor.session_hash)


@pytest.mark.slow
def test_a_showcase_goes_on_after_a_failure(served, monkeypatch):
    app = served[0]
    (film,) = [event.fn for event in showcase.blocks(app.controllers).fns.values() if event.name == "film"]
    with monkeypatch.context() as patch:
        patch.setattr(app, "relay", lambda *_: 1 / 0)
        assert list(film(Visitor, {"prompt": "a red ball"})) == [
            (None, results.status("refused", strings.FAILED))
        ]
    *_, (_, last) = film(Visitor, {"prompt": "a red ball"})
    assert last["state"] == "done"


def test_what_the_operator_allows_less_of_than_usual_is_the_most_there_is(served):
    small = replace(served[0].limits, max_steps=7, max_frames=8)
    model = models.within(served[0].entry, small)
    assert (model.frames, model.steps) == (8, 7) and model == replace(served[0].entry, frames=8, steps=7)
    Request("a ball", **models.own(model, small)).check(small)
    for preset in widgets.presets(small, model):
        Request("a ball", **models.own(model, small) | preset["settings"]).check(small)
    for example in widgets.shelf(small, model, known=True):
        Request("a ball", **example["settings"] | {"seed": 1}).check(small)
    assert models.within(served[0].entry, served[0].limits) == served[0].entry


def test_note_names_unknown_words_only(served):
    nothing = {"text": strings.TIP, "words": []}
    assert served[0].note("a red ball over green hills") == nothing
    noted = served[0].note("a red dragon")
    assert noted["words"] == ["dragon"] and "“dragon”" in noted["text"]
    assert served[0].note(None) == served[0].note("x" * 10_000) == nothing


def test_templates_hold_no_place_for_values():
    """Both `${value}` and `{{value}}` in a gr.HTML template execute what people type."""
    for file in page.FOLDER.rglob("*.html"):
        assert not re.search(r"\$\{|\{\{", file.read_text()), file


def test_words_of_the_page():
    assert strings.duration(0.4211) == "0.42 s" and strings.duration(3.14) == "3.1 s"
    assert strings.duration(59.7) == "1 min 0 s" and strings.duration(125) == "2 min 5 s"
    assert strings.stopped(6, 20).startswith("Stopped at step 6 of 20")
    assert strings.note(["dragon"])["text"].endswith("“dragon”.")
    assert "3 more" in strings.note(list("abcdefg"))["text"]
