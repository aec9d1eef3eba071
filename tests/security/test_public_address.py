"""Row 23. Nothing is fetched from the internet either."""

import pytest

from tests.security.test_own_network import connections, places  # noqa: F401

ADDRESSES = ["https://example.com/a.png", "http://93.184.216.34/huge.mp4", "HTTPS://EXAMPLE.COM/a.gif"]


FIELDS = [
    ("generate", "prompt"),
    ("image_to_video", "image"),
    ("continue_clip", "clip"),
    ("inpaint", "region"),
]


@pytest.mark.parametrize("endpoint, field", FIELDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_public_address_is_refused_and_not_even_looked_up(
    stranger,
    connections,  # noqa: F811
    work,
    address,
    endpoint,
    field,
):
    for value in places(address):
        told = stranger.refusal(endpoint, **{field: value})
        assert told == "A file must be uploaded: received the name of another, or an address."
    assert stranger.http.get(f"/gradio_api/file={address}").status_code == 403
    assert connections() == [] and not work.any
