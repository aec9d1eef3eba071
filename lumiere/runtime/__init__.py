"""Models that stay loaded, jobs for the device, batches, ZeroGPU."""
