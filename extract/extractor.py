"""One pass over one video: its frames are decoded once, for every recipe that wants them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, VideoError
from ..features.timeline import ClipFeatures
from .batches import Batches
from .clip_stream import ClipStream, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe
    from ..features.timeline import ClipTable
    from .engine import Engine
    from .video import FrameBlock, FrameSource


class VideoPass:
    """One video's frames on their way into several recipes, a block at a time.

    `advance` takes the next block, `ready` gives what is there by then; ``batches`` may be those of other videos too.
    What goes wrong with one recipe's clips or features ends that recipe alone and stands in `errors`; what is wrong
    with the video is raised by `advance`.

    ``on_frames`` is told how many frames were decoded so far.

    Attributes
    ----------
    waited_seconds
        how long `advance` waited for frames.
    """

    def __init__(
        self,
        source: FrameSource,
        recipes: Sequence[tuple[Recipe, Batches]],
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self.errors: dict[int, VideoError] = {}
        self.ended = False
        self.waited_seconds = 0.0
        self._source = source
        self._on_frames = on_frames
        self._timeline = Timeline()
        self._recipes = recipes
        self._num_known = [0] * len(recipes)
        self._streams: list[ClipStream] = []
        self._blocks: Iterator[FrameBlock] | None = None

    @property
    def waits(self) -> bool:
        """Whether features are still under way."""
        return any(stream.waits for _, stream in self._running())

    def skip(self, number: int, num_clips: int) -> None:
        """Leave the first clips of a recipe to the caller, who has their features: before the first `advance`."""
        self._num_known[number] = num_clips

    def advance(self) -> None:
        """Take the next block of frames, or the video's end: then `ended` is true.

        Raises
        ------
        VideoError
            if the video cannot be used.
        """
        started = time.perf_counter()
        if self._blocks is None:
            self._blocks = self._begin()
        block = next(self._blocks, None)
        self.waited_seconds += time.perf_counter() - started
        if block is None:
            self._finish()
            return
        self._timeline.add(block)
        prepared: dict[tuple[object, ...], Tensor] = {}
        for number, stream in self._running():
            self._guard(number, stream.push, block, prepared)
        if not any(True for _ in self._running()):
            self.ended = True
        elif self._on_frames is not None:
            self._on_frames(len(self._timeline))

    def ready(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Give ``(number of the recipe, block)``, float32 ``(clip, crop, feature)``, in order for each recipe."""
        for number, stream in self._running():
            try:
                block = stream.ready()
            except VideoError as error:
                self.errors[number] = error
                continue
            if block is not None:
                yield number, block

    def fail(self, number: int, error: VideoError) -> None:
        """End one recipe: its consumer cannot use what it was given."""
        self.errors[number] = error

    def table(self, number: int) -> ClipTable:
        """Describe the clips of a recipe, given or skipped.

        Raises
        ------
        VideoError
            if something went wrong with it, or there are no clips (``VIDEO_TOO_SHORT``).
        """
        if number in self.errors:
            raise self.errors[number]
        return self._streams[number].table(self._source.facts())

    def _begin(self) -> Iterator[FrameBlock]:
        # Not before the first block is wanted: a video may be opened long before its turn.
        fps = self._source.facts().fps
        self._streams = [
            ClipStream(recipe, batches, self._timeline, fps=fps, num_known=num_known)
            for (recipe, batches), num_known in zip(self._recipes, self._num_known, strict=True)
        ]
        return iter(self._source)

    def _finish(self) -> None:
        self.ended = True
        for number, stream in self._running():
            self._guard(number, stream.finish)

    def _running(self) -> Iterator[tuple[int, ClipStream]]:
        return ((n, stream) for n, stream in enumerate(self._streams) if n not in self.errors)

    def _guard(self, number: int, step: Callable[..., None], *arguments: object) -> None:
        try:
            step(*arguments)
        except VideoError as error:
            self.errors[number] = error


class SharedExtraction:
    """Several recipes over one video, from its first block to its last.

    Iterating yields ``(number of the recipe, block)`` as `VideoPass.ready` does; the rest is as there.
    """

    def __init__(
        self,
        source: FrameSource,
        recipes: Sequence[tuple[Recipe, Engine]],
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self._batches = [Batches(engine) for _, engine in recipes]
        pairs = [(recipe, batches) for (recipe, _), batches in zip(recipes, self._batches, strict=True)]
        self._pass = VideoPass(source, pairs, on_frames=on_frames)
        self.errors, self.fail, self.table = self._pass.errors, self._pass.fail, self._pass.table

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        while not self._pass.ended:
            self._pass.advance()
            yield from self._pass.ready()
        for batches in self._batches:
            batches.flush()
        yield from self._pass.ready()


class VideoExtraction:
    """One recipe over one video.

    Iterating yields float32 blocks ``(clip, crop, feature)`` in order; `table` describes the clips afterwards.

    Raises
    ------
    UsageError
        for a recipe with noise, which is drawn from a video's id.
    """

    def __init__(
        self,
        source: FrameSource,
        recipe: Recipe,
        engine: Engine,
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        if recipe.noise is not None:
            msg = (
                f"the recipe puts noise {recipe.noise} on frames, drawn from a video's id, and a single file has none: "
                "give a recipe without, or make a feature set: vadx extract --noise"
            )
            raise UsageError(msg)
        self._shared = SharedExtraction(source, [(recipe, engine)], on_frames=on_frames)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for _, block in self._shared:
            yield block
        if 0 in self._shared.errors:
            raise self._shared.errors[0]

    def table(self) -> ClipTable:
        """Describe the clips that were yielded. Raises as `SharedExtraction.table`."""
        return self._shared.table(0)


def collect(extraction: VideoExtraction, provenance: dict[str, str | int]) -> ClipFeatures:
    """Run an extraction to its end and hold everything in memory."""
    blocks = list(extraction)
    table = extraction.table()
    return ClipFeatures(
        values=np.concatenate(blocks),
        frames=table.frames,
        seconds=table.seconds,
        damaged=table.damaged,
        facts=table.facts,
        num_padded_frames=table.num_padded_frames,
        provenance=provenance,
    )
