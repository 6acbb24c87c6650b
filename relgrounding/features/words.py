"""Parts of speech and importance of words, by lists and endings.

The lists cover the frequent words of grounding data sets: expressions for objects, and short descriptions of actions.
A word is looked up in this order, and the first answer counts:

1. closed classes, words of place, adjectives, adverbs, nouns that look like other words, irregular forms of verbs;
2. regular forms of verbs; if the verb is also a noun, the word before decides: "the walk", "in water" are nouns,
   "person walks", "to walk" are verbs;
3. comparatives of the adjectives, endings: -ly adverb, -ing verb, -ed, -less, -ish, -most and similar adjective;
4. everything else is a noun.
"""

from collections.abc import Sequence

CLOSED = frozenset(
    """
    a an the this another both that these those each every all some any no either neither such what which whose i me my
    mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours they them
    their theirs themselves who whom one ones someone somebody something anyone anybody anything everyone everybody
    everything nothing nobody oneself in on at by with of to from into onto over under above below behind beside besides
    between among near next against along across through around towards toward upon off out up down about after before
    during for like without within inside outside underneath beneath past per until till since than as via beyond
    amongst throughout despite except and or but nor so yet if while because when where why how whether although though
    unless is are was were am be been being do does did done has have had can could will would shall should may
    might must cant can't cannot don't dont doesn't didn't isn't aren't wasn't won't hasn't haven't couldn't wouldn't
    he's she's it's that's they're there's i'm who's what's let's thats theres hes shes zero two three four five six
    seven eight nine ten eleven twelve twenty thirty there 's s t d o w r l b n u x oh ok okay please lol sorry hmm etc
    """.split()  # noqa: SIM905 (lists of words are read as text)
)
"""Determiners, pronouns, prepositions and particles, conjunctions, auxiliaries, cardinal numbers, interjections."""

ADVERBS = frozenset(
    """
    not n't never again then now once twice always often sometimes soon later already still just only also too very
    really quite almost nearly away together apart forth forwards backward backwards sideways upwards downwards upright
    aside ahead here somewhere everywhere else even ever instead maybe perhaps more most least much outdoors indoors
    upstairs downstairs alone completely straightaway first firstly lastly afterwards afterward meanwhile partly rather
    therefore however thus yesterday today upside halfway
    """.split()  # noqa: SIM905
)

ADJECTIVES = frozenset(
    """
    red orange yellow green blue purple pink brown black white gray grey beige tan gold golden silver maroon teal navy
    khaki blond blonde brunette olive turquoise violet lavender blk wht other big small large little tiny huge tall
    short long wide narrow thin fat thick skinny slim high low deep heavy giant medium massive old young new adult
    elderly teenage asian bald hairy curly shaggy fluffy furry fuzzy cute pretty handsome beautiful ugly weird odd
    different same similar alike upper lower central leftmost rightmost rightest far main last second third fourth fifth
    sixth seventh final inner outer outermost dark bright shiny dull pale clear blurry visible hidden dim colorful
    colourful striped stripey stripy plaid checkered checked plain solid floral polka spotted patterned open close shut
    full empty whole half complete partial single double triple multiple several many few certain various entire
    individual flat round square curved straight bent horizontal vertical diagonal sharp loose tight hot cold warm cool
    wet dry dirty clean fresh raw ripe cooked frozen rotten sour sweet spicy soft hard smooth rough happy sad angry mad
    tired sick asleep awake ready busy dead able good bad better best worse worst nice great fine real true wrong easy
    difficult quick slow fast quiet loud calm free safe own barefoot bare naked nude shirtless topless sleeveless male
    female wooden metal metallic plastic leather rectangular circular triangular oval extreme professional indoor
    outdoor american british chinese japanese live closest nearest farthest furthest closer nearer farther further
    """.split()  # noqa: SIM905
)

NOUNS = frozenset(
    """
    thing things building buildings clothing ceiling morning evening king wings railing wedding parking painting opening
    icing frosting topping toppings stuffing pudding bowling skiing wrestling earring earrings awning siding duckling
    sibling bed shed sled kid bread thread seed weed shred family belly jelly bully lily butterfly dolly trolley supply
    assembly bus glass glasses grass dress class boss moss gas lens canvas pants shorts jeans sunglasses scissors stairs
    clothes goggles headphones news dumbbells binoculars series species tennis hips legs arms hands feet eyes ears table
    bible cable vegetable people person man men woman women guy girl boy child children baby animal signal medal pedal
    petal meal seal hospital material arrival festival cereal fabric traffic music mic picnic comic hive native motive
    archive dish radish fish jellyfish starfish rubbish relish background foreground group row line bunch pair piece
    part picture image screen camera host guest forest vest nest chest west east breast dentist artist priest hour
    minute time times day night year lady ladies room stove sofa couch doorway laptop phone homework laundry hi-hat meat
    mat bean wife teddy
    """.split()  # noqa: SIM905
)
"""Nouns whose ending, or whose likeness to a verb or an adjective, would mislead."""

VERBS = frozenset(
    """
    take put open close hold hide wait eat sit stand lie lay throw wear walk run sneeze tidy undress awaken grab begin
    start stop continue get give go come see show look watch carry bring remove pour wash snuggle laugh smile talk speak
    sing listen read write sleep wake lean kneel bend crouch squat reach touch pull push lift raise drop pick fix hang
    turn leave enter jump leap skip climb crawl swim dive ride drive fly sail catch hit kick toss serve play perform
    demonstrate display explain describe appear happen seem become keep stay try attempt make cook prepare bake boil fry
    stir mix chop peel slice add blend spread sprinkle wipe scrub sweep vacuum rinse dust build assemble attach connect
    cut trim shave paint draw fold wrap unwrap pack unpack zip tie untie button celebrate cheer clap wave hug kiss fight
    wrestle punch spar spin swing twirl flip roll slide skate skateboard ski surf snowboard paddle kayak sled bike cycle
    jog exercise stretch balance land fall slip crash win lose score bow pose follow chase lead move shake nod point
    gesture interview tell say ask answer call work rest relax smoke light burn graze feed pet groom brush comb use need
    want love think know find search help teach learn switch flick press click type dial text adjust set place arrange
    organize empty fill unload load drink sip chew bite swallow lick taste smell cough sniff cry yell scream shout grin
    stare glance gaze glimpse peek seat park drag dump shovel dig plant water mow rake shoot aim hurl pitch bat bounce
    dribble dunk rub scratch iron hammer drill sand saw nail pump inflate tow tug march parade race compete practice
    train coach dance sew knit weave carve film record snap capture zoom pan fade introduce present end finish complete
    decorate awake rise spray splash blow suck spit float sink cover uncover lock unlock knock ring straighten repair
    stack block surround proceed return approach pass cross exit arrive travel journey gather join meet greet separate
    split break crack tear rip pile obscure stripe dismount decide create let vary dress allow indicate collect examine
    discuss select insert assist handle wander hop lunge dodge strike struggle pause change hum whistle chat argue cheat
    cuddle hunt herd peer roam trot gallop neigh bark steal borrow loan hurry rush bang swipe tap trip tuck untangle
    undo rewind shift sort steep strum tune wade wag wiggle steer strap buckle scoop dip squeeze grind pound mash whisk
    beat garnish drizzle curl shampoo braid pierce tattoo apply polish clean
    """.split()  # noqa: SIM905
)

NOUN_OR_VERB = frozenset(
    """
    walk run jump ride drive fly dive swim sail row catch hit kick play display show look watch turn drop cook fry slice
    mix spread dust cut paint fold wrap pack dress zip tie button cheer wave hug kiss fight punch fence spin swing flip
    roll slide skate skateboard ski surf snowboard paddle kayak sled bike cycle exercise stretch balance land fall score
    pose face lead move shake point interview call work rest smoke light feed pet groom brush comb use help switch press
    type text set place drink bite taste smell cough cry stare glance park dump shovel plant water rake shoot pitch bat
    bounce pump iron hammer drill sand saw nail race practice train coach dance film record snap zoom pan end finish
    spray splash float sink cover lock stack block return pass cross exit travel split break crack tear pile stripe
    color colour line top head mount pedal strap buckle seal scoop dip season style curl shampoo tattoo polish grin
    smile laugh talk start stop step plate bowl board hand house shop book fish ball bottle box seat guard edge sweat
    toast cup foot leaf screen camera shot sweep rock share control ship rope hook spot dot flower sign truck cart bar
    base broom circle vacuum
    """.split()  # noqa: SIM905
)

IRREGULAR = frozenset(
    """
    doing having took taken ate eaten sat stood held threw thrown wore worn began begun ran gave given went gone came
    saw seen shown brought wrote written slept woke woken awoke knelt hung rode ridden drove driven flew flown swam dove
    caught kept made drew drawn built fought spun swung slid fell fallen won lost led shook shaken told said thought
    knew known found taught blew blown spat sank sunk rose risen broke broken tore torn met beaten fed shot dug lit got
    gotten laid lain lying dying tying spoke spoken sang sung felt sent spent sold bought paid heard understood became
    hid bit bitten ground wound stuck swept wept slit forgot chose chosen
    """.split()  # noqa: SIM905
)

PLACES = frozenset("left right top bottom middle mid front back side rear center centre".split())  # noqa: SIM905
"""Nouns if nothing that they could describe follows ("on the left"), else adjectives ("the left man")."""

RELATIVE = frozenset(
    """
    other same different similar alike next closest nearest farthest furthest closer nearer farther further far near
    main last second third fourth fifth sixth seventh final upper lower central leftmost rightmost rightest mid
    outer outermost inner opposite whole entire several many few certain various multiple partial half
    """.split()  # noqa: SIM905
)
"""Adjectives of place, order and amount: they tell a thing by others, not by how it looks."""

_BEFORE_NOUNS = frozenset(
    """
    a an the this that these those each every all both some any no another his her its their our my your whose 's in on
    at by with of from into onto over under above below behind beside besides between near against along across through
    around for like without inside outside underneath beneath two three four five six seven eight nine ten
    """.split()  # noqa: SIM905
)
_BEFORE_VERBS = frozenset(
    """
    to can could will would shall should may might must cant can't cannot don't dont doesn't didn't won't couldn't i you
    we they he she it who which that
    """.split()  # noqa: SIM905
)
_BE = ("is", "are", "was", "were", "be")
_ADJECTIVE_ENDINGS = ("less", "ish", "most", "ous", "ful", "able", "ible", "ward", "ed")


def parts_of_speech(tokens: Sequence[str]) -> list[str]:
    """Return the part of speech of each word of a sentence: "NOUN", "VERB", "ADJ", "ADV" or "OTHER".

    Cardinal numbers, auxiliaries and particles ("up" in "picks up") are "OTHER"; ordinal numbers are "ADJ"; participles
    are "VERB" unless listed as adjectives. Words of other languages are "NOUN".

    Args:
        tokens: as `relgrounding.features.tokenize` returns them: lower case, no punctuation.

    >>> parts_of_speech(["a", "tall", "woman", "slowly", "opens", "the", "door"])
    ['OTHER', 'ADJ', 'NOUN', 'ADV', 'VERB', 'OTHER', 'NOUN']
    >>> parts_of_speech(["drinks", "on", "the", "table"]), parts_of_speech(["she", "drinks", "water"])
    (['NOUN', 'OTHER', 'OTHER', 'NOUN'], ['OTHER', 'VERB', 'NOUN'])
    """
    tags: list[str] = []
    for i, word in enumerate(tokens):
        before = tokens[i - 1] if i else ""
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        tags.append(_tag(word, before, tags[-1] if tags else "", after))
    return tags


def word_importance(tokens: Sequence[str]) -> list[float]:
    """Return the weight with which each word of a sentence is drawn for reconstruction.

    Nouns, verbs, adjectives and adverbs weigh 2, all others 1.

    Args:
        tokens: as for `parts_of_speech`.

    Source: Lin et al., Weakly-Supervised Video Moment Retrieval via Semantic Completion Network, AAAI 2020.

    >>> word_importance(["a", "man", "in", "red"])
    [1.0, 2.0, 1.0, 2.0]
    """
    return [1.0 if tag == "OTHER" else 2.0 for tag in parts_of_speech(tokens)]


def attribute_words(words: Sequence[str], most: int) -> list[str]:
    """Return the first words that are attributes: adjectives by themselves, without words of place and order.

    Left out are `PLACES`, ordinal numbers, and those that compare what an image shows ("other", "closest").

    Args:
        words: all different, the most frequent first, as `Vocabulary.to_list` returns them.
        most: maximum number of attribute words.

    >>> attribute_words(["the", "left", "white", "man", "second", "closest", "tall"], 2)
    ['white', 'tall']
    """
    found = (word for word in words if word not in PLACES | RELATIVE and parts_of_speech([word]) == ["ADJ"])
    return [word for word, _ in zip(found, range(most), strict=False)]


def _tag(word: str, before: str, tag_before: str, after: str) -> str:
    if word[0].isdigit():
        return "ADJ" if word.endswith(("st", "nd", "rd", "th")) else "OTHER"
    if word in CLOSED:
        return "OTHER"
    if word in PLACES:
        if tag_before == "VERB":
            return "ADV"
        named = before in _BEFORE_NOUNS or tag_before == "ADJ"
        return "NOUN" if named and (not after or after in CLOSED) else "ADJ"
    if word.endswith("ing") and before in _BE:
        return "VERB"
    base = _base(word)
    to_verb = base is not None and before in _BEFORE_VERBS
    if word in ADJECTIVES and not to_verb:
        return "ADJ"
    if word in ADVERBS:
        return "ADV"
    if word in NOUNS:
        return "NOUN"
    if word in IRREGULAR:
        return "VERB"
    if base is not None:
        return _noun_or_verb(word, base, before, tag_before)
    return "ADJ" if _is_compared(word) else _by_ending(word)


def _noun_or_verb(word: str, base: str, before: str, tag_before: str) -> str:
    """Return the tag of a regular form of a known verb."""
    if base not in NOUN_OR_VERB or word.endswith(("ing", "ed")) or before in _BEFORE_VERBS:
        return "VERB"
    if before in _BEFORE_NOUNS or tag_before in ("", "ADJ", "VERB"):
        return "NOUN"
    # "person walks", "people walk", "walks and talks"; but "tennis bat".
    plural = before in ("people", "men", "women", "children") or (
        before.endswith("s") and before[-2:] not in ("ss", "us")
    )
    return "VERB" if word != base or (base in VERBS and (plural or before == "and")) else "NOUN"


def _base(word: str) -> str | None:
    """Return the known verb of which this is a regular form, or None."""
    for candidate in (word, *_stems(word, ("ing", "ed", "es", "s"))):
        if candidate in VERBS or candidate in NOUN_OR_VERB:
            return candidate
    return None


def _stems(word: str, endings: Sequence[str]) -> list[str]:
    """Return the words that regular spelling makes into this one by one of the endings."""
    stems = []
    for ending in endings:
        stem = word.removesuffix(ending)
        if len(stem) < 2 or stem == word:
            continue
        stems += [stem, stem + "e"]
        if stem[-1] == "i":
            stems.append(stem[:-1] + "y")
        if len(stem) > 3 and stem[-1] == stem[-2]:
            stems.append(stem[:-1])
    return stems


def _is_compared(word: str) -> bool:
    """Whether this is the comparative or superlative of a known adjective."""
    return any(stem in ADJECTIVES for stem in _stems(word, ("er", "est")))


def _by_ending(word: str) -> str:
    if word.endswith("ly") and len(word) > 4:
        return "ADV"
    if word.endswith("ing") and len(word) > 5:
        return "VERB"
    return "ADJ" if word.endswith(_ADJECTIVE_ENDINGS) and len(word) > 4 else "NOUN"
