"""The version of the sampling (standard library only).

Raise SAMPLING_VERSION whenever the embedded model makes another clip of the same request: after a change of
its weights, of its usual settings, or of the code between a request and its frames. Records of an evaluation
(`python -m lumiere.paperworld evaluate`) belong to one version; three clips of fixed seeds check it.
"""

SAMPLING_VERSION = 2
