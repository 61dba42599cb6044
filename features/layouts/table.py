"""The table LAYOUTS."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .arrays import ClipArrays, PlainArrays
from .crop_arrays import Convention, CropArrays
from .gcn import GcnArrays
from .hdf5 import Mist, Wsal
from .model import CLIPS_OF_16, OWN, Crops, Files, Layout
from .text import Ekosman, Sultani, shortest, six_decimals
from .video_folders import VideoFolders

_UCF = MappingProxyType({"train": (810, 800), "test": (140, 150)})
_XD = MappingProxyType({"train": (1905, 2049), "test": (500, 300)})
_SHT = MappingProxyType({"train": (63, 175), "test": (44, 155)})
_LAD = MappingProxyType({"test": (280, 280)})

_EXACT = "every value of every clip and crop, to the bit of float32"
_LOST = "frames and seconds of clips, damage, and facts of the videos: they stay in the feature set"
_I3D = MappingProxyType({**CLIPS_OF_16, "network.name": "i3d"})
_TEN = MappingProxyType({"transform.crops": "ten", "transform.crop_order": "tv"})
_RTFM_KNOWS = MappingProxyType(
    {
        **CLIPS_OF_16,
        **_TEN,
        "network.name": "i3d-resnet50",
        "transform.resize": 256,
        "transform.crop": 224,
        "transform.mean": [114.75] * 3,
        "transform.std": [57.375] * 3,
    }
)
_ROC_KNOWS = MappingProxyType({**_I3D, "transform.resize": 256, "transform.crop_order": "roc"})

_RTFM_UCF = Files("list/ucf-i3d.list", "list/ucf-i3d-test.list", "list/gt-ucf.npy", "rtfm-ucf", _UCF)
_RTFM_SHT = Files(
    "list/shanghai-i3d-train-10crop.list",
    "list/shanghai-i3d-test-10crop.list",
    "list/gt-sh.npy",
    "rtfm-shanghaitech",
    _SHT,
)
_RTFM_OWN = Files("list/train.list", "list/test.list", "list/gt.npy")
_TEN_CROPS = Crops((10,), "tv")


def _xd_files(train: str, test: str, truth: str) -> Files:
    return Files(train, test, truth, "xdviodet", _XD, normal_word="_label_A")


_XD_NEEDS = "flow and audio features with lists of their own, unless the modality is RGB"


def _xd_layout(meaning: str, source: str, files: Files, segment_labels: str = "", needs: str = _XD_NEEDS) -> Layout:
    five = Convention("double", 5, ("RGB", "RGBTest"), label="name")
    return Layout(
        meaning=meaning,
        source=source,
        family=CropArrays({OWN: five}, segment_labels=segment_labels),
        data_sets={"xd-violence": files},
        keeps=_EXACT,
        loses=_LOST,
        needs=needs,
        knows=_ROC_KNOWS,
    )


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "npy": Layout(
            meaning="one .npy a video, (clip, crop, feature), in the folders of the ids, and a manifest",
            source="numpy; most loaders of the field are a few lines from it",
            family=PlainArrays(),
            data_sets={OWN: Files("videos.csv", "videos.csv")},
            keeps=_EXACT,
            loses=_LOST,
            only_labelled=False,
            anomalous_first=False,
            flat_names=False,
        ),
        "sultani": Layout(
            meaning="text, 32 segments of unit length a video, <video>_C.txt in a folder of each label",
            source="WaqasSultani/AnomalyDetectionCVPR2018, TrainingAnomalyDetector_public.py",
            family=Sultani("sultani", six_decimals),
            data_sets={
                "ucf-crime": Files("", "Temporal_Anomaly_Annotation.txt", relies_on=_UCF),
                OWN: Files("", "Temporal_Anomaly_Annotation.txt"),
            },
            keeps="the direction of 32 segments' means",
            loses="clips, crops and lengths: 32 rows a video, scaled to unit length, six decimals each",
            rows="segments",
            segmentation="sultani",
            is_lossless=False,
            max_events=2,
            needs="C3D's fc6 of 4096 numbers, unless the network's input is changed",
            knows=CLIPS_OF_16,
        ),
        "ekosman": Layout(
            meaning="text, 32 segments of unit length a video, <class>/<video>.txt, and two annotation files",
            source="ekosman/AnomalyDetectionCVPR2018-Pytorch, features_loader.py",
            family=Ekosman("ekosman", shortest),
            data_sets={
                name: Files(
                    "Train_Annotation.txt",
                    "Test_Annotation.txt",
                    relies_on=relies,
                    normal_word="Normal",
                    word_in_folder=True,
                )
                for name, relies in (("ucf-crime", _UCF), (OWN, {}))
            },
            keeps="the direction of 32 segments' means, to the bit of float32",
            loses="clips, crops and lengths: 32 rows a video, scaled to unit length",
            rows="segments",
            segmentation="ekosman",
            is_lossless=False,
            cuts_at=" .",
            max_events=2,
            knows=CLIPS_OF_16,
        ),
        "rtfm": Layout(
            meaning="one .npy a video, (clip, 10, feature)",
            source="tianyu0207/RTFM, dataset.py",
            family=ClipArrays({OWN: _TEN_CROPS}),
            data_sets={"ucf-crime": _RTFM_UCF, "shanghaitech": _RTFM_SHT, OWN: _RTFM_OWN},
            keeps=_EXACT,
            loses=_LOST,
            knows=_RTFM_KNOWS,
        ),
        "mgfn": Layout(
            meaning="RTFM's files; the norm of each row is added by its loader",
            source="carolchenyx/MGFN, datasets/dataset.py",
            family=ClipArrays({OWN: _TEN_CROPS}),
            data_sets={"ucf-crime": _RTFM_UCF, OWN: _RTFM_OWN},
            keeps=_EXACT,
            loses=_LOST,
            knows=_RTFM_KNOWS,
        ),
        "s3r": Layout(
            meaning="RTFM's files, with lists of ids and labels as JSON",
            source="louisYen/S3R, anomaly/datasets/video_dataset.py and data/",
            family=ClipArrays(
                {OWN: _TEN_CROPS},
                folder={name: f"data/{name}/i3d" for name in ("ucf-crime", "shanghaitech", OWN)},
                lists="ids",
            ),
            data_sets={
                name: Files(
                    f"data/{name}/{name}.training.csv",
                    f"data/{name}/{name}.testing.csv",
                    f"data/{name}/{name}_ground_truth.testing.json",
                    target,
                    relies,
                )
                for name, target, relies in (
                    ("ucf-crime", "rtfm-ucf", _UCF),
                    ("shanghaitech", "rtfm-shanghaitech", _SHT),
                    (OWN, None, {}),
                )
            },
            keeps=_EXACT,
            loses=_LOST,
            cuts_at=",",
            needs="its dictionaries (dictionary/<data set>/*.npy), which its own scripts make of these features",
            knows=_RTFM_KNOWS,
        ),
        "clip-tsa": Layout(
            meaning="one .npy a video, (clip, crop, feature), CLIP or others",
            source="joos2010kj/CLIP-TSA, dataset.py, with --visual vit",
            family=ClipArrays({OWN: Crops()}, suffix=".npy"),
            data_sets={
                "ucf-crime": Files(
                    "list/vit/ucf-vit.list", "list/vit/ucf-vit-test.list", "list/gt-ucf.npy", "rtfm-ucf", _UCF
                ),
                "shanghaitech": Files(
                    "list/vit/shanghai-vit-train-10crop.list",
                    "list/vit/shanghai-vit-test-10crop.list",
                    "list/gt-sh.npy",
                    "rtfm-shanghaitech",
                    _SHT,
                ),
                # Its list misses one normal video, and an assertion counts on that.
                "xd-violence": Files(
                    "list/vit/xd-vit-train.list",
                    "list/vit/xd-vit-test.list",
                    "list/gt-xd.npy",
                    "xdviodet",
                    {"train": (1905, 2048), "test": (500, 300)},
                ),
                OWN: _RTFM_OWN,
            },
            keeps=_EXACT,
            loses=_LOST,
            knows=CLIPS_OF_16,
        ),
        "rocng": Layout(
            meaning="one .npy a crop, <video>.npy and <video>__1.npy on; lists name crop 0",
            source="Roc-Ng/DeepMIL, dataset.py",
            family=CropArrays({OWN: Convention("bare_first", 10, train=0, test=0)}),
            data_sets={
                "ucf-crime": Files("list/ucf-i3d.list", "list/ucf-i3d-test.list", "list/gt-ucf.npy", "rocng-ucf", _UCF),
                OWN: _RTFM_OWN,
            },
            keeps=_EXACT,
            loses=_LOST,
            knows=_ROC_KNOWS,
        ),
        "xdviodet": _xd_layout(
            "one .npy a crop, <video>__0.npy to __4, in RGB and RGBTest",
            "Roc-Ng/XDVioDet, dataset.py",
            _xd_files("list/rgb.list", "list/rgb_test.list", "list/gt.npy"),
        ),
        "macil-sd": _xd_layout(
            "the files of xdviodet",
            "JustinYuu/MACIL_SD, which reads XD-Violence's own files",
            _xd_files("list/rgb.list", "list/rgb_test.list", "list/gt.npy"),
        ),
        "csl-tal": _xd_layout(
            "the files of xdviodet, with a label for each 16 frames",
            "aimagelab/CSL-TAL, XD_Violence.py",
            _xd_files("data/rgb_list.txt", "data/rgb_test_list.txt", ""),
            "data/segment_labels.txt",
            f"XD-Violence's annotations.txt; {_XD_NEEDS}",
        ),
        "urdmu": Layout(
            meaning="one .npy a crop; ten consecutive lines of UCF-Crime are a video, five of XD-Violence",
            source="henrryzh1/UR-DMU, dataset_loader.py",
            family=CropArrays(
                {
                    "xd-violence": Convention("double", 5, label="name"),
                    OWN: Convention("double", 10),
                }
            ),
            data_sets={
                "ucf-crime": Files(
                    "list/UCF_Train.list",
                    "list/UCF_Test.list",
                    "frame_label/gt-ucf.npy",
                    "rocng-ucf",
                    _UCF,
                    normal_word="Normal",
                ),
                "xd-violence": _xd_files("list/XD_Train.list", "list/XD_Test.list", "frame_label/xd_gt.npy"),
                OWN: Files("list/UCF_Train.list", "list/UCF_Test.list", "frame_label/gt-ucf.npy", normal_word="Normal"),
            },
            keeps=_EXACT,
            loses=_LOST,
            cuts_at=" \t",
            knows=_ROC_KNOWS,
        ),
        "pel4vad": Layout(
            meaning="one .npy a crop: <video>.npy and __1 on, __0 on for XD-Violence, _0 on for ShanghaiTech",
            source="yujiangpu20/PEL4VAD, dataset.py and configs.py",
            family=CropArrays(
                {
                    "xd-violence": Convention("double", 5, label="name"),
                    "shanghaitech": Convention("single", 10, lists="labelled", label="list"),
                    OWN: Convention("bare_first", 10, label="name"),
                }
            ),
            data_sets={
                "ucf-crime": Files(
                    "list/ucf/train.list",
                    "list/ucf/test.list",
                    "list/ucf/ucf-gt.npy",
                    "rocng-ucf",
                    _UCF,
                    normal_word="Normal",
                ),
                "xd-violence": _xd_files("list/xd/train.list", "list/xd/test.list", "list/xd/xd-gt.npy"),
                "shanghaitech": Files(
                    "list/sh/train.list", "list/sh/test.list", "list/sh/sh-gt.npy", "pel4vad-shanghaitech", _SHT
                ),
                OWN: Files("list/ucf/train.list", "list/ucf/test.list", "list/ucf/ucf-gt.npy", normal_word="Normal"),
            },
            keeps=_EXACT,
            loses=_LOST,
            cuts_at=" ",
            needs="its prompt features (list/*/*-prompt.npy), which stand in the repository",
            knows=_ROC_KNOWS,
        ),
        "vadclip": Layout(
            meaning="one .npy a crop, <class>/<video>__0.npy to __9, lists as CSV with the class; one crop in testing",
            source="nwpu-zxr/VadCLIP, src/utils/dataset.py and src/*_option.py",
            family=CropArrays(
                {
                    "xd-violence": Convention("double", 10, lists="csv", test=0, label="list"),
                    OWN: Convention("double", 10, ("{class}", "{class}"), lists="csv", test=5, label="list"),
                }
            ),
            data_sets={
                "ucf-crime": Files(
                    "list/ucf_CLIP_rgb.csv", "list/ucf_CLIP_rgbtest.csv", "list/gt_ucf.npy", "vadclip-ucf", _UCF
                ),
                "xd-violence": Files(
                    "list/xd_CLIP_rgb.csv",
                    "list/xd_CLIP_rgbtest.csv",
                    "list/gt.npy",
                    "vadclip-xd",
                    _XD,
                    normal_word="_label_A",
                ),
                OWN: Files("list/ucf_CLIP_rgb.csv", "list/ucf_CLIP_rgbtest.csv", "list/gt_ucf.npy"),
            },
            keeps=_EXACT,
            loses=_LOST,
            needs="gt_segment and gt_label for its mAP, which stand in the repository; features of 512 numbers",
            knows={**CLIPS_OF_16, "network.name": "clip-vit-b-16", "transform.crops": "ten"},
        ),
        "wsal": Layout(
            meaning="HDF5 with one data set a video, (clip, feature), a file for each split",
            source="ktr-hubrt/WSAL, dataset.py and Test.py",
            family=Wsal(),
            data_sets={
                name: Files("Anomaly_Train.txt", "variables.txt", relies_on=relies, normal_word="Normal")
                for name, relies in (("ucf-crime", _UCF), (OWN, {}))
            },
            keeps="every value of every clip, to the bit of float32",
            loses=f"all crops but one; {_LOST}",
            cuts_at=" ",
            max_events=2,
            knows={**CLIPS_OF_16, "network.name": "bn-inception"},
        ),
        "gcn": Layout(
            meaning=".npz with scores (clip, 10, feature) and begin_idx (clip,)",
            source="jx-zhong-for-academic-purpose/GCN-Anomaly-Detection",
            family=GcnArrays(),
            data_sets={
                "ucf-crime": Files("pygcn/ucf_crime_train.pkl", ""),
                "shanghaitech": Files(
                    "ShanghaiTech_new_split/SH_Train.txt", "ShanghaiTech_new_split/SH_Test.txt", relies_on=_SHT
                ),
                OWN: Files("train.txt", "test.txt"),
            },
            keeps=f"{_EXACT}, and the first frame of each clip",
            loses=f"labels, which its scripts have in lists of their own; {_LOST}",
            knows={"transform.crops": "ten", "transform.crop_order": "caffe", "transform.channel_order": "bgr"},
        ),
        "arnet": Layout(
            meaning="a folder a video with feature.npy (clip, feature), and labels as pickled dictionaries",
            source="wanboyang/Anomaly_AR_Net_ICME_2020, video_dataset_anomaly_balance_uni_sample.py and eval.py",
            family=VideoFolders({OWN: "shanghaitech"}, is_lad=False),
            data_sets={
                "shanghaitech": Files(
                    "shanghaitech/train_split.txt", "shanghaitech/test_split.txt", relies_on=_SHT, at_most="floor"
                ),
                OWN: Files("shanghaitech/train_split.txt", "shanghaitech/test_split.txt", at_most="floor"),
            },
            keeps="every value of every clip, to the bit of float32",
            loses=f"all crops but one; {_LOST}",
            anomalous_first=False,
            knows=_I3D,
        ),
        "lad": Layout(
            meaning="arnet's folders, with labels as LAD2000's code takes them",
            source="wanboyang/anomaly_detection_LAD2000",
            family=VideoFolders({OWN: "LAD2000"}, is_lad=True),
            data_sets={
                "lad": Files("LAD2000/train_split.txt", "LAD2000/test_split.txt", relies_on=_LAD, at_most="floor"),
                OWN: Files("LAD2000/train_split.txt", "LAD2000/test_split.txt", at_most="floor"),
            },
            keeps="every value of every clip, to the bit of float32",
            loses=f"all crops but one; {_LOST}",
            anomalous_first=False,
            knows=_I3D,
        ),
        "mist": Layout(
            meaning="one HDF5 file with a data set a video, <video>.npy (clip, feature), and lists with labels",
            source="fjchange/MIST_VAD, stage1training/SHT_MIL_dataset.py",
            family=Mist(),
            data_sets={
                "shanghaitech": Files(
                    "SH_Train_new.txt", "SH_Test_NEW.txt", target="mist-shanghaitech", relies_on=_SHT
                ),
                OWN: Files("SH_Train_new.txt", "SH_Test_NEW.txt", at_most="floor"),
            },
            keeps="every value of every clip, to the bit of float32",
            loses=f"all crops but one; {_LOST}",
            anomalous_first=False,
            cuts_at=",",
            knows=_I3D,
        ),
    }
)
"""Name -> layout. `export_layout`, `check_layout` and `import_layout` take these names."""
