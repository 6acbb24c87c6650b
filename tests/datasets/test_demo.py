import numpy as np
import pytest

from relgrounding.datasets.demo import Scene, SceneStore, make_scenes
from relgrounding.graphs import SpatialRelation, box_iou, spatial_relations

PAIRS = 450
COLOURS = {"red", "green", "blue", "yellow", "purple", "orange"}
# "left of" is seen from the anchor, x to the right, y down: the two angle edge types around that direction.
ANGLES = {"right of": (1, 8), "below": (2, 3), "left of": (4, 5), "above": (6, 7)}


@pytest.fixture(scope="module")
def made() -> tuple[list, SceneStore]:
    return make_scenes("train", PAIRS)


def fits(scene: Scene, phrase: str) -> np.ndarray:
    """Numbers of the objects that a noun phrase fits, read from the words alone."""
    words = set(phrase.split()) - {"the", "one"}
    return np.array([k for k, o in enumerate(scene.objects) if words <= {o.size, o.colour, o.shape}], dtype=int)


def split_sentence(text: str) -> tuple[str, str, str]:
    relation = next(r for r in ANGLES if f" {r} " in text)
    head, anchor = text.split(f" {relation} ")
    return head, relation, anchor


def answers(scene: Scene, text: str) -> np.ndarray:
    """Numbers of the objects that a sentence is true of: words, and the edge types of the spatial graph."""
    if not any(f" {r} " in text for r in ANGLES):
        return fits(scene, text)
    head, relation, anchor = split_sentence(text)
    heads, anchors = fits(scene, head), fits(scene, anchor)
    numbers = spatial_relations(scene.boxes, scene.size)
    wanted = [SpatialRelation[f"ANGLE_{k}"] for k in ANGLES[relation]]
    return np.array([h for h in heads if any(int(numbers[a, h]) in wanted for a in anchors)], dtype=int)


def target_row(scene: Scene, box: tuple) -> int:
    return int(np.flatnonzero((scene.boxes == np.array(box, dtype=np.float32)).all(axis=1))[0])


def test_every_query_is_true_of_its_target_alone(made: tuple) -> None:
    queries, store = made
    for query in queries:
        scene = store.scene(query.item)
        assert answers(scene, query.text).tolist() == [target_row(scene, query.targets[0])], query


def test_every_query_is_false_in_the_partner_scene(made: tuple) -> None:
    queries, store = made
    for a, b in zip(queries[::2], queries[1::2], strict=True):
        assert a.group == b.group != ""
        assert a.item != b.item
        assert answers(store.scene(a.item), b.text).size == 0
        assert answers(store.scene(b.item), a.text).size == 0


def test_a_third_is_relational_and_needs_the_relation(made: tuple) -> None:
    queries, store = made
    relational = [q for q in queries if q.kind == "relation"]
    assert 3 * len(relational) == len(queries) == 2 * PAIRS
    for query in relational:
        scene = store.scene(query.item)
        head, _, anchor = split_sentence(query.text)
        assert fits(scene, head).size == 2
        assert fits(scene, anchor).size == 1
    assert {q.kind for q in queries} == {"relation", "attribute"}


def test_pairs_that_differ_in_places_alone_are_two_thirds(made: tuple) -> None:
    queries, store = made
    same = 0
    for a, b in zip(queries[::2], queries[1::2], strict=True):
        first, second = (sorted(map(repr, store.scene(q.item).objects)) for q in (a, b))
        same += first == second
    assert same == 2 * PAIRS // 3


def test_partners_show_the_same_objects(made: tuple) -> None:
    queries, store = made
    for a, b in zip(queries[::2], queries[1::2], strict=True):
        first, second = (sorted(map(repr, store.scene(q.item).objects)) for q in (a, b))
        if a.kind == "relation":
            assert first == second
        else:
            common = len(first) - len(set(first) ^ set(second))
            assert len(first) == len(second)
            assert common >= len(first) - 4


def test_boxes_lie_in_the_image_and_do_not_touch(made: tuple) -> None:
    _, store = made
    for item in store.ids:
        scene = store.scene(item)
        assert 2 <= len(scene.objects) == len(scene.boxes) <= 6
        assert (scene.boxes[:, :2] >= 0).all()
        assert (scene.boxes[:, 2:] <= scene.size).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] > 0).all()
        assert (box_iou(scene.boxes, scene.boxes).fill_diagonal_(0) == 0).all()


def test_the_place_of_the_objects_that_fit_does_not_give_the_target_away() -> None:
    queries, store = make_scenes("val", 900, noise=0.0, dim=1)
    relational = [q for q in queries if q.kind == "relation"]
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    hits: dict[str, list] = {r: [] for r in ANGLES}
    for query in relational:
        scene = store.scene(query.item)
        head, relation, _ = split_sentence(query.text)
        rows = fits(scene, head)
        centres = (scene.boxes[rows, :2] + scene.boxes[rows, 2:]) / 2
        middle = np.hypot(*(centres - np.array(scene.size) / 2).T)
        area = np.prod(scene.boxes[rows, 2:] - scene.boxes[rows, :2], axis=1)
        rules = [*(centres @ np.array(d) for d in directions), middle, -middle, area, np.arange(len(rows))]
        target = target_row(scene, query.targets[0])
        hits[relation].append([rows[int(rule.argmax())] == target for rule in rules])
    for relation, table in hits.items():
        shares = np.mean(table, axis=0)
        # Two candidates: chance is a half. Four standard errors leave room for twelve rules tried.
        assert (np.abs(shares - 0.5) < 4 * 0.5 / np.sqrt(len(table))).all(), (relation, shares)


def test_target_and_distractor_are_about_as_near_to_the_anchor(made: tuple) -> None:
    queries, store = made
    nearest = []
    for query in queries:
        if query.kind == "relation":
            scene = store.scene(query.item)
            head, _, anchor = split_sentence(query.text)
            rows, origin = fits(scene, head), fits(scene, anchor)[0]
            centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
            distance = np.hypot(*(centres[rows] - centres[origin]).T)
            nearest.append(rows[distance.argmin()] == target_row(scene, query.targets[0]))
    assert 0.4 < np.mean(nearest) < 0.6


def test_the_order_of_regions_does_not_give_the_target_away(made: tuple) -> None:
    queries, store = made
    for count in range(2, 7):
        shown = [q for q in queries if len(store.scene(q.item).objects) == count]
        rows = np.array([target_row(store.scene(q.item), q.targets[0]) for q in shown])
        # Four standard errors around an even share.
        margin = 4 * np.sqrt((count - 1) / len(rows)) / count
        assert (np.abs(np.bincount(rows, minlength=count) / len(rows) - 1 / count) < margin).all(), count


def test_deterministic_and_a_prefix_of_a_larger_set() -> None:
    queries, store = make_scenes("test", 7, seed=3)
    again, again_store = make_scenes("test", 9, seed=3)
    assert again[:14] == queries
    for item in store.ids:
        for first, second in zip(store[item], again_store[item], strict=True):
            np.testing.assert_array_equal(first, second)


def test_splits_and_seeds_differ() -> None:
    texts = {tuple(q.text for q in make_scenes(s, 6, seed=k)[0]) for s in ("train", "val", "test") for k in (0, 1)}
    assert len(texts) == 6


def test_features_are_the_attributes_through_one_projection_for_all_splits() -> None:
    features, attributes = [], []
    for split in ("train", "test"):
        _, store = make_scenes(split, 30, noise=0.0, dim=20)
        features += [store[item].features for item in store.ids]
        attributes += [np.stack([o.one_hot() for o in store.scene(item).objects]) for item in store.ids]
    feature, attribute = np.concatenate(features), np.concatenate(attributes)
    assert attribute.sum(axis=1).tolist() == [3.0] * len(attribute)
    solved, *_ = np.linalg.lstsq(attribute, feature, rcond=None)
    np.testing.assert_allclose(attribute @ solved, feature, atol=1e-5)
    assert 0.4 < np.mean(feature**2) < 1.6


def test_noise_has_the_given_size() -> None:
    clean, noisy = (make_scenes("val", 30, noise=n)[1] for n in (0.0, 0.7))
    error = np.concatenate([noisy[item].features - clean[item].features for item in clean.ids])
    assert np.std(error) == pytest.approx(0.7, rel=0.02)


def test_the_store_reads_like_a_feature_file() -> None:
    queries, store = make_scenes("val", 3, dim=16)
    regions = store[queries[0].item]
    assert (regions.features.dtype, regions.boxes.dtype) == (np.float32, np.float32)
    assert regions.features.shape == (len(regions.boxes), 16)
    assert store.dim == 16
    assert store.ids == [q.item for q in queries]
    assert queries[0].item in store
    assert "nothing" not in store
    assert regions.size == store.scene(queries[0].item).size
    with pytest.raises(KeyError, match="no scene with id 'nothing'; the 6 ids of this store"):
        store["nothing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dev", 3), "unknown split 'dev' of the generated scenes; use one of train, val, test"),
        (("val", 0), "n_pairs is 0; give a number of at least 1"),
        (("val", 1, -1), "seed is -1; give a number of at least 0"),
        (("val", 1, 0, -0.1), "noise is -0.1; give a number of at least 0"),
        (("val", 1, 0, 0.1, 0), "dim is 0; give a number of at least 1"),
    ],
)
def test_unusable_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scenes(*arguments)
