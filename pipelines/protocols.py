"""The table PROTOCOLS: what each publication measures, and how, so that numbers beside its own mean the same.

Everything is measured under every protocol; a protocol says which frames are called anomalous, how segments' scores
become frames', which number is the headline and which of two areas is called AP. Each choice has its source.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import UsageError
from .protocol_choices import Protocol

_SULTANI = "WaqasSultani/AnomalyDetectionCVPR2018, Evaluate_Anomaly_Detector.m"
_WSAL = "ktr-hubrt/WSAL, Test.py"
_CSL = "aimagelab/CSL-TAL, main.py"
_LAD = "wanboyang/anomaly_detection_LAD2000, eval.py"
_RTFM = "tianyu0207/RTFM, test_10crop.py"
_URDMU = "henrryzh1/UR-DMU"
_PEL = "yujiangpu20/PEL4VAD, test.py"
_VADCLIP = "nwpu-zxr/VadCLIP"
_MIST = "fjchange/MIST_VAD"
_XD_TRUTH = "Roc-Ng/XDVioDet, list/make_gt.py"
_XD_AP = "Roc-Ng/XDVioDet, test.py: auc(recall, precision)"

_MIST_SOURCES = {
    "headline": f"{_MIST}, utils/eval_utils.py eval",
    "truth": f"{_MIST}: cut to whole clips",
    "expansion": f"{_MIST}: each clip's score 16 times",
    "ap": f"{_MIST}, utils/eval_utils.py: auc(recall, precision)",
    "false_alarm": f"{_MIST}, utils/eval_utils.py: cal_false_alarm",
}

_PROTOCOLS = (
    Protocol(
        name="vadx",
        meaning="every decoded frame, spans as published, no smoothing, nothing dropped",
        ap="average_precision",
        sources={"ap": "scikit-learn average_precision_score: no straight lines between tied scores"},
    ),
    Protocol(
        name="deepmil",
        meaning="Sultani et al. 2018, UCF-Crime",
        truth="sultani-ucf",
        expansion="sultani",
        video="max",
        false_alarm="deepmil",
        published=0.7541,
        sources={
            "headline": "Sultani et al. 2018, section 5.1 and table 3",
            "truth": f"{_SULTANI}: counted from 1, the last frame included",
            "expansion": f"{_SULTANI}: the last clip and the tail get 0",
            "video": "Sultani et al. 2018, section 3.2: the highest segment",
            "false_alarm": "Sultani et al. 2018, table 4: 50 % threshold, normal test videos",
            "published": "Sultani et al. 2018, table 3",
        },
    ),
    Protocol(
        name="ekosman",
        meaning="the PyTorch port of DeepMIL, UCF-Crime",
        truth="ekosman-ucf",
        expansion="ekosman",
        sources={
            "headline": "ekosman/AnomalyDetectionCVPR2018-Pytorch, generate_ROC.py",
            "truth": "ekosman/AnomalyDetectionCVPR2018-Pytorch, generate_ROC.py: half-open spans",
            "expansion": "ekosman/AnomalyDetectionCVPR2018-Pytorch, generate_ROC.py: N // 32 frames a segment",
        },
    ),
    Protocol(
        name="wsal-ucf",
        meaning="Lv et al. 2021, UCF-Crime",
        truth="wsal-ucf",
        expansion="wsal",
        video="spread",
        published=0.8538,
        sources={
            "headline": "Lv et al. 2021, section IV.B; the anomaly subset stands beside it",
            "truth": f"{_WSAL}: counted from 1, the last frame included",
            "expansion": f"{_WSAL}: edges int(i N / 32 + 0.5)",
            "video": "Lv et al. 2021, equation 1, for the video-level AUC of table V",
            "published": "Lv et al. 2021, table II; of the anomaly subset 0.6738",
        },
    ),
    Protocol(
        name="wsal-tad",
        meaning="Lv et al. 2021, TAD",
        expansion="wsal",
        video="spread",
        published=0.8964,
        sources={
            "headline": "Lv et al. 2021, section IV.B; the anomaly subset stands beside it",
            "truth": "half-open spans: the authors' code has no reader of TAD's",
            "expansion": f"{_WSAL}: edges int(i N / 32 + 0.5)",
            "video": "Lv et al. 2021, equation 1",
            "published": "Lv et al. 2021, table III; of the anomaly subset 0.6166",
        },
    ),
    Protocol(
        name="align-xd",
        meaning="Panariello et al. 2022, XD-Violence, as the paper says",
        headline="frame_average_precision",
        ap="average_precision",
        segment="attention",
        frame="attention",
        published=0.7168,
        sources={
            "headline": "Panariello et al. 2022, table 2",
            "truth": "XD-Violence's annotations are half-open; the paper says nothing of a tail",
            "ap": f"{_CSL}: average_precision_score; the paper calls it the area under the curve",
            "video": "Panariello et al. 2022, section 4: the classification head",
            "segment": "Panariello et al. 2022, section 4: the attention scores",
            "frame": "Panariello et al. 2022, section 4: their interpolation",
            "proposals": "Panariello et al. 2022, section 3.3: the largest connected component",
            "published": "Panariello et al. 2022, table 2; by the text of section 4 it is the proposal level's",
        },
    ),
    Protocol(
        name="align-xd-code",
        meaning="Panariello et al. 2022, XD-Violence, as the authors' code does it",
        headline="frame_average_precision",
        truth="xdviodet",
        ap="average_precision",
        segment="scores",
        frame="activation",
        proposals="all",
        published=0.7168,
        sources={
            "headline": "Panariello et al. 2022, table 2",
            "truth": f"{_XD_TRUTH}, whose features it takes; {_CSL}: half-open spans",
            "ap": f"{_CSL}: average_precision_score",
            "video": f"{_CSL}: the classifier's output",
            "frame": f"{_CSL}: the weighted T-CAM, zoomed 16 times",
            "proposals": f"{_CSL}: all runs above the threshold",
            "published": "Panariello et al. 2022, table 2; by the text of section 4 it is the proposal level's",
        },
    ),
    Protocol(
        name="wsstad-st-ucf",
        meaning="J. Wu et al. 2021, ST-UCF-Crime, which is UCF-Crime without explosions",
        headline="vauc",
        video="max",
        false_alarm="wsstad",
        published=0.8765,
        sources={
            "headline": "J. Wu et al. 2021, section 5.1 and table 1; IoU@eps and MIoU stand beside it",
            "video": "J. Wu et al. 2021, section 5.1: the top-1 tube",
            "false_alarm": "J. Wu et al. 2021, appendix E: 20 % threshold, of normal videos",
            "published": "J. Wu et al. 2021, table 1",
        },
    ),
    Protocol(
        name="wsstad-ucf",
        meaning="J. Wu et al. 2021, temporal detection on UCF-Crime",
        video="max",
        false_alarm="wsstad",
        published=0.8273,
        sources={
            "headline": "J. Wu et al. 2021, table 8",
            "expansion": "J. Wu et al. 2021, appendix F: 32 equal segments",
            "video": "J. Wu et al. 2021, section 5.1: the highest score",
            "false_alarm": "J. Wu et al. 2021, appendix E",
            "published": "J. Wu et al. 2021, table 8",
        },
    ),
    Protocol(
        name="lad",
        meaning="Wan et al. 2021, LAD, as the paper says",
        truth="arnet-lad",
        video="max",
        published=0.8628,
        sources={
            "headline": "Wan et al. 2021, table 3; the class accuracy of table 6 stands beside it",
            "truth": "wanboyang/anomaly_detection_LAD2000, GT/frame_label_IET.pickle",
            "video": "Wan et al. 2021 has no video level",
            "published": "Wan et al. 2021, table 3; tables 4 and 5 say 0.8693 of the same",
        },
    ),
    Protocol(
        name="lad-code",
        meaning="Wan et al. 2021, LAD, as the authors' code does it",
        truth="arnet-lad",
        video="max",
        false_alarm="pel4vad",
        whole_frames=80,
        published=0.8628,
        sources={
            "headline": f"{_LAD}: roc_auc_score over all videos",
            "truth": "wanboyang/anomaly_detection_LAD2000, GT/frame_label_IET.pickle",
            "video": "Wan et al. 2021 has no video level",
            "false_alarm": f"{_LAD}: videos whose labels hold no 1",
            "whole_frames": f"{_LAD}: a last window of 5 clips that had to be filled is left out",
            "published": "Wan et al. 2021, table 3",
        },
    ),
    Protocol(
        name="rtfm-ucf",
        meaning="Tian et al. 2021, UCF-Crime",
        truth="rtfm-ucf",
        expansion="rtfm",
        ap="pr_area",
        published=0.8430,
        sources={
            "headline": "Tian et al. 2021",
            "truth": "tianyu0207/RTFM, list/make_gt_ucf.py: counted from 0, the last frame included",
            "expansion": f"{_RTFM}: each clip's score 16 times",
            "ap": f"{_RTFM}: auc(recall, precision)",
            "published": "Tian et al. 2021",
        },
    ),
    Protocol(
        name="rtfm-shanghaitech",
        meaning="Tian et al. 2021, ShanghaiTech",
        truth="rtfm-shanghaitech",
        expansion="rtfm",
        ap="pr_area",
        published=0.9721,
        sources={
            "headline": "Tian et al. 2021",
            "truth": "tianyu0207/RTFM, list/make_gt_sh.py: N // 16 + 1 clips, the last label repeated",
            "expansion": f"{_RTFM}: each clip's score 16 times",
            "ap": f"{_RTFM}: auc(recall, precision)",
            "published": "Tian et al. 2021",
        },
    ),
    Protocol(
        name="rtfm-xd",
        meaning="Tian et al. 2021, XD-Violence",
        headline="frame_pr_area",
        truth="xdviodet",
        expansion="rtfm",
        ap="pr_area",
        published=0.7781,
        sources={
            "headline": "Tian et al. 2021",
            "truth": _XD_TRUTH,
            "expansion": f"{_RTFM}: each clip's score 16 times",
            "ap": f"{_RTFM}: auc(recall, precision)",
            "published": "Tian et al. 2021",
        },
    ),
    Protocol(
        name="urdmu-ucf",
        meaning="Zhou et al. 2023, UCF-Crime",
        truth="rocng-ucf",
        expansion="urdmu",
        ap="pr_area",
        published=0.8697,
        sources={
            "headline": f"{_URDMU}, ucf_test.py",
            "truth": "Roc-Ng/DeepMIL, gt-ucf.npy, the same bytes",
            "expansion": f"{_URDMU}: each clip's score 16 times",
            "ap": f"{_URDMU}: auc(recall, precision)",
            "published": f"{_URDMU}, outputs",
        },
    ),
    Protocol(
        name="urdmu-xd",
        meaning="Zhou et al. 2023, XD-Violence",
        headline="frame_pr_area",
        truth="xdviodet",
        expansion="urdmu",
        ap="pr_area",
        published=0.8166,
        sources={
            "headline": f"{_URDMU}, xd_test.py",
            "truth": f"{_XD_TRUTH}, the same bytes",
            "expansion": f"{_URDMU}: each clip's score 16 times",
            "ap": f"{_URDMU}: auc(recall, precision)",
            "published": f"{_URDMU}, outputs",
        },
    ),
    Protocol(
        name="xdviolence",
        meaning="P. Wu et al. 2020, XD-Violence",
        headline="frame_pr_area",
        truth="xdviodet",
        expansion="xdviolence",
        ap="pr_area",
        published=0.7541,
        sources={
            "headline": "P. Wu et al. 2020",
            "truth": _XD_TRUTH,
            "expansion": "Roc-Ng/XDVioDet, test.py: each clip's score 16 times",
            "ap": _XD_AP,
            "published": "Panariello et al. 2022, table 2",
        },
    ),
    Protocol(
        name="pel4vad-ucf",
        meaning="Pu et al. 2023, UCF-Crime, scores smoothed",
        truth="rocng-ucf",
        expansion="pel4vad-ucf",
        ap="pr_area",
        false_alarm="pel4vad",
        published=0.8676,
        sources={
            "headline": f"{_PEL}: ucf-crime",
            "truth": "yujiangpu20/PEL4VAD, ucf-gt.npy; Roc-Ng/DeepMIL, the same bytes",
            "expansion": "yujiangpu20/PEL4VAD, infer.py: mean of 7 clips, 16 times; others do not smooth",
            "ap": f"{_PEL}: auc(recall, precision)",
            "false_alarm": f"{_PEL}: cal_false_alarm",
            "published": "yujiangpu20/PEL4VAD, README",
        },
    ),
    Protocol(
        name="pel4vad-xd",
        meaning="Pu et al. 2023, XD-Violence, scores smoothed",
        headline="frame_pr_area",
        truth="xdviodet",
        expansion="pel4vad-xd",
        ap="pr_area",
        false_alarm="pel4vad",
        published=0.8559,
        sources={
            "headline": f"{_PEL}: xd-violence",
            "truth": f"{_XD_TRUTH}, the same bytes",
            "expansion": "yujiangpu20/PEL4VAD, infer.py: mean of each 8 clips, 16 times; others do not smooth",
            "ap": f"{_PEL}: auc(recall, precision)",
            "false_alarm": f"{_PEL}: cal_false_alarm",
            "published": "yujiangpu20/PEL4VAD, README",
        },
    ),
    Protocol(
        name="vadclip-ucf",
        meaning="P. Wu et al. 2024, UCF-Crime",
        truth="vadclip-ucf",
        expansion="vadclip",
        ap="average_precision",
        published=0.8802,
        sources={
            "headline": f"{_VADCLIP}, src/ucf_test.py",
            "truth": f"{_VADCLIP}, list/make_gt_ucf.py",
            "expansion": f"{_VADCLIP}, src/ucf_test.py: each clip's score 16 times",
            "ap": f"{_VADCLIP}, src/ucf_test.py: average_precision_score",
            "published": "P. Wu et al. 2024",
        },
    ),
    Protocol(
        name="vadclip-xd",
        meaning="P. Wu et al. 2024, XD-Violence",
        headline="frame_average_precision",
        truth="vadclip-xd",
        expansion="vadclip",
        ap="average_precision",
        published=0.8451,
        sources={
            "headline": f"{_VADCLIP}, src/xd_test.py",
            "truth": f"{_VADCLIP}, list/make_gt_xd.py",
            "expansion": f"{_VADCLIP}, src/xd_test.py: each clip's score 16 times",
            "ap": f"{_VADCLIP}, src/xd_test.py: average_precision_score",
            "published": "P. Wu et al. 2024",
        },
    ),
    Protocol(
        name="mist-ucf",
        meaning="Feng et al. 2021, UCF-Crime",
        truth="mist-ucf",
        expansion="mist",
        ap="pr_area",
        false_alarm="mist",
        sources=_MIST_SOURCES,
    ),
    Protocol(
        name="mist-shanghaitech",
        meaning="Feng et al. 2021, ShanghaiTech",
        truth="mist-shanghaitech",
        expansion="mist",
        ap="pr_area",
        false_alarm="mist",
        sources=_MIST_SOURCES,
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({one.name: one for one in _PROTOCOLS})
"""Name -> protocol. ``vadx`` is the default, under which methods can be compared with each other."""

NO_PROTOCOL: Mapping[str, str] = MappingProxyType(
    {
        "seo": (
            "seominseok0429's port averages the AUCs of 140 pairs of one anomalous and one normal video, which no "
            "other number can be compared with; ekosman is a port that pools frames"
        ),
    }
)
"""Publications whose numbers are not made, and why."""


def find_protocol(name: str) -> Protocol:
    """Give a protocol of the table. Raises `UsageError` naming the nearest for one that there is not."""
    if name in NO_PROTOCOL:
        msg = f"there is no protocol {name}: {NO_PROTOCOL[name]}"
        raise UsageError(msg)
    if name not in PROTOCOLS:
        near = [one for one in PROTOCOLS if one.startswith(name)] or difflib.get_close_matches(name, PROTOCOLS, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        msg = f"there is no protocol {name!r}; {hint}the protocols are {', '.join(PROTOCOLS)}"
        raise UsageError(msg)
    return PROTOCOLS[name]
