import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.graphs import window_proposals
from relgrounding.nn import ProposalPooling

reductions = pytest.mark.parametrize("reduce", ["max", "mean"])


def pool_loop(clips, spans, item, reduce):
    rows = [clips[i, s:e] for i, (s, e) in zip(item.tolist(), spans.tolist(), strict=True)]
    return torch.stack([row.amax(0) if reduce == "max" else row.mean(0) for row in rows])


@st.composite
def spans_of_videos(draw):
    clips, videos = draw(st.integers(1, 20)), draw(st.integers(1, 3))
    start = st.integers(0, clips - 1)
    one = start.flatmap(lambda s: st.tuples(st.integers(0, videos - 1), st.just(s), st.integers(s + 1, clips)))
    rows = torch.tensor(draw(st.lists(one, min_size=1, max_size=10)))
    return videos, clips, rows[:, 1:].contiguous(), rows[:, 0].contiguous()


@reductions
@given(case=spans_of_videos(), seed=st.integers(0, 99))
def test_equals_a_loop_with_its_gradient(reduce, case, seed):
    videos, length, spans, item = case
    torch.manual_seed(seed)
    clips = torch.randn(videos, length, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(item), 3, dtype=torch.float64)
    out, expected = ProposalPooling(reduce)(clips, spans, item), pool_loop(clips, spans, item, reduce)
    torch.testing.assert_close(out, expected, rtol=0 if reduce == "max" else 1e-12, atol=1e-12 * (reduce == "mean"))
    gradients = [torch.autograd.grad((x * weight).sum(), clips)[0] for x in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@reductions
def test_gradcheck(reduce):
    clips = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    spans, item = torch.tensor([[0, 7], [1, 2], [2, 5], [0, 4]]), torch.tensor([0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda x: ProposalPooling(reduce)(x, spans, item), clips)


@reductions
def test_a_video_of_one_clip(reduce):
    clips = torch.randn(1, 1, 4)
    spans = torch.as_tensor(window_proposals(1, (2, 4), 1))
    torch.testing.assert_close(ProposalPooling(reduce)(clips, spans, torch.zeros(len(spans)).long()), clips[0])


def test_mean_of_many_clips_keeps_its_digits():
    clips = torch.full((1, 20_000, 1), 1000.1)
    out = ProposalPooling("mean")(clips, torch.tensor([[19_999, 20_000]]), torch.tensor([0]))
    torch.testing.assert_close(out, clips[0, :1])


@reductions
def test_no_proposals(reduce):
    out = ProposalPooling(reduce)(torch.zeros(2, 3, 4), torch.zeros(0, 2).long(), torch.zeros(0).long())
    assert out.shape == (0, 4)


@pytest.mark.parametrize("span", [[2, 2], [-1, 2], [3, 9]])
def test_a_wrong_span_is_named(span):
    with pytest.raises(ValueError, match=rf"proposal 1 is the span \[{span[0]}, {span[1]}\]; .* 0 <= start < end <= 8"):
        ProposalPooling("mean")(torch.zeros(1, 8, 1), torch.tensor([[0, 1], span]), torch.tensor([0, 0]))


def test_a_wrong_item_and_a_wrong_reduction_are_named():
    with pytest.raises(ValueError, match="proposal 0 belongs to item 1; there are 1"):
        ProposalPooling()(torch.zeros(1, 8, 1), torch.tensor([[0, 1]]), torch.tensor([1]))
    with pytest.raises((ValueError, TypeError)):
        ProposalPooling("median")


def pool_with_contrast(clips, spans, item, lengths, contrast, context):
    rows = []
    for video, (start, end) in zip(item.tolist(), spans.tolist(), strict=True):
        margin = math.ceil((end - start) * Fraction(repr(context)))
        length = int(lengths[video])
        inside = clips[video, start:end].mean(0)
        around = torch.cat(
            [clips[video, max(0, start - margin) : start], clips[video, end : min(length, end + margin)]]
        )
        rows.append(inside - contrast * around.mean(0) if len(around) else inside)
    return torch.stack(rows)


@given(case=spans_of_videos(), contrast=st.floats(0.1, 1), context=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
def test_contrast_equals_a_loop_with_its_gradient(case, contrast, context):
    videos, length, spans, item = case
    clips = torch.randn(videos, length, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(item), 3, dtype=torch.float64)
    lengths = torch.zeros(videos).long().scatter_reduce(0, item, spans[:, 1], "amax")
    out = ProposalPooling("mean", contrast, context)(clips, spans, item, lengths)
    expected = pool_with_contrast(clips, spans, item, lengths, contrast, context)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((x * weight).sum(), clips)[0] for x in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("context", "width"), [(0.6, 25), (0.3, 50), (0.15, 100), (0.07, 100), (0.3, 90)])
def test_the_context_has_as_many_clips_as_its_decimal_says(context, width):
    margin = math.ceil(width * Fraction(repr(context)))
    clips = torch.zeros(1, 300, 1)
    clips[0, 100 - margin - 1] = 1
    spans = torch.tensor([[100, 100 + width]])
    pool = ProposalPooling("mean", contrast=0.5, context=context)
    assert pool(clips, spans, torch.zeros(1).long()).item() == 0
    assert pool(clips.roll(1, 1), spans, torch.zeros(1).long()).item() == pytest.approx(-0.5 / (2 * margin))


def test_contrast_by_hand():
    clips = torch.tensor([[[0.0], [0.0], [1.0], [1.0], [1.0], [1.0], [0.0], [0.0]]])
    spans = torch.tensor([[2, 6], [2, 4], [3, 5], [0, 8], [0, 2]])
    out = ProposalPooling("mean", contrast=0.5)(clips, spans, torch.zeros(5).long())
    # The event itself; its first half, with one clip of 0 and one of 1 around; its middle; the whole video; beside it.
    assert out.flatten().tolist() == [1.0, 0.75, 0.5, 0.5, -0.5]


@given(start=st.integers(0, 15), width=st.integers(1, 16), contrast=st.floats(0.05, 0.95))
def test_no_window_has_more_contrast_than_the_event_itself(start, width, contrast):
    clips = torch.zeros(1, 32, 1, dtype=torch.float64)
    clips[0, start : start + width] = 1
    spans = torch.tensor([(s, e) for s in range(32) for e in range(s + 1, 33)])
    pooled = ProposalPooling("mean", contrast)(clips, spans, torch.zeros(len(spans)).long()).flatten()
    event = int((spans == torch.tensor([start, start + width])).all(1).nonzero())
    assert (pooled[torch.arange(len(spans)) != event] < pooled[event]).all()


def test_what_lies_beyond_the_context_and_the_video_is_not_read():
    clips = torch.full((1, 12, 1), torch.nan)
    clips[0, 5:9] = torch.tensor([[4.0], [3.0], [1.0], [2.0]])
    pooling = ProposalPooling("mean", contrast=0.5, context=0.5)
    assert pooling(clips[:, 5:], torch.tensor([[1, 3]]), torch.tensor([0]), torch.tensor([3])).item() == 0
    out = pooling(clips[:, 5:], torch.tensor([[1, 3]]), torch.tensor([0]), torch.tensor([4]))
    assert out.item() == 2 - 0.5 * 3


@pytest.mark.parametrize("kind", [("max", 0.5), ("mean", 1.5), ("mean", -0.1), ("mean", math.nan)])
def test_a_contrast_that_cannot_be_is_named(kind):
    with pytest.raises(ValueError, match=r"contrast is .*; it is from 0 to 1, and 0 unless reduce is 'mean'"):
        ProposalPooling(*kind)
    with pytest.raises(ValueError, match=r"context is 0\.0; it is a share of a proposal's width, above 0"):
        ProposalPooling("mean", 0.5, 0.0)
