"""One pass over one video: its frames are decoded once, for every recipe that wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import VideoError
from ..features.timeline import ClipFeatures
from .clip_stream import ClipStream, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe
    from ..features.timeline import ClipTable
    from .engine import Engine
    from .video import FrameSource


class SharedExtraction:
    """Several recipes over one video.

    Iterating yields ``(number of the recipe, block)``, blocks float32 ``(clip, crop, feature)`` in order for each
    recipe. What goes wrong with one recipe's clips or features ends that recipe alone and stands in `errors`; what
    is wrong with the video is raised.

    ``on_frames`` is told how many frames were decoded so far.
    """

    def __init__(
        self,
        source: FrameSource,
        recipes: Sequence[tuple[Recipe, Engine]],
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self.errors: dict[int, VideoError] = {}
        self._source = source
        self._on_frames = on_frames
        self._timeline = Timeline()
        fps = source.facts().fps
        self._streams = [ClipStream(recipe, engine, self._timeline, fps=fps) for recipe, engine in recipes]

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for block in self._source:
            self._timeline.add(block)
            prepared: dict[tuple[object, ...], Tensor] = {}
            for number, stream in self._running():
                yield from self._guard(number, stream.push(block, prepared))
            if not any(True for _ in self._running()):
                return
            if self._on_frames is not None:
                self._on_frames(len(self._timeline))
        for number, stream in self._running():
            yield from self._guard(number, stream.finish())

    def fail(self, number: int, error: VideoError) -> None:
        """End one recipe: its consumer cannot use what it was given."""
        self.errors[number] = error

    def table(self, number: int) -> ClipTable:
        """Describe the clips that were yielded for a recipe.

        Raises
        ------
        VideoError
            if something went wrong with it, or there are no clips (``VIDEO_TOO_SHORT``).
        """
        if number in self.errors:
            raise self.errors[number]
        return self._streams[number].table(self._source.facts())

    def _running(self) -> Iterator[tuple[int, ClipStream]]:
        return ((n, stream) for n, stream in enumerate(self._streams) if n not in self.errors)

    def _guard(self, number: int, blocks: Iterator[NDArray[np.float32]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        try:
            for block in blocks:
                yield number, block
                if number in self.errors:
                    return
        except VideoError as error:
            self.errors[number] = error


class VideoExtraction:
    """One recipe over one video.

    Iterating yields float32 blocks ``(clip, crop, feature)`` in order; `table` describes the clips afterwards.
    """

    def __init__(
        self,
        source: FrameSource,
        recipe: Recipe,
        engine: Engine,
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
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
