"""SCN against its equations, one video at a time and without padding."""

import math

import numpy as np
import pytest
import torch

from relgrounding.config import ConfigError, load_config, model_name
from relgrounding.datasets import Query
from relgrounding.features import Vocabulary, tokenize, word_importance
from relgrounding.features.vocabulary import UNKNOWN
from relgrounding.graphs import ending_windows
from relgrounding.modalities import VideoCollator
from relgrounding.models import SCN, SCNConfig
from relgrounding.models.scn import video_parts
from relgrounding.nn import sinusoidal_positions, trained_embedding

TEXTS = ["door", "the person opens the door", "a person reads"]
CLIPS = [1, 3, 9, 21]


class Store(dict):
    dim = 4


def model_and_collator(windows: int = 8, texts: list[str] = TEXTS, lengths: list[int] = CLIPS, **settings):
    random = np.random.default_rng(0)
    store = Store({str(i): random.normal(size=(n, 4)).astype(np.float32) for i, n in enumerate(lengths)})
    queries = [Query(str(i), str(i), texts[i % len(texts)], ((0.0, 1.0),)) for i in range(len(lengths))]
    vocabulary = Vocabulary.from_texts(texts)
    options = SCN.graph_options(SCNConfig(windows=windows))
    collator = VideoCollator(queries, store, vocabulary, widths=[99], stride=1.0, **options)
    torch.manual_seed(0)
    config = SCNConfig(width=8, layers=2, heads=2, feed_forward=6, windows=windows, window_clips=5, **settings)
    model = SCN(config, 4, trained_embedding(len(vocabulary), 6), 6).double().eval()
    torch.nn.init.normal_(model.start)
    torch.nn.init.normal_(model.mask)
    return model, collator


def batch_of(collator, indices):
    batch = collator(indices)
    batch.clips = batch.clips.double()
    return batch


@pytest.mark.parametrize("windows", [1, 8])
def test_scores_are_those_of_the_windows_that_end_at_each_clip(windows):
    model, collator = model_and_collator(windows)
    batch = batch_of(collator, [0, 1, 2, 3])
    assert batch.structure.num_edges == 0
    together = model(batch).split(batch.structure.batch_num_nodes.tolist())
    for item, clips in enumerate(CLIPS):
        length = int(batch.word_lengths[item])
        vectors = torch.cat([model.start[None], model.embedding(batch.words[item, :length])])
        words = model.word_stack((model.word(vectors) + sinusoidal_positions(length + 1, 8))[None])
        states = model.clip_stack(model.clip(batch.clips[item, :clips])[None], words)[0]
        widths = [max(1, i * clips // windows) for i in range(1, windows + 1)]
        expected = [
            torch.sigmoid(states[end - 1] @ model.score.weight[k] + model.score.bias[k])
            for end in range(1, clips + 1)
            for k, width in enumerate(widths)
            if width <= end and width not in widths[k + 1 :]  # equal widths are one window: that of the largest share
        ]
        if clips >= windows:
            torch.testing.assert_close(together[item], torch.stack(expected))
        assert len(together[item]) == len(expected)


def test_a_word_is_completed_from_the_words_before_it_and_the_clips_of_the_window():
    model, collator = model_and_collator()
    batch = batch_of(collator, [1, 2, 3])
    spans = torch.tensor([[[0, 3], [1, 2]], [[2, 9], [8, 9]], [[0, 21], [7, 14]]])
    masked = torch.rand(batch.words.shape) < 0.4
    found = model.complete(batch, spans, masked)
    for item in range(3):
        length = int(batch.word_lengths[item])
        vectors = [model.mask if masked[item, n] else model.embedding(batch.words[item, n]) for n in range(length - 1)]
        mapped = model.word(torch.stack([model.start, *vectors])) + sinusoidal_positions(length, 8)
        for k, (start, end) in enumerate(spans[item].tolist()):
            rows = [start + int((j + 0.5) * (end - start) / 5) for j in range(5)]
            seen = model.clip_stack(model.clip(batch.clips[item, rows])[None])
            torch.testing.assert_close(found[item, k, :length], model.word_stack(mapped[None], seen)[0])


@pytest.mark.parametrize("count", [1, 2, 15])
def test_parts_cover_the_video_by_halves(count):
    lengths = torch.arange(1, 41)
    parts = video_parts(lengths, count)
    for clips, rows in zip(lengths.tolist(), parts.tolist(), strict=True):
        assert {end - start for start, end in rows} == {math.ceil(2 * clips / (count + 1))}
        assert {clip for row in rows for clip in range(*row)} == set(range(clips))
        assert rows == sorted(rows)


@pytest.mark.parametrize("parts", [1, 6])
def test_the_loss_by_parts_is_that_of_the_clips_inside_against_those_around(parts):
    model, collator = model_and_collator(parts=parts, part_clips=2, contrast=0.3, context=0.5)
    batch = batch_of(collator, [1, 2, 3])
    masked = torch.rand(batch.words.shape) < 0.4
    spans = [(0, 3), (1, 2), (0, 9), (2, 4), (3, 9), (0, 21), (7, 14)]
    item = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    found = model.part_losses(batch, torch.tensor(spans), item, masked)
    for i, (start, end), loss in zip(item.tolist(), spans, found.tolist(), strict=True):
        windows = video_parts(batch.clip_lengths, parts)
        each = model.completion_losses(batch, windows, masked, count=2)[i].tolist()
        rows, clips = windows[i].tolist(), int(batch.clip_lengths[i])
        over = [[x for x, (a, b) in zip(each, rows, strict=True) if a <= t < b] for t in range(clips)]
        mean = np.array([np.mean(x) for x in over])
        mean -= mean.mean()
        margin = math.ceil((end - start) / 2)
        around = [t for t in range(max(0, start - margin), min(clips, end + margin)) if not start <= t < end]
        assert loss == pytest.approx(mean[start:end].mean() - 0.3 * (mean[around].mean() if around else 0))


def test_answers_by_completion_are_the_odds_of_the_loss_by_parts():
    model, collator = model_and_collator(parts=6, part_clips=2, answer_by="completion")
    batch = batch_of(collator, [0, 1, 2, 3])
    masked = torch.zeros_like(batch.words, dtype=torch.bool)
    expected = -model.part_losses(batch, batch.spans, batch.structure.node_item, masked)
    torch.testing.assert_close(torch.logit(model(batch)), expected)
    assert not torch.allclose(model(batch), model.ground(batch))
    # Words met after training, as `Grounder` adds them, have a vector and no logit: they are predicted as unknown.
    *_, words = batch.words.shape
    known = model.embedding.num_embeddings
    batch.words = torch.where(torch.arange(words) == 0, known, batch.words)
    with_new, batch.words = batch.words, batch.words.clamp_max(known - 1)
    vectors = model.embedding(batch.words)
    model.embedding.forward = lambda ids: vectors
    batch.words = with_new
    found = model(batch)
    batch.words = torch.where(with_new == known, UNKNOWN, with_new)
    torch.testing.assert_close(found, model(batch))


@pytest.mark.parametrize("clips", [1, 2, 5, 8, 13, 32])
@pytest.mark.parametrize("shares", [1, 3, 8])
def test_windows_that_end_at_each_clip(clips, shares):
    rows = [
        (end - width, end)
        for end in range(1, clips + 1)
        for width in sorted({max(1, int(i * clips / shares)) for i in range(1, shares + 1)})
        if width <= end
    ]
    assert ending_windows(clips, shares).tolist() == [list(row) for row in rows]


def test_a_batch_has_the_importance_of_its_words():
    _, collator = model_and_collator()
    batch = collator([1, 0, 2])
    for row, number in enumerate((1, 0, 2)):
        expected = word_importance(tokenize(TEXTS[number]))
        assert batch.importance[row].tolist() == expected + [0.0] * (batch.words.shape[1] - len(expected))


WORDS = ["model.name=scn", "data.dataset=charades_sta"]


def test_settings_and_name():
    config = load_config(None, [*WORDS, "train.objectives=[scn]"])
    assert model_name(config) == "scn"
    for words, message in (
        ([], "mil pairs items with other sentences"),
        (["train.objectives=[scn]", "ccl.epochs=1"], r"ccl\.epochs needs a GroundingModel, and scn is not one"),
        (
            ["train.objectives=[scn]", "model.width=30"],
            r"model\.width \(30\) must be even and a multiple of model\.heads",
        ),
        (["train.objectives=[scn]", "model.answer_by=completion"], r"needs parts .* give model\.parts=15"),
        (["train.objectives=[scn]", "model.parts=1"], r"model\.parts is 1, and all windows are alike"),
        (["train.objectives=[scn]", "scn.completed=2"], r"scn\.completed: .* give model\.parts, or 0"),
        (["train.objectives=[scn]", "model.parts=3", "scn.completed=4"], r"scn\.completed is 4, but 3 windows are"),
        (["train.objectives=[scn]", "model.hidden=3"], r"model\.hidden is a setting of arn, ign, vgn"),
        (["train.objectives=[scn]", "model.name=vgn"], "scn completes sentences, which vgn cannot do"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(None, [*WORDS, *words])
