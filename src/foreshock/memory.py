"""How much memory there is, how much is used, and how to stay below it.

`watch` measures a phase, `batch_for` plans one, `guard` and `Batches` shrink batches when the plan was too
bold, and `MicroBatches` does so for training, where the effective batch has to stay.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from foreshock.errors import ConfigError, ResourceError

_Out = TypeVar("_Out")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_FACTORS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # cgroup version 1 writes "no limit" as a number near 2^63


def parse_bytes(text: str | int) -> int:
    """Bytes from "8GiB", "500 MB", "1.5g" or a plain number.

    Example:
        >>> parse_bytes("1.5 GiB")
        1610612736
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-z]*?)b?\s*", str(text).lower())
    factor = _FACTORS.get(found[2]) if found else None
    if found is None or factor is None or float(found[1]) <= 0:
        raise ConfigError(f"{text!r} is no amount of memory; write it as 8GiB, 500MB or a number of bytes.")
    return int(float(found[1]) * factor)


def format_bytes(amount: float) -> str:
    """Bytes for people.

    Example:
        >>> format_bytes(1610612736)
        '1.5 GiB'
    """
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


# ---------------------------------------------------------------------------------------------- measuring


def resident_bytes() -> int:
    """Memory of this process that lies in RAM now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def cuda_bytes() -> int | None:
    """Memory that torch holds on its current CUDA device, None without one (or without torch loaded)."""
    cuda = _cuda()
    return None if cuda is None else int(cuda.memory_reserved())


def _cuda() -> Any:
    """`torch.cuda` if torch is there, whole, and has a device.

    A thread that watches may look while another is still importing torch.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_available = getattr(cuda, "is_available", None)
    return cuda if is_available is not None and is_available() else None


def cuda_devices() -> tuple[tuple[str, int, int], ...]:
    """(name, free bytes, total bytes) of each NVIDIA device, by nvidia-ml-py or torch; none is empty."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        rows = [(pynvml.nvmlDeviceGetName(h), pynvml.nvmlDeviceGetMemoryInfo(h)) for h in handles]
        return tuple((str(name), int(info.free), int(info.total)) for name, info in rows)
    except Exception:  # not installed, no driver, no permission: torch may still know
        cuda = _cuda()
        if cuda is None:
            return ()
        return tuple((cuda.get_device_name(i), *cuda.mem_get_info(i)) for i in range(cuda.device_count()))


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a phase used, whole process."""

    phase: str
    resident_bytes: int
    cuda_bytes: int | None
    seconds: float

    def facts(self) -> dict[str, Any]:
        """One line for the run log."""
        return {
            "phase": self.phase,
            "peak_bytes": self.resident_bytes,
            "cuda_peak_bytes": self.cuda_bytes,
            "seconds": round(self.seconds, 3),
        }


class Watch:
    """Samples memory until stopped; `peak` may be read at any time."""

    def __init__(self, phase: str, every_s: float = 0.02) -> None:
        self._began = time.perf_counter()
        self._every_s = every_s
        self._high_water = _high_water_bytes()
        self._over = threading.Event()
        self.peak = Peak(phase, resident_bytes(), cuda_bytes(), 0.0)
        self._thread = threading.Thread(target=self._loop, name=f"memory-{phase}", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.wait(self._every_s):
            self.sample()

    def sample(self) -> None:
        """Look once."""
        cuda = cuda_bytes()
        known = [value for value in (self.peak.cuda_bytes, cuda) if value is not None]
        self.peak = replace(
            self.peak,
            resident_bytes=max(self.peak.resident_bytes, resident_bytes()),
            cuda_bytes=max(known) if known else None,
            seconds=time.perf_counter() - self._began,
        )

    def stop(self) -> Peak:
        """Look a last time and say the peak."""
        self._over.set()
        self._thread.join()
        self.sample()
        # The kernel's high-water mark sees what falls between two samples, if this phase raised it.
        high = _high_water_bytes()
        if high > self._high_water:
            self.peak = replace(self.peak, resident_bytes=max(self.peak.resident_bytes, high))
        return self.peak


def _high_water_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    amount = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(amount if sys.platform == "darwin" else amount * 1024)


@contextmanager
def watch(
    phase: str, on_peak: Callable[[Peak], None] | None = None, every_s: float = 0.02
) -> Iterator[Watch]:
    """Measure the memory of a block; `on_peak` is told at the end, also after an error. May be nested.

    Example:
        >>> with watch("read") as seen:
        ...     table = bytearray(1_000_000)
        >>> seen.peak.resident_bytes > 1_000_000
        True
    """
    watching = Watch(phase, every_s)
    try:
        yield watching
    finally:
        peak = watching.stop()
        if on_peak is not None:
            on_peak(peak)


# ----------------------------------------------------------------------------------------------- planning


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes may be used, and who says so."""

    bytes: int
    source: str = "told"

    @classmethod
    def parse(cls, text: str | int) -> Budget:
        """From "8GiB" or a number; "auto" is what this machine can spare."""
        return cls.here() if text == "auto" else cls(parse_bytes(text))

    @classmethod
    def here(cls, share: float = 0.8) -> Budget:
        """What this process has already, and `share` of what is free: of the machine, or of its container."""
        import psutil

        available, source = int(psutil.virtual_memory().available), "available memory"
        left = _cgroup_left_bytes()
        if left is not None and left < available:
            available, source = left, "container limit"
        return cls(resident_bytes() + int(available * share), source)

    def __str__(self) -> str:
        return f"{format_bytes(self.bytes)} ({self.source})"


def _cgroup_left_bytes(root: Path = _CGROUP) -> int | None:
    """What the container may still take; None when nothing limits it."""
    pairs = (
        ("memory.max", "memory.current"),  # version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # version 1
    )
    for limit_name, used_name in pairs:
        try:
            limit = (root / limit_name).read_text().strip()
            used = int((root / used_name).read_text())
        except (OSError, ValueError):
            continue
        if limit != "max" and int(limit) < _NO_LIMIT:
            return max(0, int(limit) - used)
    return None


def batch_for(
    budget: Budget, bytes_per_item: int, fixed_bytes: int = 0, most: int = 1024, what: str = "one item"
) -> int:
    """The largest batch, 1..most, that fits the budget.

    Args:
        bytes_per_item: what one item more costs (activations, mostly).
        fixed_bytes: what is needed anyway (weights, the process itself).

    Raises:
        ResourceError: not even one item fits.

    Example:
        >>> batch_for(Budget.parse("8GiB"), parse_bytes("100MiB"), parse_bytes("3GiB"))
        51
    """
    if bytes_per_item <= 0:
        return most
    fits = math.floor((budget.bytes - fixed_bytes) / bytes_per_item)
    if fits < 1:
        raise ResourceError(
            f"{what} needs about {format_bytes(fixed_bytes + bytes_per_item)}, the budget is {budget}. "
            "Raise memory.budget, take a smaller model or a shorter window.length."
        )
    return min(fits, most)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on either device."""
    if isinstance(error, MemoryError):
        return True
    out_of_memory = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    if out_of_memory is not None and isinstance(error, out_of_memory):
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def guard(
    items: int,
    run: Callable[[int, int], _Out],
    batch: int,
    budget: Budget | None = None,
    on_shrink: Callable[[int, str], None] | None = None,
) -> Iterator[_Out]:
    """Call `run(start, end)` over 0..items in batches, halving them when memory runs short.

    A batch is halved before the budget is passed (what the last batch took is expected of the next)
    and after an out-of-memory error, and the work goes on where it stood. No item is run twice with success.

    Args:
        batch: items a call to begin with.
        budget: for the whole process; None waits for the error.
        on_shrink: told the new batch and the reason.

    Raises:
        ResourceError: memory ran out at a batch of one.

    Example:
        >>> list(guard(5, lambda start, end: end - start, batch=2))
        [2, 2, 1]
    """
    return Batches(batch, budget, on_shrink=on_shrink).run(items, run)


class Batches:
    """Batches that shrink as `guard`'s do, over several calls: what was learned in one holds for the next.

    Args:
        batch: items a call to begin with.
        budget: for the whole process; None waits for the error.
        item_bytes: what one item is expected to take at least, before and after something was measured.
        fixed_bytes: what a batch takes whatever its size.
        on_shrink: told the new batch and the reason.

    Example:
        >>> batches = Batches(2)
        >>> [list(batches.run(items, lambda start, end: end - start)) for items in (3, 2)]
        [[2, 1], [2]]
    """

    def __init__(
        self,
        batch: int,
        budget: Budget | None = None,
        item_bytes: float = 0.0,
        fixed_bytes: int = 0,
        on_shrink: Callable[[int, str], None] | None = None,
    ) -> None:
        self.batch = max(1, batch)
        self._budget = budget
        self._item_bytes = item_bytes  # the most that was seen
        self._fixed_bytes = fixed_bytes
        self._on_shrink = on_shrink

    def run(self, items: int, work: Callable[[int, int], _Out]) -> Iterator[_Out]:
        """What `work(start, end)` gives for each batch of 0..items.

        Raises:
            ResourceError: one item would pass the budget, or memory ran out at a batch of one.
        """
        start = 0
        while start < items:
            self._plan(items - start)
            end = min(items, start + self.batch)
            before, high_before = _footprint(), _high_water_bytes()
            try:
                out = work(start, end)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if end - start == 1:
                    raise _nothing_left_to_shrink() from error
            else:
                grown = _grown(before, high_before) - self._fixed_bytes
                self._item_bytes = max(self._item_bytes, grown / (end - start))
                start = end
                yield out
                continue
            self.batch = max(1, (end - start) // 2)
            _release()
            _tell(self._on_shrink, self.batch, "memory ran out")

    def _plan(self, items: int) -> None:
        """Shrink the next batch until it is expected to fit, after giving back what nobody uses."""
        if self._budget is None:
            return
        wanted = min(self.batch, items)
        left = Budget(self._budget.bytes - self._fixed_bytes)
        if _within(left, self._item_bytes, wanted) == wanted and self._fits_one():
            return
        _release()
        if not self._fits_one():
            raise ResourceError(
                f"one row needs about {format_bytes(self._item_bytes + self._fixed_bytes)} beside the "
                f"{format_bytes(_footprint())} in use, the budget is {self._budget}. Raise memory.budget, or "
                "take a smaller model or fewer KPIs."
            )
        planned = _within(left, self._item_bytes, wanted)
        if planned < wanted:
            self.batch = planned
            _tell(self._on_shrink, planned, f"the next batch would have passed the budget of {self._budget}")

    def _fits_one(self) -> bool:
        needed = _footprint() + self._fixed_bytes + self._item_bytes
        return self._budget is None or needed <= self._budget.bytes


class MicroBatches:
    """Works through training batches in pieces that fit into memory; the effective batch stays as it is.

    After an out-of-memory error the piece is halved and the whole batch is begun anew, since the way back
    may have stopped between two gradients. The size that fits is kept for the batches that follow.

    Args:
        size: items a piece to begin with.
        budget: for the whole process; pieces shrink before it is passed. None waits for the error, which
            on a CPU may never come: the kernel ends the process instead.
        on_shrink: told the new size and the reason.

    Example:
        >>> pieces = MicroBatches(3)
        >>> gradients = []
        >>> pieces.run(8, lambda start, end: gradients.append((start, end)), gradients.clear)
        [None, None, None]
        >>> gradients
        [(0, 3), (3, 6), (6, 8)]
    """

    def __init__(
        self, size: int, budget: Budget | None = None, on_shrink: Callable[[int, str], None] | None = None
    ) -> None:
        self.size = max(1, size)
        self._budget = budget
        self._on_shrink = on_shrink
        self._grown = 0.0  # bytes an item, as last seen

    def run(self, items: int, step: Callable[[int, int], _Out], reset: Callable[[], object]) -> list[_Out]:
        """What `step(start, end)` gives for each piece of 0..items.

        Args:
            step: forward and backward of some items. Its loss must be their share of the batch's loss
                (a mean over the piece times (end - start) / items), so that gradients add up to the same.
            reset: forgets the gradients of this batch, such as `optimizer.zero_grad`; called before the
                batch is begun anew.

        Raises:
            ResourceError: memory ran out at one item.
        """
        while True:
            self.size = max(1, min(self.size, items))
            try:
                return [step(start, end) for start, end in self._pieces(items)]
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise _nothing_left_to_shrink() from error
            self.size //= 2
            reset()
            _release()
            _tell(self._on_shrink, self.size, "memory ran out")

    def _pieces(self, items: int) -> Iterator[tuple[int, int]]:
        start = 0
        while start < items:
            if self._budget is not None and self._grown > 0:
                planned = _within(self._budget, self._grown, self.size)
                if planned < self.size:
                    self.size = planned
                    reason = f"the next piece would have passed the budget of {self._budget}"
                    _tell(self._on_shrink, planned, reason)
            end = min(items, start + self.size)
            before, high_before = _footprint(), _high_water_bytes()
            yield start, end
            self._grown = max(self._grown, _grown(before, high_before) / (end - start))
            start = end


def _grown(before: int, high_before: int) -> int:
    """Bytes taken since, also if they were given back: the kernel's mark tells, when it was raised."""
    high = _high_water_bytes()
    return max(_footprint(), high if high > high_before else 0) - before


def _nothing_left_to_shrink() -> ResourceError:
    return ResourceError(
        f"memory ran out at a batch of 1 ({format_bytes(resident_bytes())} in use). "
        "Take a smaller model, a shorter window.length, or a machine with more memory."
    )


def _within(budget: Budget, bytes_per_item: float, batch: int) -> int:
    """`batch` halved until it is expected to fit, at least 1."""
    left = budget.bytes - _footprint()
    while batch > 1 and batch * bytes_per_item > left:
        batch //= 2
    return batch


def _footprint() -> int:
    return resident_bytes() + (cuda_bytes() or 0)


def _tell(on_shrink: Callable[[int, str], None] | None, batch: int, reason: str) -> None:
    if on_shrink is not None:
        on_shrink(batch, reason)


def return_freed_memory(from_bytes: int = 1 << 16) -> bool:
    """Tell glibc to give pieces of so many bytes pages of their own, which go back as soon as they are freed.

    By default it keeps freed pieces for later, in holes that the next tensor may not fit: training steps then
    peak at 1.06 to 2.1 times what they hold at once. Fetching pages anew costs 1.1 to 1.8 times the processor
    time (first steps; benchmarks/plan_memory.py, 2026-11-26). Does nothing elsewhere, or when a MALLOC_
    variable says that somebody has decided already. Undone by models.engine.keep_freed_memory, which scoring
    calls.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mmap_threshold = -3
    try:
        return bool(ctypes.CDLL(None).mallopt(mmap_threshold, from_bytes))
    except (OSError, AttributeError):  # musl has none
        return False


def _release() -> None:
    """Give back what nobody uses: what a failed batch left behind, what allocators keep for later."""
    gc.collect()
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
    cuda = _cuda()
    if cuda is not None:
        cuda.empty_cache()
