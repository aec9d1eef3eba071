"""Sampling: denoising loop, schedulers, denoiser, temporal segments and windows, VAE, previews, memory."""
