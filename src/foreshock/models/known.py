"""What is known of incidents before anybody labels anything: two verdicts beside a network's weights.

They were learned on simulated systems (foreshock.pretrain.simulated) with exactly these weights. One names
incidents: which kind, with which probability, from which service; an adapter's labels begin from it. The
other, of systems whose quiet rows are as odd as real ones, counts in the zero-shot score of tables like
theirs, whose thresholds stay what they were.

Not here: the verdict's mathematics (verdict), adapters (lora).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock.errors import OutputError, WeightsError
from foreshock.models import weights
from foreshock.models.bidirectional import BidirectionalDetector
from foreshock.models.lora import AdaptedDetector, AdaptedStream, base_sha256
from foreshock.models.recognise import Recogniser
from foreshock.models.verdict import Verdict
from foreshock.models.vigil import SIGNALS, VigilDetector

FILE_NAME = "verdict.json"
FORMAT = 2
DIGITS = 5  # that numbers are kept with
LEARNED_FROM = "simulated systems"


@dataclass(frozen=True, slots=True)
class Known:
    """What came with a network's weights."""

    verdict: Verdict  # names
    finder: Verdict  # finds
    facts: dict[str, Any]  # how it was made
    sha256: str


def load_known(model: str | Path | Recogniser) -> Known | None:
    """The verdicts beside a checkpoint's weights; None where there are none, as for a network in memory.

    Raises:
        WeightsError: damaged, cut short, or learned with other weights than those beside it.
    """
    if isinstance(model, Recogniser):
        return None
    path = weights.find(str(model)) / FILE_NAME
    if not path.is_file():
        return None
    data = path.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), weights.known_digest(path)
    if expected and found != expected:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}…, expected {expected[:12]}…; it is damaged or cut short, get "
            "the folder again."
        )
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise WeightsError(f"{path} has format {raw['format']!r}; this version reads {FORMAT}.")
        base, facts, said = str(raw["base_sha256"]), dict(raw["facts"]), (raw["verdict"], raw["finder"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not a whole verdict ({error!r}); get the folder again.") from error
    own = base_sha256(model)
    if base != own:
        raise WeightsError(
            f"{path} was learned with base weights {base[:12]}…, those beside it are {own[:12]}…; learn it "
            "anew with `python -m foreshock.pretrain verdict`, or delete it."
        )
    names, finds = (Verdict.from_dict(one, str(path)) for one in said)
    return Known(names, finds, facts, found)


def save_known(
    verdict: Verdict, finder: Verdict, model: str | Path, facts: Mapping[str, Any], folder: Path
) -> Path:
    """Write both for the network `model` into a folder, and their digest into `SHA256SUMS` there.

    Raises:
        OutputError: the folder can't be written.
    """
    names, finds = ({n: _short(value) for n, value in one.to_dict().items()} for one in (verdict, finder))
    raw = {"format": FORMAT, "base_sha256": base_sha256(model), "facts": dict(facts), "verdict": names,
           "finder": finds}  # fmt: skip
    data = (json.dumps(raw, separators=(",", ":")) + "\n").encode()
    path, sums = folder / FILE_NAME, folder / weights.SUMS_NAME
    part = path.with_name(f".{FILE_NAME}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
        old = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
        kept = [line for line in old if not line.endswith(f" {FILE_NAME}")]
        lines = [*kept, f"{hashlib.sha256(data).hexdigest()}  {FILE_NAME}"]
        sums.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _short(value: Any) -> Any:
    """Numbers with few digits; the rest as it is."""
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


class KnowingDetector(VigilDetector):
    """The default detector, with what simulated systems taught of incidents, kinds and roots."""

    def __init__(self, base: VigilDetector, known: Known) -> None:
        facts = {**base.facts, "verdict_sha256": known.sha256, "verdict_from": LEARNED_FROM}
        super().__init__(base.name, base.recogniser, base.options, facts)
        self.verdict, self.finder = known.verdict, known.finder

    def stream(self) -> AdaptedStream:
        return AdaptedStream(
            self.recogniser, self.options, self.name, self.verdict, LEARNED_FROM, self.finder
        )


def knowing(detector: Any) -> Any:
    """The detector with what came with its weights; as it is where nothing did.

    It was learned on all signals of recognition, and with fewer it means nothing.

    Raises:
        WeightsError: the verdict is damaged, or not of these weights.
    """
    if isinstance(detector, BidirectionalDetector):
        return BidirectionalDetector(knowing(detector.forward))
    if not isinstance(detector, VigilDetector) or isinstance(detector, AdaptedDetector | KnowingDetector):
        return detector
    if detector.options.signals != SIGNALS:
        return detector
    model = detector.facts.get("model")
    if not model or detector.facts.get("weights_sha256") is None or detector.name != "foreshock":
        return detector
    known = load_known(str(model))
    return detector if known is None else KnowingDetector(detector, known)
