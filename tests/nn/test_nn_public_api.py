from relgrounding import nn


def test_public_api():
    assert nn.__all__ == [
        "BiGRUEncoder",
        "EdgeGatedGCN",
        "EdgeSimilarity",
        "GatedFusion",
        "GatedSum",
        "GraphAttention",
        "ProposalPooling",
        "ProposalToWordAttention",
        "RelationalComparison",
        "TopRScore",
        "WordEmbedding",
        "pad_nodes",
        "trained_embedding",
    ]
    assert all(callable(getattr(nn, name)) for name in nn.__all__)
