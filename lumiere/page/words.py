"""Every sentence of the page, in one place."""

TITLE = "Lumiere"
INTRO = "Write one sentence and watch it come into focus as a little film."

PROMPT = "What should happen?"
PLACEHOLDER = "a red ball bouncing over green hills"
TIP = "Best with a colour, a subject, a place and a motion."
GENERATE, STOP, DOWNLOAD = "Generate", "Stop", "Download MP4"
TRY = "Or start from one of these"
EXAMPLES = (
    "a red ball bouncing over green hills",
    "a yellow star drifting right at night",
    "a purple fish drifting left over the sea",
    "a pink heart pulsing in the desert",
    "a blue moon rising over the city",
    "an orange ring circling in the forest",
    "a black box falling over snowy mountains",
    "a green ball hopping in the countryside",
)

SETTINGS = "Settings"
NEGATIVE, NEGATIVE_HELP = "Leave out", "What the clip should not show."
FRAMES, FRAMES_HELP = "Frames", "More frames make a longer clip and take longer."
FPS, FPS_HELP = "Frames per second", "How fast they are shown; 16 is what the model learnt."
STEPS, STEPS_HELP = "Steps", "More steps refine the clip; fewer are a quick draft."
GUIDANCE, GUIDANCE_HELP = "Guidance", "How closely to follow the prompt; 1 switches it off."
SCHEDULER, SCHEDULER_HELP = "Scheduler", "The way from noise to clip."
SEED, SEED_HELP = "Seed", "The same seed and settings give the same clip."
RANDOMISE = "New seed for every clip"

PROGRESS_LABEL = "Progress of your clip"
STAGE_LABEL = "The clip, coming into focus"
CLIP_LABEL = "Your clip"
IDLE = "Your clip appears here."
WARMING = "The model is waking up. Your clip starts as soon as it is ready."
STARTING = "Setting the scene …"
DEVELOPING = "Developing the film …"
STOPPING = "Stopping after this step …"
STOPPED_EARLY = "Stopped before the first step; there is nothing to show yet."
FAILED = "Something went wrong while making this clip. Nothing is lost: try again, or lower frames or steps."
LOST = "That did not get through. Try again in a moment."
CLOSING = "This server is being closed. Ask again in a moment."


def disk_full(free: int, needed: int) -> str:
    return f"The disk of this machine is full: {free} MB are free, {needed} MB are needed. Try again later."


# The same sentence as `length`, for the sliders, which answer without asking the server.
LENGTH_JS = "`${(frames / fps).toFixed(1)} seconds at ${fps} frames per second`"


def length(frames: int, fps: int) -> str:
    return f"{frames / fps:.1f} seconds at {fps} frames per second"


READY = "The model is ready."


def ready(device: str) -> str:
    slow = " There is no GPU, so clips are made on the processor, which is slower." if device == "cpu" else ""
    return READY + slow


def closed(answered: bool) -> str:
    return "Lumiere is closed." if answered else "Lumiere is closed; some requests were not answered in time."


def opened(url: str) -> str:
    return f"Lumiere is open at {url} (the model follows in a moment; Ctrl+C ends it)"


def unloadable(error: Exception) -> str:
    return f"The model could not be loaded: {error}"


def waiting(ahead: int) -> str:
    return "One clip is made before yours." if ahead == 1 else f"{ahead} clips are made before yours."


def working(step: int, steps: int, pace: float, left: float) -> str:
    return f"Step {step} of {steps} · {duration(pace)} per step · {duration(left)} left"


def done(seconds: float) -> str:
    return f"Done in {duration(seconds)}."


def stopped(step: int, steps: int) -> str:
    return f"Stopped at step {step} of {steps}. This is the clip so far."


def facts(request) -> str:
    """The settings that made a clip, in the order of the form. No text of the user."""
    return " · ".join(
        (
            f"{request.frames} frames at {request.fps} fps",
            f"{request.width} × {request.height}",
            f"{request.steps} steps",
            f"guidance {request.guidance:g}",
            scheduler(request.scheduler),
            f"seed {request.seed}",
        )
    )


def scheduler(name: str) -> str:
    """How a scheduler is written on the page: `dpm++ 2m` -> `DPM++ 2M`."""
    known = {"euler": "Euler", "euler a": "Euler a", "unipc": "UniPC"}
    return known.get(name, name.upper())


def ignored(words: list[str]) -> str:
    """Names at most four words; the page shows this as text, never as HTML."""
    shown = [f"“{word[:24]}”" for word in words[:4]]
    if not shown:
        return TIP
    more = f" and {len(words) - 4} more" if len(words) > 4 else ""
    names = ", ".join(shown) + more
    return f"New to this model, so left out: {names}."


def duration(seconds: float) -> str:
    """0.42 s, 3.1 s, 12 s, 2 min 5 s."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
