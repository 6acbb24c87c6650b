import pytest

from relgrounding.datasets import ActionInterval, load_actions, load_charades, load_durations

CSV = "id,actions,length\nAAAAA,c092 1.0 2.5;c000 0.0 30.0,10.0\nBBBBB,,5.5\n"


@pytest.fixture
def root(tmp_path):
    sentences = (
        "AAAAA 1.0 2.5##person opens a door.\nAAAAA 1.0 10.1##late.\nBBBBB 3.0 3.0##nothing.\nBBBBB 0 5.5##all.\n"
    )
    (tmp_path / "charades_sta_train.txt").write_text(sentences)
    (tmp_path / "Charades_v1_train.csv").write_text(CSV)
    (tmp_path / "Charades_v1_test.csv").write_text("id,actions,length\n")
    return tmp_path


def test_queries_are_read_as_annotated(root):
    queries = load_charades(root, "train")
    assert [query.id for query in queries] == ["train-1", "train-2", "train-3", "train-4"]
    first = queries[0]
    assert (first.item, first.text, first.targets) == ("AAAAA", "person opens a door.", ((1.0, 2.5),))


def test_reduced_protocol_drops_what_ends_late_or_is_empty_and_keeps_ids(root):
    assert [query.id for query in load_charades(root, "train", "reduced")] == ["train-1", "train-4"]


def test_a_split_needs_no_file_of_the_other(root):
    (root / "Charades_v1_test.csv").unlink()
    assert load_durations(root, "train") == {"AAAAA": 10.0, "BBBBB": 5.5}
    assert len(load_charades(root, "train", "reduced")) == 2


def test_actions_and_durations(root):
    assert load_durations(root) == {"AAAAA": 10.0, "BBBBB": 5.5}
    assert load_actions(root) == {"AAAAA": [ActionInterval(92, 1.0, 2.5), ActionInterval(0, 0.0, 30.0)], "BBBBB": []}


@pytest.mark.parametrize("line", ["AAAAA 1.0##x", "AAAAA 1 two##x", "AAAAA 1 2 x", "AAAAA 1 2##", "AAAAA nan 2##x"])
def test_bad_line_is_named(root, line):
    (root / "charades_sta_train.txt").write_text(f"AAAAA 1 2##fine\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2: expected VIDEO START END##sentence, found 'AAAAA"):
        load_charades(root, "train")


@pytest.mark.parametrize("action", ["c157 1 2", "c-1 1 2", "x 1 2", "c001 1"])
def test_bad_action_is_named(root, action):
    (root / "Charades_v1_test.csv").write_text(f"id,actions,length\nCCCCC,{action},3\n")
    with pytest.raises(
        ValueError, match=rf"video CCCCC: expected an action such as 'c092 11.90 21.20', found '{action}'"
    ):
        load_actions(root)


def test_unknown_choices_and_missing_files_say_what_to_do(root):
    with pytest.raises(ValueError, match="split 'val' is not one of Charades-STA's: train, test"):
        load_charades(root, "val")
    with pytest.raises(ValueError, match="protocol 'short' is not one of Charades-STA's: official, reduced"):
        load_charades(root, "train", "short")
    with pytest.raises(
        FileNotFoundError, match=r"charades_sta_test\.txt not found; download charades_sta_test\.txt from"
    ):
        load_charades(root, "test")


@pytest.mark.parametrize(
    ("split", "official", "reduced", "videos"), [("train", 12408, 10602, 5338), ("test", 3720, 3158, 1334)]
)
def test_published_counts(data_root, split, official, reduced, videos):
    queries = load_charades(data_root / "charades_sta", split)
    assert len(queries) == len({query.id for query in queries}) == official
    assert len({query.item for query in queries}) == videos
    assert len(load_charades(data_root / "charades_sta", split, "reduced")) == reduced


def test_published_counts_of_videos(data_root):
    durations, actions = load_durations(data_root / "charades_sta"), load_actions(data_root / "charades_sta")
    assert len(durations) == len(actions) == 7985 + 1863
    assert {interval.action for intervals in actions.values() for interval in intervals} == set(range(157))
    queries = [query for split in ("train", "test") for query in load_charades(data_root / "charades_sta", split)]
    assert {query.item for query in queries} <= durations.keys()
