"""Measured, planned and guarded memory."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock import memory
from foreshock.errors import ConfigError, ResourceError
from foreshock.memory import Budget, Peak, batch_for, format_bytes, guard, parse_bytes, watch

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 8 * 2**30), ("8 gb", 8 * 10**9), ("512", 512), ("1.5Ki", 1536), ("2k", 2000), (7, 7)],
)
def test_amounts_are_read(text, expected):
    """Binary and decimal units, with and without B, in any case."""
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "8XB", "-1GiB", "0", "1e9", "GiB", 0, -3])
def test_no_amount_is_refused(text):
    """What is no amount says so, with an example of one."""
    with pytest.raises(ConfigError, match="8GiB"):
        parse_bytes(text)


@given(st.integers(1, 2**40))
def test_format_is_near(amount):
    """What is shown reads back to within its rounding."""
    assert parse_bytes(format_bytes(amount)) == pytest.approx(amount, rel=0.06, abs=1)


def test_watch_sees_a_large_array():
    """The peak holds what lived in the block, also when it is gone at the end; the callable is told."""
    told: list[Peak] = []
    before = memory.resident_bytes()
    with watch("make", told.append):
        # Pages of its own: an ordinary block may fill memory that the process held already.
        block = mmap.mmap(-1, 64 * MIB)
        block.write(b"x" * (64 * MIB))
        block.close()
    assert [peak.phase for peak in told] == ["make"]
    assert told[0].resident_bytes >= before + 32 * MIB
    assert told[0].facts()["peak_bytes"] == told[0].resident_bytes


def test_watch_reports_after_an_error():
    """A phase that fails has a peak too."""
    told: list[Peak] = []
    with pytest.raises(ValueError, match="boom"), watch("fail", told.append):
        raise ValueError("boom")
    assert len(told) == 1


def test_watches_nest():
    """The outer peak is never below the inner one."""
    with watch("outer") as outer, watch("inner") as inner:
        b"x" * (16 * MIB)
    assert outer.peak.resident_bytes >= inner.peak.resident_bytes - MIB


def test_batch_fits_exactly():
    """The largest batch whose cost is within the budget."""
    assert batch_for(Budget(100), 10, fixed_bytes=5) == 9
    assert batch_for(Budget(100), 10, fixed_bytes=5, most=4) == 4
    assert batch_for(Budget(15), 10, fixed_bytes=5) == 1


def test_nothing_fits():
    """Not one item: a resource error (exit code 3) with both numbers."""
    with pytest.raises(ResourceError, match=r"needs about 15 B, the budget is 14 B") as caught:
        batch_for(Budget(14), 10, fixed_bytes=5)
    assert caught.value.exit_code == 3


def test_container_limit_counts(tmp_path):
    """Inside a container the rest of its limit is what is left; without a limit nothing is."""
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory._cgroup_left_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_left_bytes(tmp_path) is None
    assert memory._cgroup_left_bytes(tmp_path / "nowhere") is None


def test_budget_of_this_machine():
    """auto is above what is held and below everything."""
    import psutil

    assert memory.resident_bytes() < Budget.parse("auto").bytes < psutil.virtual_memory().total


@settings(max_examples=30)
@given(st.integers(0, 12), st.integers(1, 8), st.integers(1, 8))
def test_guard_visits_each_item_once(items, batch, fits):
    """Whatever batch fits, the successful pieces cover all items in order, none twice."""
    done: list[int] = []

    def run(start, end):
        if end - start > fits:
            raise MemoryError
        done.extend(range(start, end))
        return end

    list(guard(items, run, batch))
    assert done == list(range(items))


def test_guard_halves_and_tells():
    """After an out-of-memory error the batch is halved, and somebody is told why."""
    told = []

    def run(start, end):
        if end - start > 3:
            raise MemoryError
        return end - start

    assert list(guard(8, run, 8, on_shrink=lambda batch, why: told.append((batch, why)))) == [2, 2, 2, 2]
    assert told == [(4, "memory ran out"), (2, "memory ran out")]


def test_guard_gives_up_at_one():
    """When one item is too much, there is nothing left to shrink."""

    def run(start, end):
        raise MemoryError

    with pytest.raises(ResourceError, match="batch of 1"):
        list(guard(4, run, 4))


def test_guard_passes_other_errors_on():
    """An error that is not about memory is not hidden."""

    def run(start, end):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(guard(4, run, 4))


def test_guard_shrinks_before_the_budget(monkeypatch):
    """The next batch is shrunk when what the last one took would pass the budget."""
    use = {"now": 1000}
    monkeypatch.setattr(memory, "resident_bytes", lambda: use["now"])
    monkeypatch.setattr(memory, "_high_water_bytes", lambda: 0)
    sizes, told = [], []

    def run(start, end):
        sizes.append(end - start)
        use["now"] = 1000 + 100 * (end - start)  # 100 a piece
        return end

    for _ in guard(12, run, 4, Budget(1250), on_shrink=lambda batch, why: told.append(batch)):
        use["now"] = 1000
    assert sizes[0] == 4
    assert max(sizes[1:]) <= 2
    assert told == [2]
    assert sum(sizes) == 12


def fake_use(monkeypatch, held=1000):
    """A process that holds `held` bytes, and more while `use["now"]` says so."""
    use = {"now": held}
    monkeypatch.setattr(memory, "resident_bytes", lambda: use["now"])
    monkeypatch.setattr(memory, "_high_water_bytes", lambda: 0)
    monkeypatch.setattr(memory, "_release", lambda: use.update(now=min(use["now"], held)))
    return use


def test_batches_remember_from_one_call_to_the_next(monkeypatch):
    """What one piece took holds for the next; what is free again is given back before anything shrinks."""
    use, sizes, told = fake_use(monkeypatch), [], []
    batches = memory.Batches(8, Budget(1450), on_shrink=lambda batch, why: told.append(batch))

    def work(start, end):
        sizes.append(end - start)
        use["now"] = 1000 + 100 * (end - start)  # kept by the allocator until it is asked for it

    for _ in range(2):
        list(batches.run(8, work))
    assert sizes == [8, 4, 4]
    assert told == [4], "shrunk once, and no further for memory that nobody uses"


def test_what_is_expected_counts_before_anything_was_measured(monkeypatch):
    """The first batch is planned as well."""
    fake_use(monkeypatch)
    sizes = []
    list(memory.Batches(8, Budget(1450), 100).run(8, lambda start, end: sizes.append(end - start)))
    assert sizes == [4, 4]
    sizes.clear()
    list(memory.Batches(8, Budget(1450), 100, 200).run(8, lambda start, end: sizes.append(end - start)))
    assert sizes == [2, 2, 2, 2], "what a batch takes whatever its size counts too"


def test_one_item_that_passes_the_budget(monkeypatch):
    """Refused before it runs, with what it needs and what is held; exactly at the budget it runs."""
    fake_use(monkeypatch, held=900)
    done = []
    list(memory.Batches(1, Budget(1000), 100).run(1, lambda start, end: done.append(end)))
    with pytest.raises(ResourceError, match="one row needs about 101 B beside the 900 B in use") as caught:
        list(memory.Batches(8, Budget(1000), 101).run(8, lambda start, end: done.append(end)))
    assert caught.value.exit_code == 3
    assert done == [1]


def batch_gradient(pieces, fails_above, items=8, partly=False):
    """One training step on a line through `items` points; the way back runs out of memory above a size."""
    torch = pytest.importorskip("torch")
    x = torch.arange(items, dtype=torch.float64)
    weight = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    seen = []

    def step(start, end):
        seen.append(end - start)
        loss = ((weight[0] * x[start:end] + weight[1] - 3) ** 2).mean() * (end - start) / items
        if end - start > fails_above:
            if partly:
                loss.backward()  # gradients are there already when memory runs out
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss.backward()
        return loss.item()

    def reset():
        weight.grad = None

    loss = sum(pieces.run(items, step, reset))
    return weight.grad.numpy(), loss, seen


@pytest.mark.parametrize("partly", [False, True])
def test_out_of_memory_keeps_the_effective_batch(partly):
    """An injected out-of-memory error halves the piece; loss and gradient stay those of the whole batch."""
    wanted, wanted_loss, _ = batch_gradient(memory.MicroBatches(8), fails_above=8)
    told = []
    pieces = memory.MicroBatches(8, on_shrink=lambda size, why: told.append((size, why)))
    got, loss, seen = batch_gradient(pieces, fails_above=3, partly=partly)
    assert got == pytest.approx(wanted, rel=1e-12)
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    assert seen == [8, 4, 2, 2, 2, 2]
    assert told == [(4, "memory ran out"), (2, "memory ran out")]
    assert batch_gradient(pieces, fails_above=3)[2] == [2, 2, 2, 2], "the size that fits is kept"


def test_out_of_memory_late_in_a_batch():
    """A piece that fails after others were done does not count them twice."""
    pieces, total, calls = memory.MicroBatches(4), [], []

    def step(start, end):
        calls.append((start, end))
        if (start, end) == (4, 8):
            raise MemoryError
        total.extend(range(start, end))

    pieces.run(8, step, total.clear)
    assert total == list(range(8))
    assert pieces.size == 2


def test_micro_batches_give_up_at_one_and_pass_others_on():
    """Nothing left to shrink is a resource error; what is not about memory is not hidden."""

    def fail(error):
        def step(start, end):
            raise error

        return step

    with pytest.raises(ResourceError, match="batch of 1"):
        memory.MicroBatches(4).run(4, fail(MemoryError()), lambda: None)
    with pytest.raises(RuntimeError, match="shapes differ"):
        memory.MicroBatches(4).run(4, fail(RuntimeError("shapes differ")), lambda: None)


def test_micro_batches_shrink_before_the_budget(monkeypatch):
    """What the first piece took is expected of the next."""
    use = {"now": 1000}
    monkeypatch.setattr(memory, "resident_bytes", lambda: use["now"])
    monkeypatch.setattr(memory, "_high_water_bytes", lambda: 0)
    pieces = memory.MicroBatches(4, Budget(1250))
    sizes = []

    def step(start, end):
        sizes.append(end - start)
        use["now"] = 1000 + 100 * (end - start)

    pieces.run(4, step, lambda: None)
    use["now"] = 1000
    pieces.run(8, step, lambda: None)
    assert sizes[0] == 4
    assert max(sizes[1:]) <= 2
    assert sum(sizes) == 12


def test_torch_out_of_memory_is_recognised():
    """Both of torch's ways to say it."""
    torch = pytest.importorskip("torch")
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried")
    )
    assert not memory.is_out_of_memory(RuntimeError("shape mismatch"))


def test_watching_while_torch_is_loaded():
    """A watch that looks at a half-imported torch sees no device, and goes on."""
    import sys
    from types import ModuleType

    half = ModuleType("torch")
    whole = sys.modules.get("torch")
    sys.modules["torch"] = half
    try:
        assert memory.cuda_bytes() is None
        half.cuda = ModuleType("torch.cuda")
        assert memory.cuda_bytes() is None
    finally:
        if whole is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = whole


def test_a_malloc_variable_is_somebody_elses_decision(monkeypatch):
    """Freed memory is returned only where nobody has set up the allocator already."""
    from foreshock.memory import return_freed_memory

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert return_freed_memory() is False
