"""From noise to frames: the loop, schedulers, denoiser, segments and windows in time, previews, memory."""
