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
    """What a stable failure code means to a person. ``cure`` begins with a verb and needs no full stop.

    ``retriable`` says whether trying again without changing the file can help; ``of_inputs``, that it lies in what a
    command was given, and in no file.
    """

    cause: str
    cure: str
    retriable: bool = False
    of_inputs: bool = False

    @property
    def remembered(self) -> bool:
        """Whether the failure stands in ``failed/``: it is told again without decoding, until the file changes."""
        return not (self.retriable or self.of_inputs)


CODES: Mapping[str, CodeInfo] = MappingProxyType(
    {
        "VIDEO_MISSING": CodeInfo("the file does not exist", "check the path or the list that named it"),
        "VIDEO_UNREADABLE": CodeInfo(
            "the system refused to read the file",
            "check permissions and the mount, then repeat the same command",
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
            "the file changed while it was read", "wait until its writer is done, then repeat the same command",
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
        "KEY_COLLISION": CodeInfo(
            "another video has the same id", "rename one of them, or give --root", of_inputs=True
        ),
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


_SHARD_CURE = "Nothing of it was used. Run vadx verify, then repeat the command that made it: it is made again"


class ShardError(StoreError):
    """One shard is not what it claims to be. ``damage`` is the kind, one of `features.shard.DAMAGE`.

    ``cure`` is what the message ends with; "" where the evidence says what to do.
    """

    exit_code = 4

    def __init__(self, path: str, damage: str, evidence: str, cure: str = _SHARD_CURE) -> None:
        self.path = path
        self.damage = damage
        self.evidence = evidence
        self.cure = cure
        super().__init__(f"{path}: {damage}: {evidence}" + (f". {cure}" if cure else ""))

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str, str, str]]:
        return type(self), (self.path, self.damage, self.evidence, self.cure)


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


@dataclass(frozen=True, slots=True)
class RunErrorInfo:
    """What an error that ends a command means to a person: its cause, what has become of the work, what to do."""

    cause: str
    consequence: str
    cure: str


_NOTHING_BEGUN = "the command does not begin, and nothing is written"
_RESUMES = "the run ends; what was stored is whole, and the same command resumes"

RUN_ERRORS: Mapping[type[VadxError], RunErrorInfo] = MappingProxyType(
    {
        UsageError: RunErrorInfo(
            "an option, a setting, a list or a label file cannot be meant",
            _NOTHING_BEGUN,
            "change what the message names; `vadx COMMAND --help` lists every option",
        ),
        RecipeError: RunErrorInfo(
            "a recipe contradicts itself, or holds what this vadx does not know",
            _NOTHING_BEGUN,
            "change the option that the message names, or update vadx",
        ),
        NoInputError: RunErrorInfo(
            "no video, file or id matched",
            _NOTHING_BEGUN,
            "check the path, the glob or the list; `vadx extract --dry-run` says what is found",
        ),
        VideoError: RunErrorInfo(
            "one video cannot be used, for a reason with a code of the table above",
            "in a run this video fails, and the others go on; a command about one video ends",
            "do what the table says of the code",
        ),
        FeatureError: RunErrorInfo(
            "the features of one video are unusable",
            "in a run this video fails, and the others go on; a command about one video ends",
            "do what the table says of the code",
        ),
        StoreError: RunErrorInfo(
            "a folder or a file is not the store, set, packed file, bags file or model that it should be, is damaged, "
            "or was written by a newer vadx",
            "the command ends; what it read is as it was",
            "restore the file from a copy, or make it again as the message says; where a newer vadx wrote it, update "
            "vadx",
        ),
        StoreWriteError: RunErrorInfo(
            "the disk refused a write: full, over its quota, read-only, or broken",
            f"{_RESUMES}; no part of a file is left under its name",
            "make room, or give another `--out`, and repeat the command",
        ),
        ShardError: RunErrorInfo(
            "a shard is damaged, or not what its place says; the message names the kind of damage",
            "the command ends without using it; extracting makes it again, `vadx verify` names all of its kind",
            "run `vadx verify`, then repeat the command that made the set",
        ),
        WeightsError: RunErrorInfo(
            "weights are missing, are another file than the one that is known, or would run code",
            "the command ends before any video; nothing of the file was run",
            "type `vadx weights fetch NAME`, or `vadx weights add FILE --as NAME`",
        ),
        ResourceError: RunErrorInfo(
            "there is too little memory for a batch, or for another process",
            _RESUMES,
            "give a smaller `--batch`, or fewer `--decoders`",
        ),
        ClusterError: RunErrorInfo(
            "the scheduler, or every worker, is gone or cannot be started",
            _RESUMES,
            "start the scheduler or look at the workers' logs, and repeat the command",
        ),
        Stopped: RunErrorInfo(
            "a signal, or the time of `--stop-after`, asked the run to end",
            f"videos that are being stored are stored; {_RESUMES}",
            "repeat the command",
        ),
    }
)
"""Error of a run -> what it means. Its exit code is the class's own; that of `Stopped`, the signal's."""

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "fine, also when nothing was left to do, and where videos are degraded",
        1: "failed: a store, set or model cannot be used as it is; with a traceback, a bug of vadx",
        2: "usage: something cannot be meant",
        3: "finished, or stopped by `--fail-fast` or `--max-failures`, and some or all videos failed, now or before",
        4: "a check found problems (`verify`, `diff`, `probe`, `doctor`, `export --check`, `manifest --check`), or a "
        "command met a damaged shard",
        5: "no input matched",
        6: "the environment stopped the run: the disk, the weights, the memory, the cluster",
        130: "interrupted (Ctrl-C)",
        143: "ended by SIGTERM or SIGUSR1, or by `--stop-after`",
    }
)
"""Exit code of the command line -> what it says. After 3, 6, 130 and 143 the same command resumes."""
