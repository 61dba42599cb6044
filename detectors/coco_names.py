"""The categories of COCO by the numbers that its annotations and torchvision's detectors use: 1 to 90, with holes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import UsageError

COCO_NAMES: Mapping[int, str] = MappingProxyType(
    {
        1: "person",
        2: "bicycle",
        3: "car",
        4: "motorcycle",
        5: "airplane",
        6: "bus",
        7: "train",
        8: "truck",
        9: "boat",
        10: "traffic light",
        11: "fire hydrant",
        13: "stop sign",
        14: "parking meter",
        15: "bench",
        16: "bird",
        17: "cat",
        18: "dog",
        19: "horse",
        20: "sheep",
        21: "cow",
        22: "elephant",
        23: "bear",
        24: "zebra",
        25: "giraffe",
        27: "backpack",
        28: "umbrella",
        31: "handbag",
        32: "tie",
        33: "suitcase",
        34: "frisbee",
        35: "skis",
        36: "snowboard",
        37: "sports ball",
        38: "kite",
        39: "baseball bat",
        40: "baseball glove",
        41: "skateboard",
        42: "surfboard",
        43: "tennis racket",
        44: "bottle",
        46: "wine glass",
        47: "cup",
        48: "fork",
        49: "knife",
        50: "spoon",
        51: "bowl",
        52: "banana",
        53: "apple",
        54: "sandwich",
        55: "orange",
        56: "broccoli",
        57: "carrot",
        58: "hot dog",
        59: "pizza",
        60: "donut",
        61: "cake",
        62: "chair",
        63: "couch",
        64: "potted plant",
        65: "bed",
        67: "dining table",
        70: "toilet",
        72: "tv",
        73: "laptop",
        74: "mouse",
        75: "remote",
        76: "keyboard",
        77: "cell phone",
        78: "microwave",
        79: "oven",
        80: "toaster",
        81: "sink",
        82: "refrigerator",
        84: "book",
        85: "clock",
        86: "vase",
        87: "scissors",
        88: "teddy bear",
        89: "hair drier",
        90: "toothbrush",
    }
)
"""COCO category number -> name, the 80 that have boxes."""

COCO_LABELS: Mapping[str, int] = MappingProxyType({name: label for label, name in COCO_NAMES.items()})

CLASS_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": tuple(COCO_NAMES.values()),
        "surveillance": (
            *("person", "bicycle", "car", "motorcycle", "bus", "train", "truck", "dog"),
            *("backpack", "umbrella", "handbag", "suitcase", "baseball bat", "bottle", "knife", "cell phone"),
        ),
    }
)
"""Name -> categories. The paper links every category that its detector knows: ``all``."""


def coco_label(name: str) -> int:
    """Give the number of a category named ``name``, in any case and with ``_`` or ``-`` for a space.

    Raises
    ------
    UsageError
        if COCO has no such category; names the nearest.
    """
    wanted = name.strip().lower().replace("_", " ").replace("-", " ")
    if wanted in COCO_LABELS:
        return COCO_LABELS[wanted]
    near = difflib.get_close_matches(wanted, COCO_LABELS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(COCO_LABELS)}"
    msg = f"COCO has no category named {name!r}: {hint}"
    raise UsageError(msg)


def class_labels(text: str) -> tuple[int, ...]:
    """Give the numbers of categories written as ``person,car``, or as a name in `CLASS_SETS`; ascending.

    Raises
    ------
    UsageError
        for a name that is neither.
    """
    names = CLASS_SETS.get(text.strip().lower()) or text.split(",")
    return tuple(sorted({coco_label(name) for name in names}))


def label_name(label: int) -> str:
    """Give the name of a COCO category; another number is its own name."""
    return COCO_NAMES.get(label, str(label))
