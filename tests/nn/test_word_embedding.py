import torch

from relgrounding.nn import WordEmbedding, trained_embedding

VECTORS = torch.tensor([[torch.nan] * 3, [torch.inf] * 3, [1.0, 2, 3], [3.0, 2, 1]])


def test_each_word_has_its_row_unknown_words_share_one_and_padding_is_zero():
    found = WordEmbedding(VECTORS)(torch.tensor([[2, 3, 1], [3, 0, 0]]))
    assert found.tolist() == [[[1, 2, 3], [3, 2, 1], [2, 2, 2]], [[3, 2, 1], [0, 0, 0], [0, 0, 0]]]


def test_only_the_vector_of_unknown_words_is_trained():
    module = WordEmbedding(VECTORS)
    assert [name for name, _ in module.named_parameters()] == ["unknown"]
    module(torch.tensor([[2, 1, 0], [1, 0, 0]])).sum().backward()
    assert module.unknown.grad.tolist() == [2, 2, 2]


def test_the_table_is_kept_with_the_weights_and_apart_from_its_source():
    source = VECTORS.clone()
    module, other = WordEmbedding(source), WordEmbedding(torch.zeros(4, 3))
    source.zero_()
    other.load_state_dict(module.state_dict())
    words = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(other(words), module(words), rtol=0, atol=0)
    assert other(words)[0, 1].tolist() == [1, 2, 3]


def test_a_table_without_known_words_and_an_empty_batch():
    assert WordEmbedding(VECTORS[:2])(torch.tensor([[1, 0]])).tolist() == [[[0, 0, 0], [0, 0, 0]]]
    assert WordEmbedding(VECTORS)(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, 3)


def test_a_trained_table_starts_as_documented_and_its_padding_stays_zero():
    table = trained_embedding(400, 100)
    torch.testing.assert_close(table.weight[1:].std(), torch.tensor(1.0), rtol=0.05, atol=0)
    assert (table.weight[0] == 0).all()
    table(torch.tensor([0, 1])).sum().backward()
    assert (table.weight.grad[0] == 0).all()
    assert (table.weight.grad[1] == 1).all()
