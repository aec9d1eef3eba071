"""Where people run the page: below a path that a proxy keeps or strips, behind an outgoing proxy."""

import pytest

PREFIX = "LUMIERE_TEST_PREFIX"  # path before every path that a visitor sends
ROOT_PATH = "/studio"
NOBODY = "http://127.0.0.1:9"  # a proxy that refuses every connection
SURROUNDINGS = {
    "plain": {},
    "kept": {"GRADIO_ROOT_PATH": ROOT_PATH, PREFIX: ROOT_PATH},
    "stripped": {"GRADIO_ROOT_PATH": ROOT_PATH},
    "proxied": {"http_proxy": NOBODY, "https_proxy": NOBODY, "all_proxy": NOBODY},
}
OTHERS = [pytest.mark.slow, pytest.mark.soak]  # test_root_path and test_surroundings run in every ring
PARAMETERS = [pytest.param(name, marks=[] if name == "plain" else OTHERS) for name in SURROUNDINGS]
