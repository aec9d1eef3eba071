"""Options of a loaded AnimateDiff adapter that may differ between clips."""

from collections.abc import Sequence

from torch import Tensor

from lumiere.loading.layout import locate_file
from lumiere.loading.registry import CAMERAS
from lumiere.model.adapter_options import (
    adapter_layers,
    adapter_weights,
    check_fit,
    merge_motion_loras,
    read_motion_lora,
    restore,
    set_motion_scale,
    window_attention,
)
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import ADAPTER
from lumiere.sampling.settings import Sampling
from lumiere.sampling.temporal_windows import window_and_stride


class Adapter:
    """Motion scale, FreeNoise and camera moves of an inflated UNet. No clip may be running when they change.

    Attributes:
        cameras: pairs of a MotionLoRA and its weight that are merged into the motion weights.

    Args:
        lumiere: inflated UNet. Options other than the defaults need an AnimateDiff adapter.
    """

    def __init__(self, lumiere: Lumiere):
        self.cameras: tuple[tuple[str, float], ...] = ()
        self._lumiere = lumiere
        self._trained: dict[str, Tensor] = {}  # weights that the cameras changed, as they were
        self._motion_scale = 1.0
        self._window: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        """Whether the motion weights are an AnimateDiff adapter."""
        return bool(adapter_layers(self._lumiere))

    def apply(self, cameras: Sequence[tuple[str, float]], sampling: Sampling, frames: int) -> None:
        """Replaces all options; results do not depend on the options before.

        Args:
            cameras: pairs of a MotionLoRA (file, hub id or name of a camera move) and its weight.
            sampling: `motion_scale`, `free_noise` and `window`.
            frames: length of the clip. FreeNoise has no effect within one window.

        Raises:
            OSError: a MotionLoRA is missing or damaged.
            ValueError: the motion weights are not an AnimateDiff adapter, or a MotionLoRA does not fit.
        """
        if tuple(cameras) != self.cameras:
            self._merge(tuple(cameras))
        if sampling.motion_scale != self._motion_scale:
            set_motion_scale(self._lumiere, sampling.motion_scale)
            self._motion_scale = sampling.motion_scale
        length, stride = window_and_stride(sampling, self._lumiere.positions)
        window = (length, stride) if sampling.free_noise and frames > length else None
        if window != self._window:
            window_attention(self._lumiere, window)
            self._window = window

    def _merge(self, cameras: tuple[tuple[str, float], ...]) -> None:
        loras = []
        for name, weight in cameras:
            file = locate_file(CAMERAS.get(name, name), "MotionLoRA", ADAPTER[1])
            changes = read_motion_lora(file)
            try:
                check_fit(changes, adapter_weights(self._lumiere))
            except ValueError as error:
                raise ValueError(f"{file} does not fit: {error}") from error
            loras.append((changes, weight))
        restore(self._lumiere, self._trained)
        self._trained, self.cameras = {}, ()
        self._trained = merge_motion_loras(self._lumiere, loras)
        self.cameras = cameras
