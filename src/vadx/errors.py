"""Every error that vadx raises on purpose, and the stable codes that stand for them.

Each class is also the builtin that fits it, so code that knows nothing of vadx can catch it::

    VadxError
    ├── UsageError          (ValueError)        an option or a setting cannot be meant
    │   └── RecipeError                         a recipe that contradicts itself
    ├── NoInputError        (FileNotFoundError) no video matched
    ├── VideoError          (OSError)           this video; ``code`` says what is wrong with it
    ├── FeatureError        (ValueError)        this video's features are unusable
    ├── StoreError          (OSError)           the store cannot be used as it is
    │   ├── StoreWriteError                     the disk refused: full, read-only, broken
    │   └── ShardError                          one shard is not what it claims to be
    ├── WeightsError        (LookupError)       weights are missing, wrong or refused
    ├── ResourceError       (MemoryError)       the machine has too little memory for a batch
    ├── ClusterError        (ConnectionError)   the scheduler, or all of its workers, are gone
    └── Stopped             (KeyboardInterrupt) a signal asked the run to end

`process_video` turns `VideoError` and `FeatureError` into a failed outcome of one video; the others end
the run with `exit_code`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a stable failure code means to a person.

    ``retriable`` says whether trying again without changing the file can help.
    """

    cause: str
    cure: str
    retriable: bool = False


CODES: Mapping[str, CodeInfo] = MappingProxyType(
    {
        "VIDEO_MISSING": CodeInfo("the file does not exist", "check the path or the list that named it"),
        "VIDEO_UNREADABLE": CodeInfo(
            "the system refused to read the file",
            "check permissions and the mount, then repeat with --retry-failed",
            retriable=True,
        ),
        "VIDEO_NOT_REGULAR": CodeInfo(
            "a FIFO, socket, device or folder, not a regular file", "name a video file, or copy the stream into one"
        ),
        "VIDEO_EMPTY": CodeInfo("the file holds no bytes", "copy the file again"),
        "VIDEO_NOT_VIDEO": CodeInfo("the content is not a video that FFmpeg recognises", "remove it from the inputs"),
        "VIDEO_NO_STREAM": CodeInfo("the file has no video stream", "remove it from the inputs"),
        "VIDEO_FORBIDDEN_FORMAT": CodeInfo(
            "the content is a playlist or another format that may open further files",
            "convert it to mp4 or mkv with ffmpeg first",
        ),
        "VIDEO_UNSUPPORTED_CODEC": CodeInfo(
            "no decoder for this codec is built in", "convert it to H.264 with ffmpeg first"
        ),
        "VIDEO_TRUNCATED": CodeInfo(
            "the file ends before the video does", "copy the file again, or accept the part with --allow-partial"
        ),
        "VIDEO_DAMAGED": CodeInfo(
            "too many frames are damaged", "copy the file again, or accept it with --allow-partial"
        ),
        "VIDEO_CRASH": CodeInfo(
            "the decoder crashed on this file", "convert it with ffmpeg first, or repeat with --retry-failed"
        ),
        "VIDEO_OOM": CodeInfo(
            "its decoder was killed from outside, most likely for lack of memory",
            "run fewer --decoders, then repeat the same command", retriable=True,
        ),
        "VIDEO_TIMEOUT": CodeInfo(
            "its decoder came to a halt, or took longer than it may",
            "convert it with ffmpeg first, or allow more with --stall-timeout or --video-timeout and --retry-failed",
        ),
        "VIDEO_BAD_CLOCK": CodeInfo(
            "its timestamps jump", "cut it at the jump with ffmpeg, or leave --fps out"
        ),
        "VIDEO_TOO_LARGE": CodeInfo(
            "the frames exceed the pixel limit, or decoding them a decoder's memory",
            "scale it down with ffmpeg first, or allow decoders more with --decoder-memory and --retry-failed",
        ),
        "VIDEO_TOO_SHORT": CodeInfo(
            "too few frames for one clip under this tail rule", "use a tail rule that fills, such as --tail repeat_last"
        ),
        "VIDEO_CHANGED_DURING_READ": CodeInfo(
            "the file changed while it was read", "wait until its writer is done, then repeat with --retry-failed",
            retriable=True,
        ),
        "DETECTIONS_UNREADABLE": CodeInfo(
            "the file of its detections is missing, or does not fit it", "correct the file after --detections, "
            "then repeat the same command", retriable=True,
        ),
        "TUBES_TOO_LARGE": CodeInfo(
            "too many boxes hang together to be linked at once",
            "link fewer boxes with --link-score 0.5, or allow more with --max-open-boxes", retriable=True,
        ),
        "TUBES_WITHOUT_REGIONS": CodeInfo(
            "its tubes cannot be cut out of its frames",
            "leave the features out with --stage link, or convert it to one picture size with ffmpeg first",
            retriable=True,
        ),
        "FEATURES_UNREADABLE": CodeInfo(
            "its file of features is damaged, or not what the layout says",
            "copy it again, or check which layout its folder has, then repeat the same command",
        ),
        "WORKER_LOST": CodeInfo(
            "the worker that was at it ended, each time it was tried",
            "look at the workers' logs, then repeat the same command", retriable=True,
        ),
        "KEY_COLLISION": CodeInfo("another video has the same id", "rename one of them, or give --root"),
        "FEATURE_NONFINITE": CodeInfo(
            "the network returned NaN or infinity", "repeat with --precision fp32 --retry-failed"
        ),
    }
)  # fmt: skip
"""Stable code -> cause and cure. Failure records, JSON events and messages use these names and no others."""


class VadxError(Exception):
    """Base of the tree. ``exit_code`` is what the command line returns when this error ends a run."""

    exit_code = 1


class UsageError(VadxError, ValueError):
    """An option, setting or argument that cannot be meant."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a part of one, that contradicts itself."""


class NoInputError(VadxError, FileNotFoundError):
    """No input matched."""

    exit_code = 5


class VideoError(VadxError, OSError):
    """One video cannot be turned into features.

    Raises
    ------
    KeyError
        if ``code`` is not one of `CODES`.
    """

    exit_code = 3

    def __init__(self, code: str, path: str, evidence: str) -> None:
        self.code = code
        self.path = path
        self.evidence = evidence
        info = CODES[code]
        super().__init__(f"{path}: {evidence}. No features were written. {info.cure[0].upper()}{info.cure[1:]}.")

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        # OSError's own reduction would call __init__ with the one message it holds.
        return type(self), (self.code, self.path, self.evidence)

    def __str__(self) -> str:
        return str(self.args[0])


class FeatureError(VideoError, ValueError):
    """The features of one video are unusable."""


class StoreError(VadxError, OSError):
    """The store cannot be used as it is."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreWriteError(StoreError):
    """The disk refused: full, over quota, read-only or broken. Every video would meet it, so the run ends."""

    exit_code = 6


class ShardError(StoreError):
    """One shard is not what it claims to be. ``damage`` is the kind, one of `features.shard.DAMAGE`."""

    exit_code = 4

    def __init__(self, path: str, damage: str, evidence: str) -> None:
        self.path = path
        self.damage = damage
        self.evidence = evidence
        super().__init__(f"{path}: {damage}: {evidence}")

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str, str]]:
        return type(self), (self.path, self.damage, self.evidence)


class WeightsError(VadxError, LookupError):
    """Weights are missing, wrong or refused."""

    exit_code = 6

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ResourceError(VadxError, MemoryError):
    """The machine has too little memory for a batch, or for another process. Every video would meet it."""

    exit_code = 6


class ClusterError(VadxError, ConnectionError):
    """The scheduler, or every worker, is gone or cannot be started. The same command resumes."""

    exit_code = 6

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Stopped(VadxError, KeyboardInterrupt):
    """A signal, or the time that a run was given, asked it to end. The same command resumes."""

    def __init__(self, signal_number: int, cause: str | None = None) -> None:
        super().__init__(f"stopped {cause or f'by signal {signal_number}'}; the same command resumes")
        self.exit_code = 130 if signal_number == 2 else 143
