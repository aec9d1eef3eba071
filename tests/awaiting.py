"""Coroutines in tests that are none."""

import asyncio
from concurrent.futures import ThreadPoolExecutor


def awaited(coroutine):
    """Its result; on a thread of its own, because the browser of other tests keeps a loop on this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
