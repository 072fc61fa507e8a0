"""The one place that connects to Ray."""

import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mimir_ray.config import UserError

logger = logging.getLogger(__name__)

MINIMUM_LOGICAL_CPUS = 4
"""Slots of a local Ray: two training workers beside the tasks that feed them hang on two cores counted as two."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a local Ray: rows carry names and encoded bytes, never frames, so little passes through it."""


def connect(address: str | None = None) -> None:
    """Join the Ray cluster at `address` or RAY_ADDRESS (a submitted job finds it set), or start a local Ray.

    Does nothing where Ray already runs in this process. A local Ray has token authentication on, opens no dashboard
    and sends no usage statistics.

    Raises:
        UserError: no cluster answers at the address, or it is a dashboard's.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # our own lines say how far a stage is
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith(("http://", "https://")):
        raise UserError(
            f"--address (or RAY_ADDRESS) {address!r} is a dashboard's, which takes jobs: send one with `mimir submit "
            "VERB --address ...`, or name the cluster itself, such as head:6379, or auto on one of its machines"
        )
    local = address is None or address == "local"
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Ray makes its workers so nice (15) that anything else on a busy machine starves them into timeouts.
        os.environ.setdefault("RAY_worker_niceness", "0")

    import ray

    if ray.is_initialized():
        return
    with _our_signal_handlers():
        _connect(None if local else address)


@contextmanager
def _our_signal_handlers() -> Iterator[None]:
    """Ray puts a handler of its own in the place of SIGTERM's, which prints a stack trace and aborts."""
    ours = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for signum, handler in ours.items():
            if handler is not None:  # one that was not installed from Python cannot be put back
                signal.signal(signum, handler)


def _keep_notes_off_the_terminal() -> None:
    """Ray's notes on what goes well stay in its own log files; its warnings and errors are shown."""
    importlib.import_module("ray.data")  # gives its log the handlers
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the one beside it writes the file
            handler.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off, as we ask
    logging.getLogger("ray.serve").addFilter(_warns)  # its level and handlers are set anew when Serve starts


def _warns(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _connect(address: str | None) -> None:
    """Join the cluster at `address`, or start a local one."""
    import ray

    verbose = logging.getLogger("mimir_ray").isEnabledFor(logging.DEBUG)
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        _keep_notes_off_the_terminal()
    if address is None:
        logger.info("starting a local Ray")
        ray.init(
            address="local",
            num_cpus=max(MINIMUM_LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
        )
        return
    try:
        ray.init(address=address, log_to_driver=True, logging_level=level)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address!r}: start one (`ray start --head`), correct --address or RAY_ADDRESS, "
            "or leave both out to run on this machine"
        ) from error
