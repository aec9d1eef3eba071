"""How much memory a clip will take, told before it is begun.

The model is run once on tensors that have shapes and no numbers, and what would be alive at once is added up.
That takes as long as calling its layers does and no memory; other sizes follow, as every layer's features
grow with frames x height x width.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumiere.model.text import Text

MARGIN = 1.15  # for what the libraries of convolutions and the allocator take besides
CGROUPS = (  # of a container: what it may take, what it has taken, and of that what is a cache of files
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),  # of version 1
)
CGROUP = Path("/sys/fs/cgroup")


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on: `bytes` is the most at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.bytes, self._known = 0, 0, weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if any(result.alias_info for result in function._schema.returns):  # a view, or done in place
            return output
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                storage = tensor.untyped_storage()
                self._known[storage] = size = storage.nbytes()
                self.alive += size
                weakref.finalize(storage, self._free, size)
        self.bytes = max(self.bytes, self.alive)
        return output

    def _free(self, size: int) -> None:
        self.alive -= size


@dataclass(frozen=True)
class Cost:
    """Bytes of one pipeline: of a step for each latent of each row, of decoding for each latent of a frame.

    moved: of weights that come to the device only for a step.
    """

    step: float
    decode: float
    moved: int = 0

    def of(self, rows: int, frames: int, height: int, width: int) -> int:
        """Bytes that a clip takes at most: `rows` of so many frames at once, height and width in latents."""
        step = self.step * rows * frames * height * width + self.moved
        return int(MARGIN * max(step, self.decode * height * width))


def measure(lumiere, vae, text: Text, rows: int, size: tuple[int, int], moved: int = 0) -> Cost:
    """Runs both once without numbers: on the fewest frames there can be, of a size in latents."""
    like, frames = next(vae.parameters()), max(8, lumiere.downsample_factor)

    def step(clip: Tensor) -> None:
        lumiere(clip, torch.zeros((), device=like.device), return_dict=False, **text.arguments)

    latents = lumiere.channels + lumiere.given_channels
    one = peak(step, (rows, latents, frames, *size), like=like) / (rows * frames * size[0] * size[1])
    decoded = peak(vae.decode, (1, vae.config.latent_channels, *size), like=like) / (size[0] * size[1])
    return Cost(one, decoded, moved)


def peak(run: Callable[..., object], *shapes: tuple[int, ...], like: Tensor) -> int:
    """Bytes that a call of `run` would need at once besides its arguments, of these shapes and this kind."""
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [torch.empty(shape, dtype=like.dtype, device=like.device) for shape in shapes]
        with Peak() as counted:
            run(*tensors)
    return counted.bytes


def check(needed: int, device: torch.device) -> None:
    """Raises ValueError when so many bytes are not there."""
    free = available(device)
    if needed > free:
        raise ValueError(
            f"this clip needs about {needed / 1e9:.1f} GB of memory on the device and {free / 1e9:.1f} GB "
            "are free: lower frames, height or width."
        )


def weight_bytes(*modules: nn.Module) -> int:
    """Of parameters and buffers; modules that share them count once."""
    tensors = {id(x): x for m in modules for x in (*m.parameters(), *m.buffers())}
    return sum(x.numel() * x.element_size() for x in tensors.values())


def available(device: torch.device) -> int:
    """Bytes that can still be taken on a device; on the CPU also within the bounds of a container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    free = psutil.virtual_memory().available
    for limit, usage, cache in CGROUPS:
        try:
            most, taken = (int((CGROUP / file).read_text()) for file in (limit, usage))
            facts = (CGROUP / limit).with_name("memory.stat").read_text().splitlines()
            cached = next(int(line.split()[1]) for line in facts if line.startswith(f"{cache} "))
            free = min(free, most - taken + cached)
        except (OSError, ValueError, StopIteration):  # no container, or one without a bound
            continue
    return free


def is_out_of_memory(error: BaseException) -> bool:
    # On the CPU it is a plain RuntimeError, of the allocator or of oneDNN, which tells no more than that; on
    # Apple's GPUs, too.
    told = (
        "allocate memory",
        "could not create a primitive",
        "ALLOC_FAILED",
        "bad_alloc",
        "MPS backend out of memory",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in told
    )
