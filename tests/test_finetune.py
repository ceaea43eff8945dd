"""Learning an adapter: what it keeps, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.calibrate import from_labels
from foreshock.cli import run
from foreshock.cli.steps import finished_scores, fixed_threshold
from foreshock.config import Settings
from foreshock.decide import decide
from foreshock.errors import ConfigError, FrameError, OutputError, WeightsError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.models import judging, lora, weights
from foreshock.models.figures import figure_names, quantity, service_figure_names
from foreshock.models.finetune import FinetuneOptions, divided_spans, finetune, with_spans
from foreshock.models.judging import look
from foreshock.models.moment import Moment, MomentConfig
from foreshock.models.recognise import Recogniser, one_way
from foreshock.models.reconstruct import moment_detector
from foreshock.models.series import Series
from foreshock.models.shots import draw_shots
from foreshock.models.verdict import (
    Kinds,
    Origins,
    Roots,
    Verdict,
    learn_incidents,
    learn_kinds,
    learn_roots,
    probability_of,
    root_prior,
    score_of,
    untaught,
)
from foreshock.models.vigil import USUAL, VigilDetector

pytest.importorskip("peft")

TINY = MomentConfig(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2, seq_len=64, vocab_size=8)
WINDOW = {"length": 64, "block": 16, "scales": (1, 4)}
QUICK = FinetuneOptions(shots=16, rank=2, steps=6, batch=8, check_every=2, patience=9, least_incidents=0)
BUSY = {"cart": "cpu", "pay": "latency"}


@pytest.fixture(scope="module")
def network() -> Recogniser:
    torch.manual_seed(1)
    return Recogniser(Moment(TINY)).eval()


@pytest.fixture(scope="module")
def adapter(network: Recogniser, tmp_path_factory: pytest.TempPathFactory) -> lora.Adapter:
    return finetune(frame(), tmp_path_factory.mktemp("a") / "one", network, QUICK, **WINDOW)


def frame(rows: int = 640, services: tuple[str, ...] = ("cart", "pay", "web"), seed: int = 0) -> Frame:
    """Six incidents of two kinds: a processor that is busy, a latency that rises."""
    rng = np.random.default_rng(seed)
    kpis = tuple(Kpi(f"{s}__{m}", s, m) for s in services for m in ("cpu", "latency", "memory"))
    values = rng.normal(10, 1, (rows, len(kpis)))
    anomaly, ids = np.zeros(rows, bool), np.full(rows, -1, np.int64)
    kind, cause = np.full(rows, "", "<U20"), np.full(rows, "", "<U20")
    for number, start in enumerate(range(100, rows - 40, 90)):
        who = "cart" if number % 2 else "pay"
        now = slice(start, start + 14)
        values[now, [k.name for k in kpis].index(f"{who}__{BUSY[who]}")] += 15
        anomaly[now], ids[now], kind[now], cause[now] = True, number, f"{BUSY[who]}_fault", who
    labels = Labels(anomaly, kind, cause, np.zeros(rows, bool), ids, np.ones(rows, bool))
    return Frame(np.arange(rows, dtype=np.int64) * 60 * 10**9, values, kpis, 60.0, labels)


def detector(network: Recogniser, of: lora.Adapter | None = None) -> VigilDetector:
    made = moment_detector("tiny", network, **WINDOW)
    assert isinstance(made, VigilDetector)
    return made if of is None else lora.with_adapter(made, of)


def test_it_learns_and_zero_shot_stays(network: Recogniser, adapter: lora.Adapter):
    """The labelled incidents stand out, kinds are told apart, and the base scores as before, bit by bit."""
    f = frame(seed=5)
    before = detector(network).score(f)
    scores = detector(network, adapter).score(f)
    after = detector(network).score(f)
    np.testing.assert_array_equal(before.system, after.system)
    truth = f.labels.anomaly
    assert np.median(scores.system[truth]) > 5 * np.median(scores.system[~truth])
    assert scores.kind_names == ("cpu_fault", "latency_fault")
    assert (scores.kinds.sum(1) <= 1 + 1e-5).all()
    np.testing.assert_allclose(scores.origins.sum(1), 1, rtol=1e-5)
    first = [scores.service_names[int(scores.origins[s + 3 : s + 14].sum(0).argmax())] for s in (100, 190)]
    assert first == ["pay", "cart"]
    named = [adapter.verdict.name(scores.kinds[s + 3 : s + 14]) for s in (100, 190, 280, 370)]
    assert named == ["latency_fault", "cpu_fault"] * 2
    assert {p.name for p in Path(adapter.place).iterdir()} == set(lora.FILES)


def test_a_finished_recording_is_judged_with_and_without_labels(network: Recogniser, adapter: lora.Adapter):
    """Half of the score is what labels taught, half what is seen from both ends; named as labels taught."""
    f = frame(seed=5).without_labels()
    base, taught = detector(network), detector(network, adapter)
    score = lambda d, part: d.score(part)  # noqa: E731
    chosen, scores = finished_scores(taught, f, score, Settings())
    with_labels, (zero, found) = taught.score(f), finished_scores(base, f, score, Settings())
    assert (chosen, scores.rows_in_hindsight) == (taught, found.rows_in_hindsight)
    assert scores.causal == found.causal
    own, usual = taught.threshold, fixed_threshold(found, Settings(), zero).high
    both = with_labels.taught / own + found.system / usual
    np.testing.assert_allclose(scores.system / own, both / 2, rtol=1e-5)
    np.testing.assert_array_equal(scores.kinds, with_labels.kinds)
    events = decide(scores, from_labels(own, f.step_s))
    assert [any(e.start < s + 14 and e.end > s for e in events) for s in range(100, 600, 90)] == [True] * 6


def test_live_rows_are_judged_with_and_without_labels(network: Recogniser, adapter: lora.Adapter):
    """Half of the score is the labels', half the same network's without them, each by its threshold."""
    f = frame(seed=5).without_labels()
    d, verdict = detector(network, adapter), adapter.verdict
    scores = d.score(f)
    without = replace(verdict, detects=False)
    alone = lora.AdaptedStream(d.recogniser, d.options, "", without).push(f)
    assert alone.taught is None
    assert verdict.usual is not None
    both = scores.taught / d.threshold + alone.system / verdict.usual
    np.testing.assert_allclose(scores.system / d.threshold, both / 2, rtol=1e-5)
    odds_alone = lora.AdaptedStream(d.recogniser, d.options, "", replace(verdict, usual=None)).push(f)
    np.testing.assert_array_equal(odds_alone.system, scores.taught)
    np.testing.assert_array_equal(lora.load_adapter(adapter.place).verdict.usual, verdict.usual)


def test_recordings_that_teach_little_beside_others(network: Recogniser):
    """Of several recordings one may have no window in a fold, or none at all: the others' count."""
    options = detector(network).options
    lessons = [look(frame(seed=s), network, options) for s in (0, 1, 2)]
    shots = draw_shots(lessons, 16, 16)
    few = [s for s in shots if s.lesson == 0] + [s for s in shots if s.lesson == 1][:1]
    verdict, facts = judging.judge(lessons, few, least_incidents=0)
    assert facts["shots"] == len(few)
    assert all(np.isfinite(judging.read(lesson, verdict)[0]).all() for lesson in lessons)


def test_a_changed_network_must_gain_more_than_chance():
    """By the labelled incidents' ranks, one by one; where they can't be compared it gains nothing."""
    before = {"crossed_each": [0.5, 0.6, 0.7, 0.8]}
    better = judging.is_surely_better
    assert better({"crossed_each": [0.6, 0.7, 0.7, 0.9]}, before)
    assert not better({"crossed_each": [0.9, 0.6, 0.7, 0.7]}, before)  # one incident alone
    assert not better(before, before)
    assert not better({"crossed_each": [0.9]}, {"crossed_each": [0.5]})
    assert not better({}, {})


def test_quiet_windows_tell_what_zero_shot_scores_are_usual(network: Recogniser):
    """Few hardly move the usual level, loud ones raise it, and calm ones lower it."""
    lesson = look(frame(), network, detector(network).options)
    m = judging.gather([lesson], draw_shots([lesson], 32, 16))
    quiet = sum(not s.is_faulty for s in m.shots)
    assert quiet > 8
    usual = USUAL.over(len(lesson.frame.kpis)).high
    steady, wild = (
        judging.usual_level(replace(m, system=np.full(len(m.row), level))) for level in (usual, 20.0)
    )
    assert steady == pytest.approx(usual)
    assert wild == pytest.approx(usual * (20 / usual) ** (quiet / (quiet + judging.FEW)))
    assert judging.usual_level(replace(m, system=np.zeros(len(m.row)))) < usual


def test_order_and_number_of_services_do_not_matter(network: Recogniser, adapter: lora.Adapter):
    """The same columns in another order give the same; more services are no obstacle."""
    f = frame()
    d = detector(network, adapter)
    order = np.random.default_rng(3).permutation(len(f.kpis))
    mixed = replace(f, values=f.values[:, order], kpis=tuple(f.kpis[i] for i in order))
    np.testing.assert_allclose(d.score(mixed).system, d.score(f).system, rtol=1e-4, atol=1e-5)
    wide = frame(services=("cart", "pay", "web", "mail", "search"))
    assert np.isfinite(d.score(wide).system).all()


def test_pieces_give_what_the_whole_gives(network: Recogniser, adapter: lora.Adapter):
    """Rows one by one, in odd pieces or at once."""
    f = frame(300)
    d = detector(network, adapter)
    whole, stream, parts, row = d.score(f), d.stream(), [], 0
    for size in (1, 7, 30, 1, 61, 100, 100):
        parts.append(stream.push(f.rows(slice(row, row + size))))
        row += size
    for name in ("system", "services", "kpis", "kinds", "origins"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_merged_and_unmerged_agree(network: Recogniser, adapter: lora.Adapter):
    """What peft loads and keeps apart gives the scores that the merged network gives, to 1e-4."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(lora.thawed(network), adapter.place).eval()
    base = detector(network)
    merged = lora.merge(network, adapter.tensors, adapter.scale, "a")
    x, attended = torch.randn(5, 64), torch.ones(5, 8, dtype=torch.bool)
    with torch.no_grad():
        got, want = merged(x, attended), wrapped(x, attended)
        away = merged.states_before(x, attended, 3)
        bias = one_way(wrapped.backbone.encoder.attention_bias(8))
        states = wrapped.backbone.encoder.run_blocks(
            wrapped.backbone.patch_embedding(x.reshape(5, 8, 8), None, 0), bias
        )
    torch.testing.assert_close(got.logit, want.logit, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(away, states[:, 4:7], rtol=1e-4, atol=1e-4)
    assert (got.logit - base.recogniser(x, attended).logit).abs().max() > 1e-3


def test_adapters_share_the_base(network: Recogniser, adapter: lora.Adapter, tmp_path: Path):
    """Two adapters on one base: all but the changed matrices and the heads are the same memory."""
    one = detector(network, adapter).recogniser
    shared = {p.data_ptr() for p in network.parameters()}
    own = [n for n, p in one.named_parameters() if p.data_ptr() not in shared]
    assert own
    assert all(n.startswith("heads.") or n.endswith((".q.weight", ".v.weight")) for n in own)


def test_a_kill_changes_nothing(network: Recogniser, tmp_path: Path):
    """Stopped after any step and started again: the same last loss to 1e-5, the same adapter."""
    f = frame()

    class Killed(Exception):
        pass

    def kill(line: dict) -> None:
        if line.get("step") == 3 and line["kind"] == "step":
            raise Killed

    whole, losses = finetune(f, tmp_path / "whole", network, QUICK, **WINDOW), []
    with pytest.raises(Killed):
        finetune(f, tmp_path / "cut", network, QUICK, kill, **WINDOW)
    again = finetune(f, tmp_path / "cut", network, QUICK, losses.append, **WINDOW)
    assert losses[0]["step"] == 2  # the last state that was saved
    assert again.facts["final_loss"] == pytest.approx(whole.facts["final_loss"], abs=1e-5)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "cut.training").exists()


def test_no_window_on_both_sides():
    """Training and validation share no row and no incident."""
    f = frame()
    base = detector(Recogniser(Moment(TINY)).eval())
    lessons = [look(f, base.recogniser, base.options)]
    shots = draw_shots(lessons, QUICK.shots, 16)
    rows = [set(range(s.start, s.end)) for s in shots]
    late = set().union(*(r for s, r in zip(shots, rows, strict=True) if s.validates))
    early = set().union(*(r for s, r in zip(shots, rows, strict=True) if not s.validates))
    assert late
    assert early
    assert not late & early
    ids = f.labels.fault_id
    assert not {int(ids[r]) for r in late if ids[r] >= 0} & {int(ids[r]) for r in early if ids[r] >= 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.without_labels(), "has no labels"),
        (lambda f: f.rows(slice(0, 90)), "no faulty row"),
        (lambda f: f.rows(slice(100, 112)), "no quiet row"),
    ],
)
def test_recordings_that_teach_nothing(network: Recogniser, tmp_path: Path, change, words):
    """Without labels, without a fault or without a quiet row there is one clear error, and no folder."""
    with pytest.raises(FrameError, match=words):
        finetune(change(frame()), tmp_path / "x", network, QUICK, **WINDOW)
    assert not list(tmp_path.iterdir())


def test_fewer_shots_than_classes(network: Recogniser, tmp_path: Path):
    """Two kinds and quiet need three windows."""
    with pytest.raises(FrameError, match="2 shots are fewer than the 3 classes"):
        finetune(frame(), tmp_path / "x", network, replace(QUICK, shots=2), **WINDOW)


def test_labels_outside_the_recording():
    """An incident that covers no row is refused with both times; one inside becomes labels."""
    f = frame().without_labels()
    hour = 3_600 * 10**9
    with pytest.raises(FrameError, match="covers no row; the recording goes from 1970-01-01T00:00:00Z"):
        with_spans(f, [(90 * hour, 91 * hour, "cpu", "cart")])
    with pytest.raises(FrameError, match="names the service 'shop'"):
        with_spans(f, [(hour, 2 * hour, "cpu", "shop")])
    made = with_spans(f, [(hour, 2 * hour, "cpu", "cart")]).labels
    assert made.anomaly.sum() == 61
    assert set(made.root_cause[made.anomaly]) == {"cart"}


def test_another_base_is_refused(adapter: lora.Adapter):
    """An adapter names its base; other weights of the same shape are not taken."""
    torch.manual_seed(2)
    with pytest.raises(WeightsError, match="made for base weights"):
        detector(Recogniser(Moment(TINY)).eval(), adapter)


@pytest.mark.parametrize("name", lora.FILES)
def test_a_truncated_file(adapter: lora.Adapter, tmp_path: Path, name: str):
    """Any of the three files cut short: said at once."""
    for file in Path(adapter.place).iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.name == name else content)
    with pytest.raises(WeightsError, match=r"cut short|whole JSON"):
        lora.load_adapter(tmp_path)


def test_files_of_two_adapters(adapter: lora.Adapter, tmp_path: Path):
    """A missing file and a wrong digest are told apart."""
    for file in Path(adapter.place).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ours = json.loads((tmp_path / lora.OURS).read_text())
    (tmp_path / lora.OURS).write_text(json.dumps(ours | {"adapter_sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="of two adapters"):
        lora.load_adapter(tmp_path)
    (tmp_path / lora.PEFT_CONFIG).unlink()
    with pytest.raises(WeightsError, match=r"has no adapter_config\.json"):
        lora.load_adapter(tmp_path)


@pytest.mark.parametrize("usual", [0, -1.0, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(adapter: lora.Adapter, usual: float):
    """The zero-shot score is divided by it."""
    raw = adapter.verdict.to_dict()
    assert Verdict.from_dict(raw, "a").usual == adapter.verdict.usual
    with pytest.raises(WeightsError, match="must be above 0"):
        Verdict.from_dict(raw | {"usual": usual}, "a")


def test_a_full_disk_leaves_the_previous_adapter(network, adapter, tmp_path, monkeypatch):
    """Whatever fails while saving, what was there is still there, and nothing half lies about."""
    out = tmp_path / "kept"
    finetune(frame(), out, network, replace(QUICK, steps=0), **WINDOW)
    before = lora.load_adapter(out).sha256

    class Full:
        def save_pretrained(self, folder: str, **_: object) -> None:
            (Path(folder) / lora.PEFT_WEIGHTS).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        lora.save_adapter(Full(), adapter.verdict, "x", {}, out)
    assert lora.load_adapter(out).sha256 == before
    assert {p.name for p in tmp_path.iterdir()} == {"kept", "kept.jsonl"}
    os.rename(out, tmp_path / ".kept.previous")  # killed between the two renames
    assert lora.load_adapter(out).sha256 == before


def test_only_recognition_can_be_adapted(adapter: lora.Adapter):
    """A network without its heads has nothing that an adapter could change."""
    with pytest.raises(ConfigError, match="needs the default detector"):
        lora.with_adapter(moment_detector("tiny", Moment(TINY).eval(), length=64), adapter)
    with pytest.raises(ConfigError, match="no target 'x'"):
        FinetuneOptions(targets=("x",))


def test_workload_is_traffic():
    """A service's calls are no processor load, though the word holds it; a load average is."""
    told = [quantity(Kpi(name, "cart", name)) for name in ("workload_ops", "load1", "cpu_pct", "calls")]
    assert told == ["traffic", "processor", "processor", "traffic"]


def origins(services: np.ndarray, root: np.ndarray, kind: np.ndarray) -> Origins:
    """Each row an incident of its own; as many calm rows, in which nothing stands out."""
    count, none = len(services), np.full(len(services), -1)
    calm = np.random.default_rng(7).uniform(0, 1, services.shape)
    return Origins(
        (*services, *calm), np.concatenate([root, none]), np.concatenate([kind, none]),
        np.concatenate([np.arange(count), none]), np.zeros(2 * count, int), np.ones(2 * count),
    )  # fmt: skip


def test_what_is_learned_from_rows():
    """Labels move the odds away from zero-shot only as far as they weigh; roots and kinds are found again."""
    rng = np.random.default_rng(0)
    count, wide = len(figure_names()), len(service_figure_names())
    met = rng.normal(0, 1, (400, count + 3 * wide))
    bad = met[:, 3] > 0.5
    some = learn_incidents(met, bad, np.full(400, 1e-9), met)[2]
    many = learn_incidents(met, bad, np.full(400, 9.0), met)[2]
    assert some[figure_names().index("system@0.6")] == pytest.approx(0.7, abs=1e-3)
    assert int(np.abs(many[:-1]).argmax()) == 3
    # The root is the service whose ninth figure stands out; the kind is told by its tenth.
    services = rng.uniform(0, 1, (60, 4, wide))
    root = np.arange(60) % 4
    services[np.arange(60), root, 8] += 5
    services[np.arange(60), root, 9] += np.where(np.arange(60) % 2 > 0, 4, 0)
    kind = np.where(np.arange(60) % 2 > 0, 0, 1)
    roots = learn_roots(origins(services, root, kind), untaught(2, np.ones(wide)))
    told = roots.read(services)
    assert (told.roots.argmax(1) == root).all()
    np.testing.assert_allclose(told.roots.sum(1), 1)
    assert told.odds.min() > 0 > roots.read(rng.uniform(0, 1, (60, 4, wide))).odds.max()
    kinds = learn_kinds(("a", "b"), told.met, kind, np.arange(60))
    assert (kinds.chances(told.kinds, told.met).argmax(1) == kind).all()
    far = kinds.chances(told.kinds, told.met + 50)
    assert far.max() == 0
    center, spread, odds = learn_incidents(met, bad, np.ones(400), met)
    made = Verdict(center, spread, odds, roots, kinds, 0.5)
    again = Verdict.from_dict(json.loads(json.dumps(made.to_dict())), "x")
    for a, b in zip(
        again.read(met[:60, :count], services), made.read(met[:60, :count], services), strict=True
    ):
        np.testing.assert_allclose(a, b)
    assert made.name(np.array([[0.5, 0.45]])) == "a"
    assert made.name(np.array([[0.4, 0.4]])) == "unknown"
    odds = np.array([-20.0, 0.0, 3.0])
    np.testing.assert_allclose(probability_of(score_of(odds)), 1 / (1 + np.exp(-odds)), atol=1e-9)


def test_roots_without_kinds_and_kinds_without_roots():
    """What is told is learned: labels that name only one of both still teach that one."""
    rng = np.random.default_rng(2)
    wide = len(service_figure_names())
    services = rng.uniform(0, 1, (60, 4, wide))
    root, kind = np.arange(60) % 4, np.arange(60) // 2 % 2
    services[np.arange(60), root, 8] += 5
    services[np.arange(60), root, 9] += 4 * kind
    nobody = np.full(60, -1)
    named = learn_roots(origins(services, root, nobody), untaught(0, np.ones(wide))).read(services)
    assert (named.roots.argmax(1) == root).all()
    assert named.kinds.shape == (60, 1)
    known = learn_roots(origins(services, nobody, kind), untaught(2, np.ones(wide))).read(services)
    assert (known.kinds.argmax(1) == kind).all()
    calm = origins(services, nobody, nobody).take(np.arange(60, 120))
    np.testing.assert_array_equal(learn_roots(calm, untaught(0, np.ones(wide))).weight, root_prior())


def test_few_incidents_leave_the_score_alone(network: Recogniser, tmp_path: Path):
    """Below so many labelled incidents they are found as without labels; kinds and services are named."""
    few = replace(QUICK, least_incidents=99)
    made = finetune(frame(), tmp_path / "few", network, few, **WINDOW)
    assert made.facts["incidents"] < 99
    again, adapted = frame(seed=5), detector(network, made)
    scores, zero = adapted.score(again), detector(network).score(again)
    np.testing.assert_array_equal(scores.system, zero.system)
    assert adapted.threshold is None
    assert scores.taught is None
    assert scores.kind_names == ("cpu_fault", "latency_fault")


def test_labels_decide_unless_zero_shot_is_surely_better(network: Recogniser):
    """One incident lost, another won say nothing; all lost do; windows count for those like them."""
    lesson = look(frame(), network, detector(network).options)
    m = judging.gather([lesson], draw_shots([lesson], 16, 16))
    of, later = m.incident[m.shot], m.row >= judging.SETTLED
    quiet = np.where(m.is_faulty, 0.0, np.random.default_rng(0).random(len(of)))
    bad = np.unique(of[later])[1:]
    assert len(bad) >= 4

    def found(*lost: int) -> np.ndarray:
        return np.where(m.is_faulty, np.where(np.isin(of, lost), 0.9, 2.0), quiet)

    zero = replace(m, system=found(bad[0]))
    is_better, facts = judging.compare(zero, found(bad[1]))
    assert is_better
    assert facts["ap_error"] > abs(facts["crossed_ap"] - facts["zero_shot_ap"])
    is_better, worse = judging.compare(zero, found(*bad))
    assert not is_better
    assert judging.compare(replace(m, system=found(*bad)), found(bad[1]))[0]
    rare = [replace(shot, weight=shot.weight * (1.0 if shot.is_faulty else 0.01)) for shot in m.shots]
    _, weighed = judging.compare(replace(zero, shots=tuple(rare)), found(*bad))
    assert weighed["crossed_ap"] > worse["crossed_ap"]


def test_a_verdict_fits_a_deployment_with_fewer_quantities():
    """Narrowed to the figures that there are, it says what the whole says where the others are 0."""
    rng = np.random.default_rng(1)
    count, wide = len(figure_names()), len(service_figure_names())
    roots = Roots(np.ones(wide), rng.normal(0, 1, 2 * wide), rng.normal(0, 1, (2, 3 * wide + 1)))
    kinds = Kinds(("a", "b"), np.zeros((2, 3 * wide)), np.ones(2) * 1e6)
    made = Verdict(
        np.zeros(count + 3 * wide), np.ones(count + 3 * wide), rng.normal(0, 1, count + 3 * wide + 1), roots,
        kinds, 0.5,
    )  # fmt: skip
    columns = np.arange(5, 25)
    rows, services = rng.normal(0, 1, (7, count)), np.zeros((7, 3, wide))
    services[:, :, columns] = rng.uniform(0, 1, (7, 3, 20))
    whole = made.read(rows, services)
    part = made.narrow(columns).read(rows, services[:, :, columns])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_incidents_go_to_the_recordings_they_are_of():
    """By time and service; one that is in none is an error, and a single recording is asked as ever."""
    f, day = frame().without_labels(), 86_400 * 10**9
    later = replace(f, time_ns=f.time_ns + day)
    start, end = int(f.time_ns[40]), int(f.time_ns[50])
    spans = [(start, end, "slow", f.services[0]), (start + day, end + day, "full", "")]
    one, other = divided_spans([f, later], spans)
    for got, what in ((one, "slow"), (other, "full")):
        assert got.labels.anomaly.sum() == 11
        assert set(got.labels.fault_type[40:51]) == {what}
    with pytest.raises(FrameError, match="is in none of the 2 recordings"):
        divided_spans([f, later], [*spans, (start + 9 * day, end + 9 * day, "", "")])
    with pytest.raises(FrameError, match="at 'nobody'"):
        divided_spans([f, later], [(start, end, "", "nobody")])
    with pytest.raises(FrameError, match="covers no row"):
        divided_spans([f], [(start + 9 * day, end + 9 * day, "", "")])


def write_table(path: Path, f: Frame) -> Path:
    """A CSV with the label columns."""
    import pandas as pd

    table = pd.DataFrame(f.values, columns=list(f.names))
    table.insert(0, "timestamp", pd.to_datetime(f.time_ns, utc=True))
    table["label"] = f.labels.anomaly.astype(int)
    table["fault_type"], table["root_cause_service"] = f.labels.fault_type, f.labels.root_cause
    table.to_csv(path, index=False)
    return path


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """adapt writes an adapter, score and detect use it, and what can't be is one line on stderr."""
    import pandas as pd

    torch.manual_seed(3)
    made = Recogniser(Moment(replace(TINY, seq_len=256, num_layers=1)))
    weights.save(
        tmp_path / "base", made.backbone.config.to_dict(), made.backbone.state_dict(), made.heads.state_dict()
    )
    table, out, scores = write_table(tmp_path / "shop.csv", frame()), tmp_path / "a", tmp_path / "s.csv"
    base = ["--model", str(tmp_path / "base"), "--quiet"]
    adapt = ["adapt", str(table), "--out", str(out), "--steps", "2", "--rank", "2", *base]
    adapt += ["--least-incidents", "0", "--track", f"tensorboard:{tmp_path / 'board'}"]
    assert run([*adapt, "--shots", "16", "--json"]) == 0, capsys.readouterr().err
    facts = json.loads(capsys.readouterr().out)
    assert facts["fault_types"] == ["cpu_fault", "latency_fault"]
    assert list((tmp_path / "board" / "a").glob("events*"))
    use = ["--adapter", str(out), *base]
    assert run(["score", str(table), "--out", str(scores), *use]) == 0, capsys.readouterr().err
    assert {"probability", "fault_type"} <= set(pd.read_csv(scores).columns)
    capsys.readouterr()
    assert run(["detect", str(table), "--json", *use]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threshold_from"] == "labels, by the adapter"
    assert all("fault_type" in one for one in told["incidents"])
    assert run([*adapt, "--shots", "16", "--force"]) == 0
    words = capsys.readouterr().out
    assert (
        f"labels help to find incidents ({facts['compared_incidents']} labelled incidents to compare" in words
    )
    assert "the network is changed" in words or "the network stays as it is" in words
    assert run(adapt) == 2
    assert "exists; replace it with --force" in capsys.readouterr().err
    assert run([*adapt, "--force", "--shots", "2"]) == 2
    assert "fewer than the 3 classes" in capsys.readouterr().err
    spans = tmp_path / "spans.csv"
    spans.write_text("start,end\n2031-01-01T00:00:00,2031-01-01T01:00:00\n")
    assert run([*adapt, "--force", "--labels", str(spans)]) == 2
    assert "covers no row" in capsys.readouterr().err
    later = replace(frame(), time_ns=frame().time_ns + 7 * 86_400 * 10**9)
    more = write_table(tmp_path / "week.csv", later)
    both = ["adapt", str(table), str(more), *adapt[2:], "--shots", "16", "--force", "--json"]
    assert run(both) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["incidents"] > facts["incidents"]
    assert run(["score", str(table), "--out", str(scores), "--force", "--adapter", str(out), "--quiet",
                "--detector", "past_median"]) == 2  # fmt: skip
    assert "means nothing to past_median" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_out_of_memory_halves_the_piece_and_goes_on(
    network: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """The batch stays whole, so losses are those of a run with memory to spare; the record tells of it."""
    from foreshock.models import training

    still = Recogniser(Moment(replace(TINY, dropout=0.0, patch_dropout=0.0))).eval()
    whole: list[dict] = []
    finetune(frame(), tmp_path / "whole", still, QUICK, whole.append, **WINDOW)
    real, sizes = training.recognition_loss, []

    def scarce(net: object, series: Series, expect: float, weights: object = None) -> torch.Tensor:
        if weights is not None:
            sizes.append(len(series.values))
            if len(series.values) > 3:
                raise error
        return real(net, series, expect, weights)

    monkeypatch.setattr(training, "recognition_loss", scarce)
    told: list[dict] = []
    finetune(frame(), tmp_path / "scarce", still, QUICK, told.append, **WINDOW)
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2
    assert [line["micro_batch"] for line in told if line["kind"] == "memory"] == [4, 2]
    losses = [[line["loss"] for line in lines if line["kind"] == "step"] for lines in (whole, told)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_pieces_and_checkpointing_learn_the_same(network: Recogniser, tmp_path: Path):
    """Smaller pieces, and blocks computed again on the way back, change memory and not what is learned."""
    still = Recogniser(Moment(replace(TINY, dropout=0.0, patch_dropout=0.0))).eval()
    made = [
        finetune(frame(), tmp_path / str(i), still, options, **WINDOW).facts["final_loss"]
        for i, options in enumerate((QUICK, replace(QUICK, micro_batch=3, checkpointing=True)))
    ]
    assert made[1] == pytest.approx(made[0], abs=1e-5)


def test_a_single_kind_can_be_unknown(network: Recogniser, tmp_path: Path):
    """Who has met one kind alone names it where it comes back, and does not name another kind by it."""
    f = frame()
    labels = f.labels
    assert labels is not None
    other = labels.fault_type == "cpu_fault"
    only = replace(
        labels, ignore=labels.ignore | other, anomaly=labels.anomaly & ~other,
        fault_type=np.where(other, "", labels.fault_type), fault_id=np.where(other, -1, labels.fault_id),
    )  # fmt: skip
    made = finetune(replace(f, labels=only), tmp_path / "one", network, replace(QUICK, steps=0), **WINDOW)
    assert made.verdict.kinds == ("latency_fault",)
    again = frame(seed=5)
    scores = detector(network, made).score(again)
    named = [made.verdict.name(scores.kinds[s + 3 : s + 14]) for s in (100, 190, 280, 370)]
    assert named == ["latency_fault", "unknown"] * 2


def test_another_number_of_kpis(network: Recogniser, adapter: lora.Adapter):
    """An adapter runs on a table with other columns; a stream that changes them on its way is told so."""
    wide = frame(services=("cart", "pay", "web", "mail"))
    d = detector(network, adapter)
    assert d.score(wide).origins.shape == (len(wide), 4)
    stream = d.stream()
    stream.push(frame().rows(slice(0, 50)))
    with pytest.raises(FrameError, match="a stream keeps its KPIs"):
        stream.push(wide.rows(slice(50, 100)))
