"""All strings of the page."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lumiere.request import Request, required

if TYPE_CHECKING:  # which import this module, or torch
    from lumiere.loading.catalogue import Row
    from lumiere.page.architecture import Architecture

TITLE = "Lumiere"
INTRO = "Write one sentence and watch it come into focus as a little film."

MODE = "Make a clip from"
MODES = {
    "text": "Text",
    "image": "Image",
    "images": "First & last",
    "inpaint": "Inpaint",
    "cinemagraph": "Cinemagraph",
    "continue": "Continue",
    "video": "Restyle",
}
MODE_HELP = {
    "text": "",
    "image": "Your picture is the first frame and comes to life.",
    "images": "Two pictures; the clip is what happens between them.",
    "inpaint": "Draw on the first frame; only there the clip is made anew, for as many frames as are set.",
    "cinemagraph": "Draw where the picture may move; the rest stands still.",
    "continue": "Your clip goes on.",
    "video": "Your clip is made anew from the prompt, as far as you let it, for as many frames as are set.",
}
GIVEN = {
    "labels": {"image": "Picture", "last_image": "Last picture", "clip": "Clip", "region": "Drawn region"},
    "drop": "Drop a file here, or press to choose one",
    "remove": "Remove",
    "brush": "Brush",
    "clear": "Clear",
    "areas": {"middle": "Middle", "upper": "Upper half", "lower": "Lower half"},
    "hint": "Draw here what should be made anew",
}

MODELS = "Model"
STYLE = {"title": "Style", "help": "How much of each style is in the pictures; 0 is none of it."}
STYLING = "The style is put into the model …"

CAMERA = {
    "title": "Camera",
    "help": "Moves of the camera, several at once.",
    "labels": {
        "": "Still",
        "zoom-in": "Zoom in",
        "zoom-out": "Zoom out",
        "pan-left": "Pan left",
        "pan-right": "Pan right",
        "tilt-up": "Tilt up",
        "tilt-down": "Tilt down",
        "rolling-clockwise": "Roll right",
        "rolling-anticlockwise": "Roll left",
    },
}
MOVING = "The camera moves are put into the model …"

PROMPT = "What should happen?"
PLACEHOLDER = "a red ball bouncing over green hills"
TIP = "Best with a colour, a subject, a motion and a place."
GENERATE, STOP = "Generate", "Stop"
TRY = "Or start from one of these"
VOCABULARY_TITLE = "Words this model knows"
KINDS = {"colour": "Colours", "subject": "Subjects", "motion": "Motions", "background": "Places"}

SETTINGS_PANEL = {  # @ is a number
    "more": "Settings",
    "presets_label": "Presets",
    "length": "@ s of film",
    "takes": "takes about @ s",
}
PRESET_NAMES = {"draft": "Draft", "standard": "Standard", "fine": "Fine", "long": "Five seconds"}
PRESET_HELP = {
    "draft": "Few steps: a quick look.",
    "standard": "The model's own settings.",
    "fine": "Twice the steps.",
    "long": "A longer clip, of five seconds.",
}
FIELDS = {  # field of the form -> its label and help
    "negative_prompt": ("Leave out", "What the clip should not show."),
    "frames": ("Frames", "More frames make a longer clip and take longer."),
    "fps": ("Frames per second", "How fast they are shown; @ is what the model learnt."),
    "steps": ("Steps", "More steps refine the clip; fewer are a quick draft."),
    "guidance": ("Guidance", "How closely to follow the prompt; 1 switches it off."),
    "scheduler": ("Scheduler", "The way from noise to clip."),
    "first_frame": ("First frame", "The base model can draw it before the clip is made."),
    "loop": ("Seamless loop", "The last frame leads to the first."),
    "seed": ("Seed", "The same seed and settings give the same clip."),
    "randomise": ("New seed for every clip", "Off: the seed above is used again."),
    "height": ("Height", "In pixels; the model is at its best with its own."),
    "width": ("Width", "In pixels; the model is at its best with its own."),
    "strength": ("Strength", "How far the clip is made anew: little keeps it, 1 keeps nothing."),
    "motion_scale": ("Motion", "Amount of motion; 1 is as trained, 0 is a still."),
    "free_noise": ("FreeNoise", "For clips longer than a window: their content stays the same."),
    "free_init": (
        "FreeInit",
        "Passes over the clip; each makes frames more consistent and takes as long as the first.",
    ),
}
FIRST_FRAMES = {"none": "from noise with the rest", "base": "drawn by the base model"}

PROGRESS_LABEL = "Progress of your clip"
PLAYER = {"label": "The clip, coming into focus", "clip_label": "Your clip"}
IDLE = "Your clip appears here."
WARMING = "The model is waking up. Your clip starts as soon as it is ready."
STARTING = "Setting the scene …"
DEVELOPING = "Developing the film …"
STOPPING = "Stopping …"
STOPPED_EARLY = "Stopped before the first step; there is nothing to show yet."
DISK_FULL = "The disk of this machine is full: try again later."
FAILED = "Something went wrong while making this clip. Nothing is lost: try again, or lower frames or steps."
LOST = "That did not get through. Try again in a moment."
CLOSING = "This server is being closed. Ask again in a moment."
NO_SOUND = "The sound of the given clip is left out."
OTHER_MODEL = "This clip was made by another model: the same settings will give another clip."
BAD_LINK = "This link does not hold settings of a clip."
NO_SETTINGS = "This clip does not tell the settings that made it. Was it made here?"

RESULT = {
    "another": "Another seed",
    "another_help": "The same settings with a new seed",
    "longer": "Longer",
    "longer_help": "The same settings and seed with twice the frames",
    "continue": "Continue",
    "continue_help": "Go on where this clip ends",
    "loop": "Loop",
    "loop_help": "Begin again at the end",
    "uses": "Use it for",
    "frame_help": "Begin with the frame that is shown",
    "clip_help": "Begin with this clip",
    "saves": "Keep it",
    "frames": "Frames",
    "webp_help": "As an animated WebP",
    "gif_help": "As an animated GIF",
    "zip_help": "Every frame as a PNG, in one zip file",
    "link": "Copy link",
    "link_help": "A link that restores these settings",
    "copied": "Copied. The link restores these settings.",
    "frame": "Frame @",
    "strip": "Frames",
    "slice": "One row of pixels through time",
    "slice_label": "One row of pixels of every frame, below each other: time runs downwards",
    "row": "Row",
    "exporting": "Writing the file …",
}
GALLERY = {
    "title": "Clips of this session",
    "compare": "Compare two",
    "compare_help": "Choose two clips, then see them side by side",
    "close": "Close",
    "pick": "Compare",
    "restore": "Restore",
    "restore_help": "Put the settings of this clip back into the form",
    "names": {
        "prompt": PROMPT.rstrip("?"),
        **{name: label for name, (label, _) in FIELDS.items() if name != "randomise"},
        "style_weights": STYLE["title"],
        "cameras": CAMERA["title"],
        "mode": "Mode",
    },
}

MODEL_PANEL = {"title": "Models", "fetch": "Fetch", "open": "Open its page"}
ON_DISK, NOT_ON_DISK = "on disk", "not on disk"
NO_FETCH = "Models are fetched by whoever runs this page."
FETCHING = "Another model is being fetched: try again when it is there."

SHOWCASE_KEYS = "space: next · left: back · p: hold · f: whole screen"

ARCHITECTURE = "How it works"
ARCHITECTURE_BASE = (
    "The brothers Lumière made photographs move. This does the same to a model that draws pictures: it stays "
    "as it is, and between its layers small new ones are trained that see all frames at once."
)
ARCHITECTURE_HALVED = (
    "Each level of the network halves a frame in space, and its new layers halve the clip in time. Deep down "
    "the whole clip is a few small pictures, so what happens from beginning to end is decided together and "
    "not frame by frame: that is why a ball that leaves on one side can come back as the same ball."
)
ARCHITECTURE_KEPT = (
    "Each level of the network halves a frame in space and keeps all frames in time. On every level the new "
    "layers compare them with each other, at each place of the picture."
)
ARCHITECTURE_NOISE, ARCHITECTURE_CLIP = "noise", "clip"
ARCHITECTURE_SKIP, ARCHITECTURE_MIDDLE = "kept for the way up", "the whole clip at once"
ARCHITECTURE_COLUMNS = ("Frames", "Size", "Channels", "Trained over time")
ARCHITECTURE_ATTENTION, ARCHITECTURE_CONVOLUTION = "attention", "convolution"
ARCHITECTURE_LABEL = (
    "The network as a U: blocks shrink in space and time on the way down and grow again on the way up."
)


def disk_full(free: int, needed: int) -> str:
    """Returns the message for a full disk; both sizes are in MB."""
    return f"The disk of this machine is full: {free} MB are free, {needed} MB are needed. Try again later."


def architecture_facts(shape: "Architecture") -> str:
    """Returns the model's numbers in two sentences of HTML."""
    told = f"One latent stands for {shape.pixels} × {shape.pixels} pixels."
    if shape.frozen and shape.trained:
        share = shape.trained / (shape.frozen + shape.trained)
        frozen = f'{millions(shape.frozen)} parameters are frozen <i class="key frozen"></i>'
        trained = f'{millions(shape.trained)} are trained over time <i class="key trained"></i>'
        told += f" {frozen}, {trained}: {share:.0%} of all."
    return told


def millions(count: int) -> str:
    """Formats a parameter count in millions or billions."""
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def too_large(most: int) -> str:
    """Returns the message for an upload larger than `most` MB."""
    return f"That file is larger than {most} MB."


def give_again(mode: str) -> str:
    """Returns the message shown when the settings of a mode are restored without its input files."""
    return f"The settings are back. Now add again what “{MODES[mode]}” needs."


def no_clip_skip(layers: int) -> str:
    """Returns the warning for settings with `clip_skip`, which is no setting of the page."""
    return f"This clip was made with clip_skip {layers}, which only the API and the command line can set."


def other_version(made_by: str, now: str) -> str:
    """Returns the warning that a clip was made by another version of the model.

    Args:
        made_by: version of the model that made the clip, validated; empty if unknown.
        now: version of the page's model.
    """
    which = f"another version ({made_by}; now {now})" if made_by else "an earlier version"
    return f"This clip was made by {which} of the model: the same settings will give another clip."


def sentence(error: Exception) -> str:
    """Formats an error message for the page: `negative_prompt must be …` -> `Negative prompt must be …`."""
    text = str(error).replace("_", " ")
    return text[:1].upper() + text[1:]


def note(unknown: list[str]) -> dict:
    """Returns the line below the prompt and the words to mark. The page shows both as text, never as HTML.

    Args:
        unknown: words of the prompt that the model does not know.
    """
    shown = [f"“{word[:24]}”" for word in unknown[:4]]
    if not shown:
        return {"text": TIP, "words": []}
    more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
    return {"text": f"New to this model, so left out: {', '.join(shown)}{more}.", "words": unknown[:24]}


def model_facts(row: "Row") -> list[str]:
    """Returns lines about a model of the table."""
    lines = (row.clip, "; ".join(row.abilities), row.costs)
    return [f"{line[:1].upper()}{line[1:]}." for line in lines]


def fetching(name: str) -> str:
    """Returns the status when a download begins."""
    return f"Fetching {name} …"


def fetched(name: str) -> str:
    """Returns the status of a finished download."""
    return f"The model {name} is on disk."


def not_fetched(name: str) -> str:
    """Returns the status of a failed download."""
    return f"The model {name} could not be fetched. Whoever runs this page finds the reason in its log."


def unknown_model(names: Iterable[str]) -> str:
    """Returns the message for a model that is not among `names`."""
    return f"The model must be one of {', '.join(names)}: received another."


def loading(name: str) -> str:
    """Returns the status while a model is being loaded."""
    return f"The model {name} is coming to the device. Your clip starts as soon as it is ready."


def no_model(name: str) -> str:
    """Returns the message for visitors when a model cannot be loaded."""
    return f"The model {name} could not be loaded. Whoever runs this page finds the reason in its log."


def left_out(name: str, error: Exception) -> str:
    """Returns the console message for a model that is skipped at startup."""
    return f"The model {name} is left out: {error}"


ONE_ON_ZERO = "ZeroGPU takes one model: several are given."
NO_MCP = "Tools for language models need a package more: pip install 'gradio[mcp]'"
DATA_URIS = (
    "A file must be given as a data URI, data:image/png;base64 and its bytes: received something else."
)
READY = "The model is ready."
PAGE_READY = "The page is ready. Each model comes when a clip is asked of it."


def ready(device: str) -> str:
    """Returns the console message for a loaded model.

    Args:
        device: device type; "cpu" adds a note on speed.
    """
    slow = " There is no GPU, so clips are made on the processor, which is slower." if device == "cpu" else ""
    return READY + slow


def closed(answered: bool) -> str:
    """Returns the last console message.

    Args:
        answered: whether all requests were answered.
    """
    return "Lumiere is closed." if answered else "Lumiere is closed; some requests were not answered in time."


def opened(url: str) -> str:
    """Returns the console message with the page's URL."""
    return f"Lumiere is open at {url} (the model follows in a moment; Ctrl+C ends it)"


def no_address(host: str | None, port: int | None) -> str:
    """Returns the message for an address that cannot be served; None stands for the usual host and ports."""
    where = f"{host or '127.0.0.1'}:{port or '7860 to 7959'}"
    return (
        f"the page cannot be served at {where}: the port is in use, or the host is not of this machine. Set "
        "GRADIO_SERVER_PORT or GRADIO_SERVER_NAME."
    )


def ignored(names: list[str]) -> str:
    """Returns the console message for environment variables that do not count."""
    return f"Ignored, because the page sets these itself: {', '.join(names)}."


def not_started(error: BaseException) -> str:
    """Returns the console message for an error that ends the start and was not expected."""
    what = " ".join(str(error).split())[:300].rstrip(".") or "no reason given"
    return (
        f"Lumiere cannot start: {what} ({type(error).__name__}). Install its requirements again "
        "(pip install -r requirements.txt), or set LUMIERE_DEBUG=1 to see where it failed."
    )


def unloadable(error: BaseException) -> str:
    """Returns the console message for a model that cannot be loaded."""
    return f"The model could not be loaded: {error}"


def waiting(ahead: int) -> str:
    """Returns the status of a queued job with `ahead` jobs before it."""
    return "One clip is made before yours." if ahead == 1 else f"{ahead} clips are made before yours."


def begun(step: int, steps: int) -> str:
    """Returns the progress without a time estimate."""
    return f"Step {step} of {steps}"


def working(step: int, steps: int, pace: float, left: float) -> str:
    """Returns the progress with its seconds per step and the seconds left."""
    return f"{begun(step, steps)} · {duration(pace)} per step · {duration(left)} left"


def done(seconds: float) -> str:
    """Returns the status of a finished clip."""
    return f"Done in {duration(seconds)}."


def stopped(step: int, steps: int) -> str:
    """Returns the status of a stopped clip."""
    return f"Stopped at step {step} of {steps}. This is the clip so far."


def facts(request: Request) -> str:
    """Returns the settings of a request in form order, without user text."""
    drawn = request.mode == "text" and request.first_frame == "base"
    weights = ", ".join(f"{weight:g}" for weight in request.style_weights)
    cameras = ", ".join(f"{name} {weight:g}" for name, weight in request.cameras or ())
    motion, passes = request.motion_scale, request.free_init or 1
    parts = (
        MODES[request.mode] if request.mode != "text" else "",
        f"{request.frames} frames at {request.fps} fps",
        f"{request.width} × {request.height}",
        f"{request.steps} steps",
        f"guidance {request.guidance:g}",
        scheduler(required(request.scheduler)),
        f"strength {request.strength:g}" if request.strength != 1 else "",
        f"first frame {FIRST_FRAMES['base']}" if drawn else "",
        "seamless loop" if request.loop else "",
        f"style {weights}" if weights else "",
        f"camera {cameras}" if cameras else "",
        f"motion {motion:g}" if motion not in (None, 1) else "",
        "FreeNoise" if request.free_noise else "",
        f"FreeInit {passes}" if passes > 1 else "",
        f"seed {request.seed}",
    )
    return " · ".join(filter(None, parts))


def scheduler(name: str) -> str:
    """Returns the display name of a scheduler: `dpm++ 2m` -> `DPM++ 2M`."""
    known = {"euler": "Euler", "euler a": "Euler a", "unipc": "UniPC"}
    return known.get(name, name.upper())


def duration(seconds: float) -> str:
    """Formats a duration: 0.42 s, 3.1 s, 12 s, 2 min 5 s."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
