import doctest
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.features import parts_of_speech, tokenize, word_importance, words

# Tagged by hand: n noun, v verb, a adjective, r adverb, o other.
TAGGED = {
    "a person is putting a book on a shelf": "onovonoon",
    "person they take a towel from the shelf": "novonoon",
    "the person runs to the window to look out": "onvoonovo",
    "person awakens in their bed": "nvoon",
    "person sits down on the couch and turns on the television": "nvooonovoon",
    "a person is opening the door slowly": "onovonr",
    "another person starts laughing and walks away": "onvvovr",
    "he puts the skateboard down and begins skating on an asphalt road": "ovonoovvoonn",
    "two girls stand between a girl in a hair salon stool": "onvoonoonnn",
    "the woman and the man dance tango together while the man talks": "onoonvnroonv",
    "a large group of people are seen running around a gym": "oanonovvoon",
    "we then see the players celebrate in the field": "orvonvoon",
    "he continues to push the snow along the yard once again": "ovovonoonrr",
    "man on left": "non",
    "guy on the far left in the blue shirt": "nooanooan",
    "left giraffe": "an",
    "2nd zebra from right": "anon",
    "bottom right corner bowl of broccoli": "aannon",
    "kid wearing pink shorts": "nvan",
    "tallest one not facing us": "aorvo",
    "elephant in center with trunk up": "nonono",
    "the smaller of the two bears": "oaooon",
    "woman in striped shirt holding a tennis racket": "noanvonn",
    "a brown and white terrier looks at its reflection in a mirror": "oaoanvoonoon",
    "the wooden chair next to the white table": "oanoooan",
    "a shirtless man riding a wave on a surfboard": "oanvonoon",
    "empty chair closest to camera": "anaon",
    "slice of pizza with the least cheese": "nonoorn",
    "person drinks some water": "nvon",
    "the drinks on the table": "onoon",
}
LETTERS = {"NOUN": "n", "VERB": "v", "ADJ": "a", "ADV": "r", "OTHER": "o"}


def test_sentences_of_the_data_sets():
    wrong, total, content = [], 0, 0
    for text, tags in TAGGED.items():
        found = "".join(LETTERS[tag] for tag in parts_of_speech(tokenize(text)))
        assert len(found) == len(tags), text
        total += len(tags)
        wrong += [
            (text, word, want, got) for word, want, got in zip(text.split(), tags, found, strict=True) if want != got
        ]
        content += sum((want == "o") != (got == "o") for want, got in zip(tags, found, strict=True))
    assert len(wrong) <= 0.02 * total, wrong
    assert content == 0, wrong


def test_every_word_is_in_one_list():
    lists = {name: getattr(words, name) for name in ("CLOSED", "ADVERBS", "ADJECTIVES", "NOUNS", "PLACES", "IRREGULAR")}
    for (one, first), (other, second) in combinations(lists.items(), 2):
        assert not first & second, (one, other)
    assert not words.CLOSED & (words.VERBS | words.NOUN_OR_VERB)


def test_importance():
    assert word_importance(["a", "man", "in", "red", "slowly", "sits", "on", "it"]) == [1, 2, 1, 2, 2, 2, 1, 1]
    assert word_importance([]) == []


@given(st.text())
def test_any_text_has_tags(text):
    tokens = tokenize(text)
    assert len(parts_of_speech(tokens)) == len(tokens) == len(word_importance(tokens))


def test_examples_in_docstrings():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize("text", ["человек открывает дверь", "人がドアを開ける"])
def test_words_of_other_languages_are_nouns(text):
    assert set(parts_of_speech(tokenize(text))) == {"NOUN"}
