"""Space-time UNet of the paper: temporal layers, inflation of a UNet, motion weights, conditioning."""
