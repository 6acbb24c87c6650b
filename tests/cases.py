"""Small inputs that once gave wrong results, a folder per case: python -m tests.cases FOLDER (a new one)."""

import base64
import json
import pickle
import sys
from pathlib import Path

import h5py
import numpy as np

TINY_VIDEO = (
    "model: {name: vgn, hidden: 8, relation_dim: 8, attention_dim: 8, word_dim: 8, top_r: 4}\ntrain: {epochs: 1}\n"
)
rng = np.random.default_rng(0)


def config(name: str, data: str) -> str:
    return f"name: {name}\ndata: {{dataset: own, root: ., batch_size: 4, {data}}}\n{TINY_VIDEO}"


def lines(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def clips(path: Path, names: list[str], n: int = 16, **attributes: float) -> None:
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = rng.standard_normal((n, 8)).astype("f4")
            file[name].attrs.update(attributes)


def several_moments(out: Path) -> None:
    names = [f"v{i}" for i in range(14)]
    clips(out / "f.h5", names)
    for split, part in (("train", names[:10]), ("test", names[10:])):
        windows = [[2, 32], [60, 64]]
        rows = [
            {"video": v, "duration": 64, "query": "a person talks", "segments": w, "id": f"{v}-{k}"}
            for v in part
            for k, w in enumerate((windows, windows[::-1]))
        ]
        lines(out / f"{split}.jsonl", rows)
    (out / "own.yaml").write_text(config("several", "queries: '{split}.jsonl', features: f.h5, widths: [1, 2, 4, 8]"))


def threshold(out: Path) -> None:
    names = [f"v{i}" for i in range(12)]
    clips(out / "f.h5", names)
    for split, part in (("train", names[:10]), ("test", names[10:])):
        # The window of 4 of 16 clips is [0, 14.995]; the answer is twice as long: IoU is 1/2 exactly.
        lines(
            out / f"{split}.jsonl",
            [{"video": v, "duration": 59.98, "query": f"person opens door {v}", "segment": [0, 29.99]} for v in part],
        )
    (out / "own.yaml").write_text(
        config("threshold", "queries: '{split}.jsonl', features: f.h5, widths: [4], stride: 4")
    )


def disagree(out: Path) -> None:
    names = [f"v{i}" for i in range(12)]
    clips(out / "clips.h5", names, duration=62.4)
    for split, part in (("train", names[:10]), ("test", names[10:])):
        lines(
            out / f"{split}.jsonl",
            [{"video": v, "duration": 31.2, "query": f"person opens door {v}", "segment": [3, 9]} for v in part],
        )
    (out / "own.yaml").write_text(config("disagree", "queries: '{split}.jsonl', features: clips.h5, widths: [2, 4]"))


def flat_object(out: Path) -> None:
    root = out / "refcoco"
    root.mkdir()
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"COCO_train2014_{i:012d}.jpg"} for i in (1, 550395)]
    fine = {"id": 10, "image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 50.0, 60.0], "iscrowd": 0}
    flat = {"id": 2206849, "image_id": 550395, "category_id": 1, "bbox": [9.98, 188.56, 5.54, 0.0], "iscrowd": 0}
    (root / "instances.json").write_text(
        json.dumps({"images": images, "annotations": [fine, flat], "categories": [{"id": 1, "name": "person"}]})
    )
    sentence = {"sent_id": 0, "sent": "man", "raw": "man", "tokens": ["man"]}
    ref = {
        "ref_id": 0,
        "ann_id": 10,
        "image_id": 1,
        "category_id": 1,
        "split": "train",
        "file_name": "COCO_train2014_000000000001_0.jpg",
        "sent_ids": [0],
        "sentences": [sentence],
    }
    (root / "refs(unc).p").write_bytes(pickle.dumps([ref], protocol=2))


def flat_detection(out: Path) -> None:
    (out / "sizes.json").write_text(json.dumps({"images": [{"id": i, "width": 640, "height": 480} for i in (1, 2)]}))
    good = [
        {"image_id": i, "category_id": 1, "bbox": [10 + k, 10, 50, 60], "score": 0.9} for i in (1, 2) for k in range(20)
    ]
    for name, box in {"flat": [100, 100, 0, 60], "outside": [640.2, 100, 12, 60], "tiny": [100, 100, 1e-9, 5]}.items():
        (out / f"{name}.json").write_text(
            json.dumps([*good, {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.01}])
        )


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def tsv(out: Path) -> None:
    boxes, features = np.array([[10, 10, 60, 60], [100, 50, 200, 150]], "<f4"), np.ones((2, 8), "<f4")
    (out / "header.tsv").write_text(
        "image_id\timage_h\timage_w\tnum_boxes\tboxes\tfeatures\n"
        + "\t".join(["7", "375", "500", "2", _text(boxes), _text(features)])
        + "\n"
    )
    empty = _text(np.arange(2)), _text(np.ones(2, "<f4"))
    (out / "ten_columns.tsv").write_text(
        "\t".join(["COCO_train2014_000000581857", "480", "640", *empty, *empty, "2", _text(boxes), _text(features)])
        + "\n"
    )


def ids(out: Path) -> None:
    (out / "npy").mkdir()
    np.save(out / "npy" / "s13-d21.avi.npy", rng.standard_normal((5, 8)).astype("f4"))
    (out / "npz").mkdir()
    np.savez(
        out / "npz" / "000000581857.npz",
        x=rng.standard_normal((2, 8)),
        bbox=np.array([[10, 10, 60, 60], [100, 50, 200, 150]]),
        image_w=640,
        image_h=480,
    )


def no_negatives(out: Path) -> None:
    for count in (1, 2):
        names = [f"v{i}" for i in range(count + 1)]
        clips(out / f"f{count}.h5", names, 32)
        for split, part in (("train", names[:count]), ("test", names[count:])):
            lines(
                out / f"{split}{count}.jsonl",
                [
                    {"video": v, "duration": 60, "query": f"person opens thing {k}", "segment": [k, k + 10]}
                    for v in part
                    for k in range(20)
                ],
            )
        (out / f"own{count}.yaml").write_text(
            config(f"few{count}", f"queries: '{{split}}{count}.jsonl', features: f{count}.h5")
        )


def formats(out: Path) -> None:
    (out / "moment_detr").mkdir()
    np.savez(out / "moment_detr" / "vid_60.0_210.0.npz", features=rng.standard_normal((75, 16)).astype("f2"))
    boxes, features = np.array([[10, 10, 60, 60], [100, 50, 200, 150]], "f4"), rng.standard_normal((2, 8)).astype("f4")
    with h5py.File(out / "vl_t5.h5", "w") as file:
        group = file.create_group("581857")
        group.update({"features": features, "boxes": boxes, "img_w": 640, "img_h": 480})
    with h5py.File(out / "ban_train.hdf5", "w") as file:
        file.update(
            {
                "image_features": np.repeat(features, 2, 0),
                "image_bb": np.repeat(boxes, 2, 0),
                "pos_boxes": np.array([[0, 2], [2, 4]]),
            }
        )
    (out / "ban_train_imgid2idx.pkl").write_bytes(pickle.dumps({1000268201: 0, 1000344755: 1}, protocol=2))
    with h5py.File(out / "meshed.hdf5", "w") as file:
        file.update({"581857_features": features, "581857_boxes": boxes, "581857_size": np.array([480, 640])})


CASES = (several_moments, threshold, disagree, flat_object, flat_detection, tsv, ids, no_negatives, formats)


def main() -> None:
    for make in CASES:
        folder = Path(sys.argv[1]) / make.__name__
        folder.mkdir(parents=True)
        make(folder)


if __name__ == "__main__":
    main()
