"""Noise on frames: each kind's pixels against another library's, what is chosen, and what features become of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from support import Ran, picture
from vadx.errors import UsageError
from vadx.extract.extractor import VideoExtraction
from vadx.extract.library import load_backbone, make_engine
from vadx.extract.video import FrameBlock, VideoReader
from vadx.features import Store
from vadx.features.recipe import Noise
from vadx.features.timeline import VideoFacts
from vadx.pipelines.job import Job, make_job
from vadx.pipelines.noise import (
    COLOURS,
    KINDS,
    NoisyFrames,
    SpanNoise,
    add_noise,
    motion_kernel,
    noisy_clips,
    span_noise,
)
from vadx.pipelines.plan import parse_noise

Vadx = Callable[..., Ran]
Frames = NDArray[np.uint8]
IMAGES = np.stack([picture(i, 64, 48) for i in range(23)])
NOISE = Noise(seed=3, span_frames=4)


def test_motion_along_a_row_a_diagonal_and_between() -> None:
    assert (motion_kernel(5, 0) * 5).tolist() == [[0.0] * 5] * 2 + [[1.0] * 5] + [[0.0] * 5] * 2
    # Upwards to the right; a tangent of 45 degrees is 1 but for rounding.
    np.testing.assert_allclose(motion_kernel(5, 45) * 5, np.eye(5)[::-1], atol=1e-12)
    np.testing.assert_allclose(motion_kernel(5, -45) * 5, np.eye(5), atol=1e-12)
    half = motion_kernel(3, math.degrees(math.atan(0.5))) * 3
    np.testing.assert_allclose(half, [[0, 0, 0.5], [0.5, 1, 0.5], [0.5, 0, 0]], atol=1e-12)
    for angle in np.linspace(-45, 45, 19):
        kernel = motion_kernel(5, angle)
        np.testing.assert_allclose(kernel.sum(axis=0), 0.2, atol=1e-12)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize(("num_pixels", "angle"), [(4, 0.0), (5, 46.0), (5, math.nan)])
def test_motion_that_cannot_be_meant_is_refused(num_pixels: int, angle: float) -> None:
    with pytest.raises(UsageError, match="odd number"):
        motion_kernel(num_pixels, angle)


@pytest.mark.parametrize("angle", [-45.0, -20.0, 0.0, 33.0])
def test_blur_is_scipys_correlation(angle: float) -> None:
    blurred = add_noise(IMAGES[:2], SpanNoise("motion-blur", kernel_pixels=5, angle_degrees=angle))
    kernel = motion_kernel(5, angle)[None, :, :, None]
    expected = ndimage.correlate(IMAGES[:2].astype(np.float64), kernel, mode="nearest")
    # float32 against float64: where a sum lies half way between two numbers either may come out.
    assert np.abs(blurred - expected).max() < 0.5 + 1e-3
    assert not np.array_equal(blurred, IMAGES[:2])


def test_a_block_covers_its_part_and_nothing_else() -> None:
    noise = SpanNoise("block", colour=(0, 0, 255), top=0.25, left=0.5, height=0.5, width=0.25)
    covered = add_noise(IMAGES[:3], noise)
    expected = IMAGES[:3].copy()
    expected[:, 12:36, 32:48] = (0, 0, 255)
    assert np.array_equal(covered, expected)
    whole = replace(noise, top=0.0, left=0.0, height=1.0, width=1.0, colour=COLOURS["purple"])
    assert np.array_equal(add_noise(IMAGES[:1], whole), np.full_like(IMAGES[:1], (128, 0, 128)))


@pytest.mark.parametrize(("scale_y", "scale_x"), [(0.8, 1.2), (1.2, 0.8), (1.1, 1.15), (0.9, 0.85), (1.0, 1.0)])
def test_a_scaled_frame_is_pillows_about_its_centre_on_black(scale_y: float, scale_x: float) -> None:
    scaled = add_noise(IMAGES[5:7], SpanNoise("scale", scale_y=scale_y, scale_x=scale_x))
    height, width = round(48 * scale_y), round(64 * scale_x)
    for frame, found in zip(IMAGES[5:7], scaled, strict=True):
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        # Pillow's crop puts black where a box reaches beyond the picture.
        left, top = ((new - old) // 2 if new > old else -((old - new) // 2) for new, old in ((width, 64), (height, 48)))
        # Where one side grows and the other shrinks, Pillow 13 takes columns first: numbers are rounded in between.
        expected = np.asarray(resized.crop((left, top, left + 64, top + 48))).astype(int)
        assert np.abs(found - expected).max() <= (1 if (scale_y - 1) * (scale_x - 1) < 0 else 0)


def spans(noise: Noise, identifier: str, count: int) -> list[SpanNoise]:
    found = (span_noise(noise, identifier, span) for span in range(count))
    return [one for one in found if one is not None]


def test_what_is_drawn_is_as_published() -> None:
    drawn = spans(NOISE, "Normal/a", 2000)
    # Half of 2,000 coins, within five standard deviations; of those a third each kind.
    assert abs(len(drawn) - 1000) < 112
    kinds = {kind: [one for one in drawn if one.kind == kind] for kind in KINDS}
    assert all(abs(len(found) - len(drawn) / 3) < 80 for found in kinds.values())
    blurs, blocks, scales = (kinds[kind] for kind in ("motion-blur", "block", "scale"))
    assert {blur.kernel_pixels for blur in blurs} == {5}
    angles = [blur.angle_degrees for blur in blurs]
    assert -45 <= min(angles) < -40 < 40 < max(angles) <= 45
    assert {block.colour for block in blocks} == {(0, 0, 0), (0, 0, 255), (128, 0, 128)}
    sides = [side for block in blocks for side in (block.height, block.width)]
    assert 0.25 <= min(sides) < 0.3 < 0.95 < max(sides) <= 1
    assert all(b.top >= 0 and b.left >= 0 and b.top + b.height <= 1 and b.left + b.width <= 1 for b in blocks)
    both = [scale for one in scales for scale in (one.scale_y, one.scale_x)]
    assert 0.8 <= min(both) < 0.82 < 1.18 < max(both) <= 1.2
    assert all(one.scale_y != one.scale_x for one in scales)


def test_seed_and_id_draw_and_nothing_else_does() -> None:
    assert spans(NOISE, "a", 50) == spans(NOISE, "a", 50)
    others = [spans(Noise(seed=4, span_frames=4), "a", 50), spans(NOISE, "b", 50), spans(NOISE, "a/a", 50)]
    assert all(other != spans(NOISE, "a", 50) for other in others)
    # Other spans of a video do not change what one gets.
    assert spans(NOISE, "a", 50)[:5] == spans(NOISE, "a", 51)[:5]


class Blocks:
    """A `FrameSource` of frames in memory, in blocks of a size."""

    def __init__(self, size: int) -> None:
        self.size, self.is_closed = size, False

    def __iter__(self) -> Iterator[FrameBlock]:
        frames = IMAGES.copy()
        frames.flags.writeable = False
        for start in range(0, len(frames), self.size):
            index = np.arange(start, min(start + self.size, len(frames)))
            yield FrameBlock(start, index / 25, frames[index[0] : index[-1] + 1], index == 7, ())

    def facts(self) -> VideoFacts:
        return VideoFacts(fps=25.0, num_frames_decoded=len(IMAGES), width=64, height=48)

    def close(self) -> None:
        self.is_closed = True


def test_only_chosen_spans_change_however_frames_come() -> None:
    expected = IMAGES.copy()
    for span in range(6):
        if (noise := span_noise(NOISE, "Normal/a", span)) is not None:
            here = slice(4 * span, 4 * span + 4)
            expected[here] = add_noise(IMAGES[here], noise)
    changed = [
        span
        for span in range(6)
        if not np.array_equal(expected[4 * span : 4 * span + 4], IMAGES[4 * span : 4 * span + 4])
    ]
    assert 0 < len(changed) < 6
    assert changed == [span for span in range(6) if span_noise(NOISE, "Normal/a", span) is not None]
    for size in (1, 3, 4, 16, 23):
        source = Blocks(size)
        noisy = NoisyFrames(source, NOISE, "Normal/a")
        blocks = list(noisy)
        assert np.array_equal(np.concatenate([block.frames for block in blocks]), expected)
        assert np.array_equal(np.concatenate([block.damaged for block in blocks]), np.arange(23) == 7)
        assert [block.start for block in blocks] == list(range(0, 23, size))
        assert noisy.facts() == source.facts()
        noisy.close()
        assert source.is_closed


def test_which_clips_are_noisy_follows_from_their_spans_alone() -> None:
    random = np.random.default_rng(0)
    starts = random.integers(0, 200, 300)
    frames = np.stack([starts, starts + random.integers(0, 9, 300)], axis=1)
    noisy_frames = [span_noise(NOISE, "v", frame // 4) is not None for frame in range(210)]
    expected = [any(noisy_frames[start:stop]) for start, stop in frames.tolist()]
    assert noisy_clips(NOISE, "v", frames).tolist() == expected
    assert 0 < sum(expected) < 300
    assert noisy_clips(NOISE, "v", np.zeros((0, 2), np.int64)).tolist() == []
    # Padding of a bag.
    assert noisy_clips(NOISE, "v", np.array([[200, 200]])).tolist() == [False]


def stored(vadx_here: Vadx, videos: Path, *options: str) -> Path:
    ran = vadx_here("extract", "-b", "tiny", "--weights", "random", "--batch", "1", videos, "-o", "store", *options)
    assert ran.code == 0, ran.err
    return Path(ran.out.strip())


def test_features_with_noise_are_a_set_of_their_own_and_differ_where_it_is(
    six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    clean, noisy = (stored(vadx_here, six_videos / "Normal", *option) for option in ((), ("--noise", "wsal:3:4")))
    assert clean != noisy
    assert "noise3" in noisy.name
    store = Store(tmp_path / "store")
    one, other = (store[path.name] for path in (clean, noisy))
    assert (one.recipe.noise, other.recipe.noise) == (None, NOISE)
    assert one.digest != other.digest
    chosen = []
    for identifier in other:
        before, after = one[identifier], other[identifier]
        assert np.array_equal(before.frames, after.frames)
        # One clip a batch, so that a clip's features rest on its frames alone.
        differing = (before.values != after.values).any(axis=(1, 2))
        assert differing.tolist() == noisy_clips(NOISE, identifier, after.frames).tolist()
        chosen += differing.tolist()
    assert 0 < sum(chosen) < len(chosen)
    # Decoded by other processes, frames come in memory of theirs.
    command = ("extract", "-b", "tiny", "--weights", "random", "--batch", "1", six_videos / "Normal", "-o", "again")
    again = vadx_here(*command, "--noise", "wsal:3:4", "--decoders", "2")
    assert again.code == 0
    for identifier in other:
        path = other.shard_path(identifier)
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "store")).read_bytes()


def test_a_run_with_and_without_noise_decodes_each_by_itself(six_videos: Path, tmp_path: Path, vadx_here: Vadx) -> None:
    from vadx.extract.backbones import find_backbone
    from vadx.pipelines.extraction import process_video
    from vadx.pipelines.inputs import Entry
    from vadx.pipelines.plan import Overrides, make_plan

    options = {
        "device": "cpu",
        "batch": 1,
        "force": False,
        "retry_failed": False,
        "strict": False,
        "allow_partial": False,
    }
    store, jobs = Store(tmp_path / "both"), list[Job]()
    for noise in (None, NOISE):
        plan = make_plan(find_backbone("tiny").default_preset, Overrides(noise=noise), "random:0")
        made = store.create(plan.recipe, slug=plan.slug, preset=plan.preset_name, weights_name=None)
        jobs.append(make_job(plan, made.path, options))
    (path,) = (six_videos / "Normal").glob("clip004*")
    outcomes = process_video(Entry("clip004_x264", path), jobs)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    alone = {path.name: path for path in (stored(vadx_here, path), stored(vadx_here, path, "--noise", "wsal:3:4"))}
    for job in jobs:
        both, one = Store(tmp_path / "both")[job.set_path.name], Store(tmp_path / "store")[job.set_path.name]
        assert job.set_path.name in alone
        assert np.array_equal(both["clip004_x264"].values, one["clip004_x264"].values)


def test_a_single_file_has_no_id_to_draw_noise_from(six_videos: Path) -> None:
    tiny = load_backbone("tiny", "random:0")
    recipe = replace(tiny.recipe, noise=NOISE)
    with (
        VideoReader(next(six_videos.rglob("*.mp4"))) as reader,
        pytest.raises(UsageError, match=r"wsal:3:4.*vadx extract --noise"),
    ):
        VideoExtraction(reader, recipe, make_engine(tiny, recipe, device="cpu"))


def test_noise_is_named_as_it_is_read() -> None:
    assert parse_noise("wsal:7") == Noise(seed=7)
    assert parse_noise("wsal:7:16") == Noise(seed=7, span_frames=16)
    assert parse_noise(str(NOISE)) == NOISE
    for text in ("wsal", "rain:1", "wsal:-1", "wsal:1:", "wsal:x"):
        with pytest.raises(UsageError, match="as in wsal:0; got"):
            parse_noise(text)


def test_the_command_refuses_what_is_no_noise_and_says_what_it_puts_on(six_videos: Path, vadx_here: Vadx) -> None:
    run = ("extract", "-b", "tiny", "--weights", "random", six_videos, "-n", "--noise")
    refused = vadx_here(*run, "rain:1")
    assert (refused.code, "wsal:SEED" in refused.err) == (2, True)
    assert vadx_here(*run, "wsal:0:0").code == 2
    assert vadx_here(*run, "wsal:0").code == 0
    said = vadx_here(
        "extract", "-b", "tiny", "--weights", "random", six_videos / "Normal", "-o", "s", "--noise", "wsal:5"
    )
    assert "tiny-default+noise=wsal:5:32+weights=random: frames -> noise wsal:5:32 -> short side 32" in said.err
