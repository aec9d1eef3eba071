"""Estimates the memory of a clip before sampling.

The model runs once on fake tensors, which have shapes but no data, while the bytes alive are counted. This
takes the time of the Python calls and no memory. Other sizes are extrapolated: the features of every layer
grow with frames x height x width.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import cpu_offload_with_hook
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumiere.model.text import Text

MARGIN = 1.15  # overhead of convolution libraries and the allocator
CGROUPS = (  # files of a container: limit, usage, and the page cache within the usage
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),  # cgroup v1
)
CGROUP = Path("/sys/fs/cgroup")


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors created within the context; `bytes` is the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.bytes = 0, 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if any(result.alias_info for result in function._schema.returns):  # view or in-place operation
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
    """Memory of a pipeline, for extrapolation to other sizes.

    Attributes:
        step: bytes of a denoising step per latent of each row.
        decode: bytes of decoding per latent of a frame.
        moved: bytes of weights on the device only during a step.
    """

    step: float
    decode: float
    moved: int = 0

    def of(self, rows: int, frames: int, height: int, width: int) -> int:
        """Returns an upper bound of the bytes of a clip.

        Args:
            rows: batch size of a forward pass.
            frames: frames of a forward pass.
            height: in latents.
            width: in latents.
        """
        step = self.step * rows * frames * height * width + self.moved
        return int(MARGIN * max(step, self.decode * height * width))


def measure(lumiere: Any, vae: Any, text: Text, rows: int, size: tuple[int, int], moved: int = 0) -> Cost:
    """Measures the cost of a step and of decoding, on fake tensors and the smallest number of frames.

    Args:
        lumiere: the inflated UNet.
        vae: the autoencoder.
        text: encoded prompts.
        rows: batch size.
        size: height and width in latents.
        moved: bytes of weights on the device only during a step.

    Returns:
        The cost per latent.
    """
    like, frames = next(vae.parameters()), max(8, lumiere.downsample_factor)

    def step(clip: Tensor) -> None:
        lumiere(clip, torch.zeros((), device=like.device), return_dict=False, **text.arguments)

    latents = lumiere.channels + lumiere.cond_channels
    one = peak(step, (rows, latents, frames, *size), like=like) / (rows * frames * size[0] * size[1])
    decoded = peak(vae.decode, (1, vae.config.latent_channels, *size), like=like) / (size[0] * size[1])
    return Cost(one, decoded, moved)


def peak(run: Callable[..., object], *shapes: tuple[int, ...], like: Tensor) -> int:
    """Returns the peak bytes of a call, without its arguments.

    Args:
        run: function of tensors.
        shapes: shapes of the tensors.
        like: tensor with their dtype and device.
    """
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [torch.empty(shape, dtype=like.dtype, device=like.device) for shape in shapes]
        with Peak() as counted:
            run(*tensors)
    return counted.bytes


def take_turns(modules: list[nn.Module], device: torch.device) -> None:
    """Adds CPU offload hooks: calling a module moves it to `device` and the one before it back to the CPU.

    Args:
        modules: modules in the order of their calls.
        device: execution device.
    """
    hook = None
    for module in modules:
        _, hook = cpu_offload_with_hook(module, device, hook)


def check(needed: int, device: torch.device) -> None:
    """Checks that enough memory is available.

    Args:
        needed: bytes.
        device: device of the run.

    Raises:
        ValueError: fewer bytes are available.
    """
    free = available(device)
    if needed > free:
        raise ValueError(
            f"this clip needs about {needed / 1e9:.1f} GB of memory on the device and {free / 1e9:.1f} GB "
            "are free: lower frames, height or width."
        )


def weight_bytes(*modules: nn.Module) -> int:
    """Returns the bytes of parameters and buffers; shared tensors count once."""
    tensors = {id(x): x for m in modules for x in (*m.parameters(), *m.buffers())}
    return sum(x.numel() * x.element_size() for x in tensors.values())


def available(device: torch.device) -> int:
    """Returns the bytes available on a device. On the CPU, the limit of a container also applies."""
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
        except (OSError, ValueError, StopIteration):  # no container, or no limit
            continue
    return free


def is_out_of_memory(error: BaseException) -> bool:
    # On CPU and MPS it is a plain RuntimeError, from the allocator or from oneDNN, recognisable only by its
    # message.
    """Returns whether an error means that memory ran out."""
    messages = (
        "allocate memory",
        "could not create a primitive",
        "ALLOC_FAILED",
        "bad_alloc",
        "MPS backend out of memory",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in messages
    )
