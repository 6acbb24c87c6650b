import json

import pytest

from relgrounding.datasets import Query, load_own
from relgrounding.io import BadAnnotation, MissingFile, Problems

VIDEO = {"video": "kitchen", "duration": 31.2, "query": "person opens the door"}
IMAGE = {"image": "street", "size": [640, 480], "query": "the red car"}


def write(path, *lines):
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def test_with_and_without_ground_truth(tmp_path):
    path = write(tmp_path / "q.jsonl", VIDEO | {"segment": [3, 7.5]}, VIDEO, VIDEO | {"id": "x", "segments": [[1, 2]]})
    queries, durations, sizes = load_own(path, "video")
    assert queries[:2] == [
        Query("1", "kitchen", VIDEO["query"], ((3.0, 7.5),)),
        Query("2", "kitchen", VIDEO["query"], ()),
    ]
    assert (queries[2].id, queries[2].targets) == ("x", ((1.0, 2.0),))
    assert (durations, sizes) == ({"kitchen": 31.2}, {})


def test_images_with_several_boxes(tmp_path):
    path = write(tmp_path / "q.jsonl", IMAGE | {"boxes": [[0, 0, 5, 5], [6, 6, 9, 9]], "kind": "car"})
    queries, _, sizes = load_own(path, "image")
    assert queries == [Query("1", "street", "the red car", ((0.0, 0.0, 5.0, 5.0), (6.0, 6.0, 9.0, 9.0)), "car")]
    assert sizes == {"street": (640, 480)}


def test_splits_by_file_or_by_line(tmp_path):
    write(tmp_path / "train.jsonl", VIDEO)
    assert len(load_own(tmp_path / "{split}.jsonl", "video", "train").queries) == 1
    with pytest.raises(MissingFile, match=r"test\.jsonl not found; write one JSON object per line"):
        load_own(tmp_path / "{split}.jsonl", "video", "test")
    path = write(tmp_path / "q.jsonl", VIDEO | {"split": "train"}, VIDEO | {"split": "test"})
    assert [q.id for q in load_own(path, "video", "test").queries] == ["2"]
    with pytest.raises(BadAnnotation, match=r"line 1: no \"split\"; give it on every line"):
        load_own(write(path, VIDEO), "video", "test")


@pytest.mark.parametrize(
    ("item", "line", "message"),
    [
        ("video", VIDEO | {"duration": 0}, "duration is 0; expected the seconds"),
        ("video", VIDEO | {"query": ""}, "query '' is empty or not text"),
        ("video", VIDEO | {"video": "../../etc/passwd"}, "'../../etc/passwd' cannot be an id"),
        ("video", VIDEO | {"segment": [3, 3]}, "is empty or below 0; expected start and end"),
        ("video", VIDEO | {"segment": [3, 3000]}, "lies outside 31.2; is it in seconds"),
        ("video", VIDEO | {"lenght": 3}, "unknown key 'lenght'; known are id, video"),
        ("video", VIDEO | {"segment": [0, 1], "segments": [[1, 2]]}, "both 'segment' and 'segments'; give all"),
        ("video", VIDEO | {"box": [0, 0, 1, 1]}, "'box' does not apply to videos; give 'segment' or 'segments'"),
        ("video", VIDEO | {"duration": "31.2"}, "duration is '31.2'; expected the seconds"),
        ("video", IMAGE, "no 'video'; name the video"),
        ("image", IMAGE | {"size": [640]}, r"size is \[640\]; give width and height"),
        ("image", IMAGE | {"box": [100, 100, 50, 50]}, "is it x y width height"),
        ("image", IMAGE | {"box": [1, 2, 3]}, r"expected x1 y1 x2 y2 in pixels, found '\[1, 2, 3\]'"),
        ("image", IMAGE | {"box": [0, 0, 700, 50]}, "lies outside"),
        ("image", IMAGE | {"boxes": 3}, "'boxes' is a list"),
        ("image", 7, "expected an object"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, item, line, message):
    good = VIDEO if item == "video" else IMAGE
    path = write(tmp_path / "q.jsonl", good, line)
    with pytest.raises(BadAnnotation, match=f"line 2: .*{message}"):
        load_own(path, item)
    problems = Problems("skip")
    assert [q.id for q in load_own(path, item, problems=problems).queries] == ["1"]
    assert problems.counts == {"BadAnnotation": 1}


def test_an_end_shortly_after_the_video_is_cut_and_counted(tmp_path, caplog):
    segments = [[3, 33.2], [31, 31.3], [3, 31.2]]
    path, problems = write(tmp_path / "q.jsonl", *(VIDEO | {"segment": s} for s in segments)), Problems()
    queries = load_own(path, "video", problems=problems).queries
    assert [query.targets for query in queries] == [((3.0, 31.2),), ((31.0, 31.2),), ((3.0, 31.2),)]
    assert dict(problems.notes) == {"segments cut at the end of their video": 2}
    assert caplog.messages == [f"note: {path}: segments cut at the end of their video: 2"]
    for segment in ([3, 33.3], [31.2, 32], [31.5, 32]):
        with pytest.raises(BadAnnotation, match=r"line 1: .* lies outside 31\.2"):
            load_own(write(path, VIDEO | {"segment": segment}), "video")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("duration", "1e308", "duration is 1e[+]308; expected the seconds"),
        ("duration", "NaN", "duration is nan; expected the seconds"),
        ("duration", "1" * 5000, "not JSON, or cut off: a number has thousands of digits; write one object per line"),
        ("duration", "[" * 900 + "]" * 900, "duration is "),
        ("query", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("query", '"a", "query": "b"', "key 'query' comes twice"),
        ("query", r'"a \ud800 door"', r"query 'a \\ud800 door' holds a lone surrogate"),
        ("video", r'"\ud800"', "cannot be an id"),
        ("kind", r'"\ud800"', "'kind' is .*expected text of one line"),
        ("kind", r'"a\u001b[2J"', "'kind' is .*expected text of one line"),
    ],
)
def test_what_json_can_say_and_nobody_can_use(tmp_path, key, value, message):
    raw = {"video": '"v"', "duration": "3", "query": '"a door"'} | {key: value}
    (tmp_path / "q.jsonl").write_text("\n{" + ", ".join(f'"{k}": {v}' for k, v in raw.items()) + "}")
    with pytest.raises(BadAnnotation, match=f"line 2.*{message}") as caught:
        load_own(tmp_path / "q.jsonl", "video")
    assert len(str(caught.value)) < 400


def test_marks_of_byte_order_are_passed_over_or_named(tmp_path):
    text = json.dumps(VIDEO)
    (tmp_path / "q.jsonl").write_text(text, encoding="utf-8-sig")
    assert len(load_own(tmp_path / "q.jsonl", "video").queries) == 1
    for encoding in ("UTF-16", "UTF-32"):
        (tmp_path / "q.jsonl").write_text(text, encoding=encoding)
        with pytest.raises(BadAnnotation, match=f"is {encoding}, not UTF-8; convert it, .* -f {encoding} -t UTF-8"):
            load_own(tmp_path / "q.jsonl", "video")


def test_lines_must_agree(tmp_path):
    with pytest.raises(BadAnnotation, match=r"line 2: 'kitchen' is 30\.0 here and 31\.2 before; which is right\?"):
        load_own(write(tmp_path / "q.jsonl", VIDEO, VIDEO | {"duration": 30}), "video")
    with pytest.raises(BadAnnotation, match="line 2: id '7' comes twice"):
        load_own(write(tmp_path / "q.jsonl", VIDEO | {"id": 7}, VIDEO | {"id": "7"}), "video")


def test_a_size_holds_for_the_lines_after_it(tmp_path):
    line = {"image": "street", "query": "the red car", "box": [0, 0, 700, 100]}
    with pytest.raises(BadAnnotation, match=r"line 2: \[0\.0, 0\.0, 700\.0, 100\.0\] lies outside \(640, 480\)"):
        load_own(write(tmp_path / "q.jsonl", IMAGE, line), "image")


def test_text_that_is_not_utf_8_names_the_line(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b'{}\n{"query": "caf\xe9"}\n')
    with pytest.raises(BadAnnotation, match=r"q\.jsonl, line 2: byte 0xe9 is not UTF-8; convert the file"):
        load_own(tmp_path / "q.jsonl", "video")
