"""One video's scores and labels, frame by frame and segment by segment, as a protocol sets them side by side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..features.expansion import CLIP_FRAMES, EXPANSIONS, expand_like
from ..features.frame_truth import FRAME_COUNTS, TARGETS, frame_truth, target_truth
from .protocol_choices import OWN, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.manifest import ManifestEntry
    from .scoring import ScoredVideo

PROPOSAL_THRESHOLD = 0.35
"""From which on the weighted T-CAM is of a proposal (Panariello et al. 2022, section 4)."""


@dataclass(frozen=True, slots=True, eq=False)
class TestVideo:
    """A scored video and what is known of it. ``frames_only``: its segments are none of a method's, as where only
    scores of frames were given.
    """

    # pytest would take it for a test.
    __test__: ClassVar[bool] = False

    scored: ScoredVideo
    entry: ManifestEntry
    frames_only: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ComparedVideo:
    """What of one video is compared. ``label`` is 1 or 0.

    Shapes: ``scores`` and ``truth (frame,)``; ``segment_scores`` and ``segment_truth (segment,)``;
    ``proposal_scores (frame,)``, None where a method makes no proposals. Without ``judged`` the video's spans are not
    known, and all of these are empty. ``video_score`` is what the video level ranks.

    Of ``num_frames`` decoded ones ``num_dropped`` are not compared; ``num_beyond`` labels are, of frames that the video
    does not have. Spans that reach past the labels were cut (``num_spans_cut``), or lay past them altogether
    (``num_spans_outside``). ``notes`` say what was done otherwise than the protocol says.
    """

    id: str
    label: int
    class_name: str
    num_frames: int
    video_score: float
    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]
    segment_scores: NDArray[np.float64]
    segment_truth: NDArray[np.bool_]
    proposal_scores: NDArray[np.float64] | None = None
    judged: bool = True
    num_spans_cut: int = 0
    num_spans_outside: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def num_compared(self) -> int:
        return len(self.truth)

    @property
    def num_dropped(self) -> int:
        return max(0, self.num_frames - self.num_compared) if self.judged else 0

    @property
    def num_beyond(self) -> int:
        return max(0, self.num_compared - self.num_frames)


def compare(video: TestVideo, protocol: Protocol, *, threshold: float = PROPOSAL_THRESHOLD) -> ComparedVideo:
    """Set a labelled video's scores and labels side by side; ``threshold`` is that of proposals.

    Raises
    ------
    UsageError
        if the scores cannot be expanded: one is not finite.
    """
    entry, num_frames = video.entry, _num_frames(video)
    nothing = ComparedVideo(
        id=video.scored.id,
        label=entry.label,
        class_name=entry.class_name,
        num_frames=num_frames,
        video_score=video_score(video, protocol),
        scores=np.zeros(0),
        truth=np.zeros(0, bool),
        segment_scores=np.zeros(0),
        segment_truth=np.zeros(0, bool),
        judged=entry.label == 0 or len(entry.spans) > 0,
    )
    if not nothing.judged:
        return replace(nothing, notes=("anomalous, and its spans are not known: its frames are not compared",))
    scores, notes = frame_scores(video, protocol)
    labels = target_truth(protocol.truth, [entry], counts={entry.id: num_frames})
    reach = min(len(scores), len(labels.labels))
    if protocol.whole_frames > 1:
        reach = min(reach, _num_scored(video) // protocol.whole_frames * protocol.whole_frames)
    proposals = _proposal_scores(video, protocol, threshold)
    segments, segment_truth, segment_notes = _segments(video, protocol)
    return replace(
        nothing,
        scores=scores[:reach],
        truth=labels.labels[:reach].astype(bool),
        segment_scores=segments,
        segment_truth=segment_truth,
        # Frames beyond the video's end, which padded labels have, are in no proposal.
        proposal_scores=None if proposals is None else np.pad(proposals, (0, max(0, reach - len(proposals))))[:reach],
        num_spans_cut=labels.num_clipped,
        num_spans_outside=labels.num_dropped,
        notes=notes + _mismatches(video, protocol) + segment_notes,
    )


def _num_frames(video: TestVideo) -> int:
    # Somebody else's scores may be 16 a clip: the video's own length is what the list says, if it does.
    known = video.entry.num_frames if video.frames_only else None
    return known or video.scored.num_frames


def _mismatches(video: TestVideo, protocol: Protocol) -> tuple[str, ...]:
    notes = []
    declared, given = video.entry.num_frames, video.scored.num_frames
    if declared is not None and declared != given:
        what = "as many scores as frames" if video.frames_only else "as many frames decoded as the manifest counts"
        notes.append(f"not {what}: compared as far as both reach")
    counted = TARGETS[protocol.truth].frames
    if counted != "decoded":
        notes.append(
            f"labels are of frames that the decoder gives; those of {protocol.truth} count {FRAME_COUNTS[counted]}"
        )
    return tuple(notes)


def _num_scored(video: TestVideo) -> int:
    """Give how many frames segments have scores for, those included that a last clip was filled with."""
    scored = video.scored
    return CLIP_FRAMES * len(scored.frames) if _are_clips(scored.frames) else scored.num_frames


def _are_clips(frames: NDArray[np.int64]) -> bool:
    """Tell whether segments are the clips of 16 frames that follow each other from the first frame on."""
    starts = CLIP_FRAMES * np.arange(len(frames))
    return bool((frames[:, 0] == starts).all() and (frames[:, 1] <= starts + CLIP_FRAMES).all())


def frame_scores(video: TestVideo, protocol: Protocol) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Give the scores that the frame level ranks, and notes of what was done otherwise than the protocol says.

    Their number is the protocol's: with a repository's expansion of clips 16 a clip, whatever the video's length.
    """
    scored, own = video.scored, video.scored.frame_scores.astype(np.float64)
    if video.frames_only:
        as_given = protocol.frame == "scores" and protocol.expansion == OWN
        return own, () if as_given else ("scores of frames were given and are taken as they are",)
    in_time = np.argsort(scored.frames[:, 0], kind="stable")
    if protocol.frame == "activation" and "frame_activation" in scored.more:
        return np.asarray(scored.more["frame_activation"], np.float64), ()
    if protocol.frame == "attention" and "attention" in scored.more:
        from .methods.align import place_scores

        return place_scores(scored.more["attention"][in_time], scored.num_frames), ()
    notes = () if protocol.frame == "scores" else (f"no {protocol.frame}: the frame level ranks expanded scores",)
    if protocol.expansion == OWN:
        return own, notes
    takes, fits = EXPANSIONS[protocol.expansion].takes, _are_clips(scored.frames)
    if takes == "segments":
        fits = scored.num_frames >= CLIP_FRAMES and bool((in_time == np.arange(len(in_time))).all())
    if takes == "thirds" or not fits:
        what = "clips of 16 frames" if takes != "segments" else "segments in the order of time"
        return own, (*notes, f"no {what} were scored, which the expansion {protocol.expansion} takes: {OWN} instead")
    return expand_like(protocol.expansion, scored.scores, scored.num_frames), notes


def _segments(video: TestVideo, protocol: Protocol) -> tuple[NDArray[np.float64], NDArray[np.bool_], tuple[str, ...]]:
    scored = video.scored
    if video.frames_only:
        return np.zeros(0), np.zeros(0, bool), ()
    before = np.concatenate([[0], frame_truth(video.entry.spans, scored.num_frames, _slicing(protocol)).cumsum()])
    truth = before[scored.frames[:, 1]] > before[scored.frames[:, 0]]
    if protocol.segment == "attention" and "attention" not in scored.more:
        return scored.scores.astype(np.float64), truth, ("no attention: the segment level ranks scores",)
    values = scored.more["attention"] if protocol.segment == "attention" else scored.scores
    return np.asarray(values, np.float64), truth, ()


def _slicing(protocol: Protocol) -> str:
    return TARGETS[protocol.truth].slicing


def _proposal_scores(video: TestVideo, protocol: Protocol, threshold: float) -> NDArray[np.float64] | None:
    """Give each frame the mean activation of the proposal that holds it (Panariello et al. 2022, Eq. 7)."""
    if "frame_activation" not in video.scored.more:
        return None
    from .methods.align import PROPOSALS, Proposal, connected_spans, proposal_scores

    activation = np.asarray(video.scored.more["frame_activation"], np.float64)
    spans = PROPOSALS[protocol.proposals](connected_spans(activation, threshold)).tolist()
    found = tuple(Proposal(start, stop, float(activation[start:stop].mean())) for start, stop in spans)
    return proposal_scores(found, len(activation))


def video_score(video: TestVideo, protocol: Protocol) -> float:
    """Give what the video level ranks; of `protocol_choices.VIDEO_SCORES`."""
    scored = video.scored
    values = scored.frame_scores if video.frames_only else scored.scores
    if protocol.video == "head" and scored.video is not None:
        return scored.video
    if protocol.video == "spread":
        return float(values.max()) - float(values.min())
    return float(values.max())
