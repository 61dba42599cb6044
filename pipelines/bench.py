"""How fast vadx is here, and what limits it: each part of the way by itself, and the whole.

The parts are measured in turns, a repetition of each and then again, so that what else runs on a machine slows all of
them alike. All speeds are frames of the video a second, however many network inputs a frame goes into.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..errors import UsageError, VadxError, VideoError, WeightsError
from ..extract.backbones import find_backbone
from ..extract.engine import DEFAULT_BATCH, check_engine, pick_device
from ..extract.extractor import VideoExtraction
from ..extract.isolate import DecodePool, InlineDecoders
from ..extract.package_source import file_sha256
from ..extract.video import FrameBlock, VideoReader
from ..features.keys import key_of
from ..features.spool import ClipSpool
from ..features.store import FeatureSet, Store
from ..features.timeline import ClipTable
from .bench_report import (
    PARTS,
    PLAIN_TOLERANCE,
    Baseline,
    BenchReport,
    BenchVideo,
    Settings,
    describe_machine,
    opencv_version,
    speed_of,
    summarize,
)
from .bench_video import SEED, bench_folder
from .extraction import process_videos
from .inputs import Entry
from .job import Job, engines_for, software_versions
from .plan import Overrides, Plan, make_plan
from .stopping import StopSignals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from ..extract.engine import Engine
    from ..extract.isolate import Decoders
    from ..extract.presets import Preset
    from ..extract.video import FrameSource
    from ..features.timeline import ClipFeatures, VideoFacts

_MAX_HELD_BYTES = 256 << 20
_MAX_HELD_FRAMES, _MAX_HELD_FRAMES_OF_FLOW = 512, 64
_MAX_WRITES = 50


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure. ``options`` are the words that give `vadx extract` the same recipe."""

    plan: Plan
    video: Path
    made: bool
    device: str
    batch: int | None
    engine: str | None
    num_decoders: int
    repeat: int
    seconds: float
    options: tuple[str, ...]
    command: str
    plain: bool = False
    notes: tuple[str, ...] = field(default=())


def bench_plan(preset: Preset, overrides: Overrides, weights: str | None) -> tuple[Plan, tuple[str, ...]]:
    """Give the plan, and notes on it: where no weights are asked for and the preset's are missing, they are random.

    Raises as `make_plan`.
    """
    if weights is None:
        try:
            if preset.weights is not None:
                return make_plan(preset, overrides, None), ()
        except WeightsError:
            pass
    plan = make_plan(preset, overrides, weights or "random")
    if weights is not None:
        return plan, ()
    missing = f"{preset.weights} are not on this machine" if preset.weights else "none are known for this network"
    return plan, (f"random weights, because {missing}: speed does not depend on them",)


def run_bench(order: Order, tell: Callable[[str], None]) -> BenchReport:
    """Measure; what it writes is removed again. ``tell`` is given a line for each repetition.

    Raises
    ------
    UsageError
        for an order that cannot be run: the baseline's limits, the device's precision, a cache that is read-only.
    VideoError
        if the video cannot be used.
    """
    device = pick_device(order.device)
    check_engine(order.engine, order.plan.recipe.precision, device, order.plan.recipe.network.name)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    home = bench_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=home)
    except OSError as error:
        msg = f"{home} cannot be written ({error.strerror or error}): set VADX_HOME"
        raise UsageError(msg) from error
    with folder as name, StopSignals() as stop, ExitStack() as stack:
        plain = _Plain(order, device) if order.plain else None
        tell("warming up: the whole way once")
        decoders = stack.enter_context(closing(_decoders(order)))
        bench = Workbench(order, device, Path(name), decoders, stop.check)
        measures: dict[str, Callable[[], float]] = {part: getattr(bench, part) for part in PARTS}
        if plain is not None:
            measures["plain"] = plain.end_to_end
            measures["plain_network"] = lambda: plain.network(bench.num_frames)
        taken: dict[str, list[float]] = {part: [] for part in measures}
        for turn in range(order.repeat):
            for part, measure in measures.items():
                stop.check()
                taken[part].append(measure())
                tell(f"[{turn + 1}/{order.repeat}] {part}: {taken[part][-1]:.1f} frames/s")
        speeds = {part: speed_of(taken[part], covers) for part, covers in PARTS.items()}
        baseline = None if plain is None else plain.compare(taken, speeds["end_to_end"].median, bench.features.values)
        return BenchReport(
            format=1,
            command=order.command,
            versions=software_versions() | {"python": platform.python_version()} | opencv_version(),
            machine=describe_machine(device, load),
            video=bench.video,
            settings=bench.settings(),
            speeds=speeds,
            summary=summarize(speeds),
            baseline=baseline,
            notes=order.notes,
        )


class Workbench:
    """One recipe, one video and what each part needs to run by itself. Each part's method gives frames/s, once.

    ``folder`` takes temporary stores; ``decoders`` are those of the whole; ``check`` is called between blocks of frames
    and may raise.
    """

    def __init__(
        self, order: Order, device: torch.device, folder: Path, decoders: Decoders, check: Callable[[], None]
    ) -> None:
        self._order, self._folder, self._check = order, folder, check
        self._recipe = order.plan.recipe
        frame_wise = find_backbone(order.plan.backbone).frame_wise
        self._job = Job(
            set_path=folder,
            recipe=self._recipe,
            backbone=order.plan.backbone,
            weights=order.plan.weights,
            device=str(device),
            batch=order.batch or DEFAULT_BATCH[device.type, frame_wise],
            engine=check_engine(order.engine, self._recipe.precision, device, self._recipe.network.name),
            is_batch_fixed=order.batch is not None,
            is_engine_fixed=order.engine is not None,
        )
        # A video keeps one decoder busy.
        self._entries = [Entry(f"bench{number}", order.video) for number in range(max(1, order.num_decoders))]
        self._decoders = decoders
        self._num_stores = 0
        # Through the whole way once: the network is loaded, and a video that cannot be used fails here.
        self._feature_set = self._new_set()
        self._process(self._feature_set)
        self.features: ClipFeatures = self._feature_set[self._entries[0].id]
        self._engine = engines_for([self._job])[0]
        self._sha256 = file_sha256(order.video)
        self._blocks = self._hold()
        keeping = _NoNetwork(self._engine, self.features.values.shape[2], keep_bytes=_MAX_HELD_BYTES)
        self._through(keeping)
        self._batches = keeping.batches
        facts = self.features.facts
        self.num_frames = facts.num_frames_decoded
        self.video = BenchVideo(
            path=order.video.name if order.made else str(order.video),
            seed=SEED if order.made else None,
            sha256=self._sha256,
            frames=self.num_frames,
            width=facts.width,
            height=facts.height,
            fps=facts.fps,
            codec=facts.codec,
            bytes=order.video.stat().st_size,
        )

    @property
    def num_inputs(self) -> int:
        """Number of network inputs that the whole video makes; frames that a tail rule leaves out are counted."""
        recipe = self._recipe
        num_crops = {"center": 1, "five": 5, "ten": 10}[recipe.transform.crops]
        each = recipe.sampling.clip_length if recipe.network.temporal == "mean" else 1
        return len(self.features) * num_crops * each

    def settings(self) -> Settings:
        plan, job = self._order.plan, self._job
        return Settings(
            preset=plan.preset_name,
            backbone=plan.backbone,
            recipe_digest=plan.recipe.digest,
            weights=plan.recipe.weights,
            precision=plan.recipe.precision,
            batch=job.batch,
            engine=dict(self._engine.provenance),
            decoders=self._order.num_decoders,
            videos=len(self._entries),
            repeat=self._order.repeat,
            seconds=self._order.seconds,
            frames_held=sum(len(block.frames) for block in self._blocks),
            network_inputs=self.num_inputs,
        )

    def decode(self) -> float:
        started = time.perf_counter()
        opened = [self._open(entry) for entry in self._entries]
        running = {id(source): iter(source) for source in opened}
        num_frames = 0
        while opened:
            source = self._decoders.wait(opened, 1.0)
            if source is None:
                self._check()
                continue
            block = next(running[id(source)], None)
            if block is None:
                source.close()
                opened.remove(source)
            else:
                num_frames += self._count(block)
        return num_frames / (time.perf_counter() - started)

    def preprocess(self) -> float:
        num_frames, started = 0, time.perf_counter()
        while True:
            self._through(_NoNetwork(self._engine, self.features.values.shape[2]))
            num_frames += sum(len(block.frames) for block in self._blocks)
            elapsed = time.perf_counter() - started
            if elapsed >= self._order.seconds:
                return num_frames / elapsed

    def network(self) -> float:
        frames_per_batch = self.num_frames / -(-self.num_inputs // self._job.batch)
        started = time.perf_counter()
        for count, (inputs, crops) in enumerate(cycle(self._batches), start=1):
            self._engine.run(inputs, crops)
            self._check()
            elapsed = time.perf_counter() - started
            if elapsed >= self._order.seconds:
                return count * frames_per_batch / elapsed
        raise VideoError("VIDEO_TOO_SHORT", str(self._order.video), "it makes no batch of network inputs")

    def write(self) -> float:
        features, feature_set = self.features, self._new_set()
        table = ClipTable(
            features.frames, features.seconds, features.damaged, features.facts, features.num_padded_frames
        )
        started = time.perf_counter()
        for count in range(1, _MAX_WRITES + 1):
            identifier = f"bench{count}"
            with ClipSpool(feature_set.tmp, key_of(identifier), self._recipe.dtype) as spool:
                spool.append(features.values)
                shard = spool.finish(identifier, table, features.provenance, feature_set.digest, self._sha256)
                feature_set.publish(identifier, shard, replace=False)
            elapsed = time.perf_counter() - started
            if elapsed >= self._order.seconds:
                break
        shutil.rmtree(feature_set.path.parent)
        return count * self.num_frames / elapsed

    def end_to_end(self) -> float:
        feature_set = self._new_set()
        elapsed = self._process(feature_set)
        shutil.rmtree(feature_set.path.parent)
        return len(self._entries) * self.num_frames / elapsed

    def with_start_up(self) -> float:
        """Time `vadx extract` in a process of its own, which no settings of this folder or environment reach.

        Raises
        ------
        VadxError
            if it fails.
        """
        out = self._folder / "fresh"
        nothing = self._folder / "no-settings.toml"
        nothing.touch()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VADX_EXTRACT_")}
        command = [sys.executable, "-m", "vadx", "extract", "--quiet", "--out", str(out), *self._order.options]
        command += ["--weights", self._order.plan.weights, "--device", self._job.device]
        command += ["--batch", str(self._job.batch), "--precision", self._recipe.precision]
        command += ["--engine", self._job.engine, "--decoders", str(self._order.num_decoders)]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, str(self._order.video)],
            env={**environment, "VADX_CONFIG": str(nothing)},
            capture_output=True,
            text=True,
            check=False,
        )
        elapsed = time.perf_counter() - started
        self._check()
        if done.returncode:
            msg = f"`vadx extract` in a fresh process ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            raise VadxError(msg)
        shutil.rmtree(out)
        return self.num_frames / elapsed

    def _reader(self) -> VideoReader:
        return VideoReader(
            self._order.video,
            rotation=self._recipe.decode.rotation,
            keep_native=self._recipe.transform.takes_native,
        )

    def _count(self, block: FrameBlock) -> int:
        self._check()
        return len(block.frames)

    def _hold(self) -> list[FrameBlock]:
        """Decode the first frames: as many as a repetition of preprocess goes through, and memory is given to."""
        blocks: list[FrameBlock] = []
        most = _MAX_HELD_FRAMES if self._recipe.flow is None else _MAX_HELD_FRAMES_OF_FLOW
        most = max(most, 2 * self._recipe.sampling.clip_span)
        num_frames = num_bytes = 0
        with self._reader() as reader:
            for block in reader:
                blocks.append(block)
                num_frames += len(block.frames)
                num_bytes += block.frames.nbytes
                if num_frames >= most or num_bytes >= _MAX_HELD_BYTES:
                    break
        return blocks

    def _through(self, engine: _NoNetwork) -> None:
        """Take the held frames, as if they were a video, the way that any video goes; the network alone is left out."""
        source = _Held(self._blocks, self.features.facts)
        for _ in VideoExtraction(source, self._recipe, cast("Engine", engine)):
            self._check()
        if engine.device.type == "cuda":
            # What was asked of a GPU is not yet done.
            torch.cuda.synchronize(engine.device)

    def _new_set(self) -> FeatureSet:
        self._num_stores += 1
        plan = self._order.plan
        return Store(self._folder / f"store{self._num_stores}").create(plan.recipe, slug=plan.slug)

    def _process(self, feature_set: FeatureSet) -> float:
        """Do the whole way into a new set and give the seconds it took."""
        job = replace(self._job, set_path=feature_set.path)
        started = time.perf_counter()
        settled = process_videos(
            self._entries, [job], num_decoders=self._order.num_decoders, decoders=self._decoders, check=self._check
        )
        outcomes = [outcome for (outcome,) in settled]
        elapsed = time.perf_counter() - started
        for outcome in outcomes:
            if outcome.code is not None:
                record = feature_set.failure(outcome.id)
                evidence = record.evidence if record is not None else "it cannot be read"
                raise VideoError(outcome.code, str(self._order.video), evidence)
        return elapsed

    def _open(self, entry: Entry) -> FrameSource:
        return self._decoders.open(entry.path, rotation=self._recipe.decode.rotation)


def _decoders(order: Order) -> Decoders:
    if order.num_decoders:
        return DecodePool(order.num_decoders)
    return InlineDecoders(keep_native=order.plan.recipe.transform.takes_native)


class _NoNetwork:
    """Stands where an engine does, and computes nothing. Keeps the first batches, up to ``keep_bytes`` of them."""

    def __init__(self, engine: Engine, dim: int, *, keep_bytes: int = 0) -> None:
        self.batches: list[tuple[Tensor, list[int]]] = []
        self._engine, self._dim, self._free = engine, dim, keep_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Tensor, crops: Sequence[int] | None = None) -> NDArray[np.float32]:
        if self._free > 0:
            self.batches.append((inputs, list(crops or [0] * len(inputs))))
            self._free -= inputs.nbytes
        return np.zeros((len(inputs), self._dim), dtype=np.float32)


class _Held:
    """Decoded frames in memory. A `FrameSource`."""

    def __init__(self, blocks: Sequence[FrameBlock], facts: VideoFacts) -> None:
        self._blocks, self._facts = blocks, facts

    def __iter__(self) -> Iterator[FrameBlock]:
        return iter(self._blocks)

    def facts(self) -> VideoFacts:
        return self._facts

    def close(self) -> None:
        """Do nothing: no file is open."""


class _Plain:
    """The baseline's two measurements and what they say."""

    def __init__(self, order: Order, device: torch.device) -> None:
        from ..extract.library import load_backbone
        from .bench_plain import PlainExtractor

        self._order = order
        plan = order.plan
        # Loaded again: an engine changes how the weights of its network lie in memory.
        network = load_backbone(
            plan.backbone, plan.weights, device=str(device), switches=plan.recipe.network.switches
        ).network
        self._extractor = PlainExtractor(network, plan.recipe, device=device)
        self._values: Any = None

    def end_to_end(self) -> float:
        with tempfile.TemporaryDirectory(dir=bench_folder()) as folder:
            started = time.perf_counter()
            self._values, num_frames = self._extractor.extract(self._order.video, Path(folder) / "features.npy")
            return num_frames / (time.perf_counter() - started)

    def network(self, num_frames: int) -> float:
        frames_per_clip = num_frames / max(1, len(self._values))
        return self._extractor.network_frames_per_second(self._order.video, self._order.seconds, frames_per_clip)

    def compare(self, taken: dict[str, list[float]], end_to_end: float, values: NDArray[np.floating]) -> Baseline:
        """Set the baseline against vadx: its speed, and its features against ``values (clip, 1, feature)``."""
        speed = speed_of(taken["plain"], "OpenCV, PIL, one clip at a time, eager fp32, numpy.save; start-up excluded")
        network = speed_of(taken["plain_network"], "the same eager network alone on a clip that is ready")
        distance = _relative_l2(values[:, 0], self._values)
        in_fp32 = self._order.plan.recipe.precision == "fp32"
        return Baseline(
            name="plain",
            speed=speed,
            network=network,
            share=speed.median / network.median,
            ratio=end_to_end / speed.median,
            clips=len(self._values),
            relative_l2=distance,
            equal=distance is not None and distance <= PLAIN_TOLERANCE if in_fp32 else None,
        )


def _relative_l2(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float | None:
    """Give the distance between two arrays over the length of the second; None for other shapes or no length."""
    length = float(np.linalg.norm(theirs.astype(np.float64)))
    if ours.shape != theirs.shape or not length:
        return None
    return float(np.linalg.norm(ours.astype(np.float64) - theirs)) / length
