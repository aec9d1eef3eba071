"""The version of the sampling (standard library only).

Raise SAMPLING_VERSION whenever the embedded model produces another clip for the same request: after a
change of its weights, of its default settings, or of the code between a request and its frames.
Evaluation records (`python -m lumiere.paperworld evaluate`) belong to one version. Three clips of fixed
seeds check it.
"""

SAMPLING_VERSION = 2
