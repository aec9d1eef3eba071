"""Starts the page: reads options and environment, serves, loads the first model, and ends on a signal.

Gradio and torch are imported late and under one guard: whatever a library raises at start becomes one
sentence.
"""

import argparse
import importlib.util
import logging
import os
import signal
import sys
from dataclasses import replace

from lumiere.limits import ServerLimits
from lumiere.loading.hub import is_offline, telling
from lumiere.page import css, strings
from lumiere.page.server.site import Site, ignore_others, without_proxies
from lumiere.runtime import model_cache
from lumiere.runtime.console import lenient_output
from lumiere.sampling.allocator import keep_freed_memory


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
        given: arguments. Defaults to `sys.argv[1:]`.
    """
    parser = model_cache.options(strings.INTRO)
    parser.add_argument("--showcase", action="store_true", help="a large clip and a rotation of prompts")
    parser.add_argument("--mcp", action="store_true", help="serve the endpoints as tools for language models")
    options = parser.parse_args(given)
    if options.mcp and importlib.util.find_spec("mcp") is None:
        sys.exit(strings.NO_MCP)
    return options


def main(given: list[str] | None = None) -> None:
    """Serves the page until SIGTERM or Ctrl+C.

    Args:
        given: arguments. Defaults to `sys.argv[1:]`.

    Raises:
        SystemExit: the page cannot be served; the message is one sentence.
    """
    lenient_output()
    options = arguments(given)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lumiere").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        serve(options)
    except KeyboardInterrupt:  # before our own handler is there
        sys.exit(130)
    except (OSError, ValueError) as error:
        end(strings.unloadable(error))
    except Exception as error:
        end(strings.not_started(error))


def end(sentence: str) -> None:
    """Exits with status 1 and a sentence, after the traceback if LUMIERE_DEBUG is set.

    Raises:
        SystemExit: always.
    """
    if os.environ.get("LUMIERE_DEBUG"):
        logging.getLogger("lumiere.page").exception("the start failed")
    sys.exit(sentence)


def fetching(limits: ServerLimits, site: Site) -> ServerLimits:
    """Returns the limits with `fetch` decided: unless it is set, nobody downloads from a public page."""
    decided = limits.fetch if limits.fetch >= 0 else 2 if site.local else 0
    return replace(limits, fetch=0 if is_offline() else decided)


def serve(options: argparse.Namespace) -> None:
    """Builds and serves the page, loads the first model, waits for a signal and closes.

    Args:
        options: result of `arguments`.

    Raises:
        OSError: no model can be read, or the address or the folder for files cannot be used.
        ValueError: an option or an environment variable is not valid.
    """
    site, ignored = Site.read(), ignore_others()
    limits = fetching(ServerLimits.read(), site)
    if ignored:
        print(strings.ignored(ignored), file=sys.stderr, flush=True)
    with without_proxies():  # gradio creates HTTP clients at import
        from lumiere.page import events, showcase
        from lumiere.page.controller import Controller
        from lumiere.page.server.disk import own_folder
        from lumiere.page.server.model_handle import ModelHandle, first_ready, there
        from lumiere.page.server.theme import theme
        from lumiere.runtime import zerogpu

    own_folder()
    controllers: dict[str, Controller] = {}
    for name, (model, its_limits) in there(model_cache.allowed(options), limits.fetch > 0).items():
        Controller(model, its_limits, limits, name, controllers)
    first, *others = controllers.values()
    demo = (showcase if options.showcase else events).blocks(controllers)
    service = first.service
    if zerogpu.HERE:  # ZeroGPU needs the weights before the page
        first.zero = zerogpu.ZeroGPU(first.entry)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, service.end)
    service.launch(demo, site, options.mcp, theme=theme(), css=css())
    print(strings.opened(demo.local_url), flush=True)
    with telling(service.tell_loading):  # loads on this thread, so that a failure also ends the page
        message = first_ready(first.entry, options.device, alone=not others)
    for controller in controllers.values():
        controller.model.set_result(ModelHandle(controller.name, controller.entry, options.device))
    print(message, flush=True)
    while not service.ending.wait(1):
        pass  # a signal that arrives just before a wait without end would run its handler only after it
    print(strings.closed(service.close()), flush=True)
    demo.close(verbose=False)
