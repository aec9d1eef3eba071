"""The space-time model of the paper: layers, their insertion into a UNet, motion weights, given pixels."""
