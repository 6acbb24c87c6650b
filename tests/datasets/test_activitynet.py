import json

import pytest

from relgrounding.datasets import Query, load_activitynet, load_activitynet_durations
from relgrounding.io import BadAnnotation, MissingFile, Problems

GOOD = {"duration": 10.5, "timestamps": [[0, 2.5], [3, 10.51]], "sentences": [" A man runs. ", "He stops."]}


def write(root, content, split="train"):
    (root / f"{split}.json").write_text(json.dumps(content))
    return root


def test_one_query_a_sentence(tmp_path):
    write(tmp_path, {"v_a": GOOD})
    assert load_activitynet(tmp_path, "train") == [
        Query("v_a-0", "v_a", "A man runs.", ((0.0, 2.5),)),
        Query("v_a-1", "v_a", "He stops.", ((3.0, 10.51),)),
    ]
    assert load_activitynet_durations(tmp_path, "train") == {"v_a": 10.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0}, "video 'v_b': duration is 0; expected the seconds"),
        ({"duration": float("nan")}, "duration is nan"),
        ({"timestamps": [[0, 1]]}, "timestamps and sentences are not equally many"),
        ({"timestamps": [[0, 1], [2]]}, r"expected \[start, end\] in seconds, found '\[2\]'"),
        ({"timestamps": None}, "expected a list 'timestamps'"),
        ({"sentences": ["a", " "]}, "sentence ' ' is empty or not text"),
        ({"sentences": ["a", 3]}, "sentence '3' is empty or not text"),
    ],
)
def test_a_bad_record_is_named_or_skipped_and_counted(tmp_path, change, message):
    write(tmp_path, {"v_a": GOOD, "v_b": GOOD | change})
    with pytest.raises(BadAnnotation, match=message):
        load_activitynet(tmp_path, "train")
    problems = Problems("skip")
    kept = load_activitynet(tmp_path, "train", problems)
    assert problems.total == 1
    assert [q.id for q in kept][:2] == ["v_a-0", "v_a-1"]
    assert len(kept) in (2, 3)


def test_what_is_wrong_as_a_whole_is_never_skipped(tmp_path):
    with pytest.raises(BadAnnotation, match="split 'test' is not one of ActivityNet Captions': train, val_1, val_2"):
        load_activitynet(tmp_path, "test", Problems("skip"))
    with pytest.raises(MissingFile, match=r"val_1\.json not found; download val_1\.json from"):
        load_activitynet(tmp_path, "val_1", Problems("skip"))
    (tmp_path / "train.json").write_text('{"v_a": {"dur')
    with pytest.raises(BadAnnotation, match="is not JSON, or cut off"):
        load_activitynet(tmp_path, "train", Problems("skip"))
    write(tmp_path, {"../v": GOOD})
    with pytest.raises(BadAnnotation, match=r"'\.\./v' cannot be an id"):
        load_activitynet(tmp_path, "train")


@pytest.mark.parametrize(
    ("split", "videos", "sentences"), [("train", 10009, 37421), ("val_1", 4917, 17505), ("val_2", 4885, 17031)]
)
def test_published_counts(data_root, split, videos, sentences):
    root = data_root / "activitynet_captions"
    queries = load_activitynet(root, split)
    assert len(queries) == len({q.id for q in queries}) == sentences
    durations = load_activitynet_durations(root, split)
    assert {q.item for q in queries} == durations.keys()
    assert len(durations) == videos
    assert all(q.targets[0][0] >= 0 and q.targets[0][1] <= durations[q.item] + 0.011 for q in queries)
