"""Keeps models loaded and runs jobs on the device: model cache, job queue, batches, ZeroGPU."""
