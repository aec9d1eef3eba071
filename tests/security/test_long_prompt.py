"""Row 2: 10 000-character prompt through the API."""


def test_a_prompt_of_10_000_characters_is_refused_with_limit_and_length(stranger, work):
    told = "Prompt must be at most 2000 characters: received 10000."
    assert stranger.refusal(prompt="x" * 10_000) == told
    assert stranger.make(prompt="\U0001f3c0" * 10_000)["text"] == told
    assert (
        stranger.refusal(negative_prompt="x" * 2001)
        == "Negative prompt must be at most 2000 characters: received 2001."
    )
    assert not work.any


def test_a_call_of_megabytes_is_not_even_read(stranger, work):
    answer = stranger.post("call/generate", b'{"data": ["' + b"x" * 3_000_000 + b'"]}')
    assert answer.status_code == 413 and answer.json() == {"detail": "A call must be at most 2097152 bytes."}
    pieces = (b"x" * 100_000 for _ in range(1000))  # without an announced length
    answer = stranger.http.post("/gradio_api/call/generate", content=pieces)
    assert answer.status_code == 413
    assert stranger.generate()[0] == "complete"
