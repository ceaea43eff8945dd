"""`foreshock serve` as a process: HTTP, the loop, alerts; starts, listens to signals, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from foreshock.alerts import make_outbox
from foreshock.errors import ConfigError, ForeshockError, OutputError, ResourceError, WeightsError
from foreshock.service.learn import detector_with
from foreshock.service.live import Live
from foreshock.service.loop import Loop, note
from foreshock.service.settings import ServeSettings
from foreshock.sources.prometheus import PrometheusClient
from foreshock.store import Store
from foreshock.stream import Monitor

STORE = "foreshock.sqlite"
STOP_S = 5.0  # for open connections and the last alerts when stopping
DELIVER_S = 1.0


def serve(settings: ServeSettings) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the configuration anew.

    Raises:
        ConfigError, OutputError, ResourceError: it can't start.
    """
    _require_packages()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for name in ("httpx", "uvicorn"):  # a line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    with _only_one(Path(settings.serve.data)), Store(Path(settings.serve.data) / STORE) as store:
        asyncio.run(_serve(settings, store))


def load(settings: ServeSettings, store: Store) -> Any:
    """The detector of the settings, with the adapter in use if there is one."""
    from foreshock.models import load_detector
    from foreshock.models.engine import use_free_threads

    if settings.score.detector.name != "foreshock":
        return load_detector(settings.score.detector.name)
    promoted = store.promoted()
    adapter = promoted["path"] if promoted else settings.score.detector.adapter
    try:
        detector = detector_with(settings.score, adapter)
    except (WeightsError, ConfigError) as error:
        if not promoted:
            raise
        note("adapter_left_out", adapter=promoted["id"], reason=str(error))
        detector = detector_with(settings.score, "")
    use_free_threads()
    return detector


async def _serve(settings: ServeSettings, store: Store) -> None:
    import uvicorn

    from foreshock.service.api import make_app

    listening = _listen(settings)
    detector = await asyncio.to_thread(load, settings, store)
    monitor = Monitor(detector, settings.prometheus.step_s, settings.score, settings.keep_rows)
    live = Live(monitor, store, settings)
    loop = Loop(
        live,
        PrometheusClient(settings.prometheus),
        make_outbox(settings.alerts, store, settings.external_url),
        lambda new: load(new, store),
        lambda new: PrometheusClient(new.prometheus),
    )
    config = uvicorn.Config(
        make_app(live), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3,
        limit_concurrency=256, lifespan="off",
    )  # fmt: skip
    server = _make_server()(config)
    stop = asyncio.Event()
    _on_signals(live, stop)
    host, port = listening.getsockname()[:2]
    note("listening", host=host, port=port, data=str(settings.serve.data))
    tasks = [
        asyncio.create_task(loop.run()),
        asyncio.create_task(_deliver(loop)),
        asyncio.create_task(_write(loop)),
        asyncio.create_task(server.serve(sockets=[listening])),
    ]
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    note("stopping", reason="a signal" if stop.is_set() else "a part ended")
    live.health.phase = "stopping"
    loop.stop()
    server.should_exit = True
    done, late = await asyncio.wait(tasks, timeout=STOP_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, waiting if stop.is_set() else _nothing(), return_exceptions=True)
    await loop.outbox.close()
    await loop.writer.close()
    await loop.client.close()
    note("stopped")
    for task in done:
        task.result()


async def _nothing() -> None:
    return


async def _deliver(loop: Loop) -> None:
    """Tell what is to be told, once a second, and once more at the end."""
    while not loop.stopping.is_set():
        await loop.outbox.deliver(time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVER_S):
                await loop.stopping.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S / 2):
            await loop.outbox.deliver(time.time())


async def _write(loop: Loop) -> None:
    """Write scores back, once a second; nothing is lost by stopping, they are scored anew."""
    while not loop.stopping.is_set():
        await loop.writer.deliver()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVER_S):
                await loop.stopping.wait()


def _on_signals(live: Live, stop: asyncio.Event) -> None:
    running = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with contextlib.suppress(ForeshockError):  # noted by the loop
            await live.reload()

    def on_hup() -> None:
        task = asyncio.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for name in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(name, stop.set)
    running.add_signal_handler(signal.SIGHUP, on_hup)


def _listen(settings: ServeSettings) -> socket.socket:
    """The socket, opened before anything slow: an address that is taken is told at once.

    Raises:
        ConfigError: it can't be had.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(
            f"{where} can't be listened at ({error.strerror}); set serve.host or serve.port."
        ) from None
    return listening


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[IO[str]]:
    """Holds the data folder for this process; the system lets go of it whatever happens."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); set serve.data.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{folder} is in use by another foreshock; set serve.data.") from None
        yield lock


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import httpx  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f'the service needs {error.name}; install it with pip install "foreshock[serve]".'
        ) from None


def _make_server() -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals to us."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server
