"""Closed classes of English: the small words that turn a meaning round, as any grammar lists them.

These classes take no new members, so a list of one is complete; what is open (nouns, verbs, names) comes from WordNet
(`lexicon.py`). Nothing here was taken from pairs of questions.
"""

from __future__ import annotations

from typing import Final


def words_of(text: str) -> list[str]:
    """The words of a list as it is written here."""
    return text.split()


NEGATORS: Final = frozenset(
    words_of(
        "not no never none nobody nothing nowhere neither nor without cannot hardly barely scarcely rarely seldom "
        "isnt arent wasnt werent dont doesnt didnt cant couldnt wont wouldnt shouldnt mustnt hasnt havent hadnt "
        "neednt aint mightnt shant non"
    )
)
"""Words that deny what follows. Contractions are found by their n't as well."""

CLAUSES: Final = frozenset(
    words_of(
        "and but nor because while although though unless if since when where who whom which that than then yet so"
    )
)
"""Words that begin another clause, to which a denial does not reach. `Or` carries it on: no sugar or milk."""

NEGATIVE_PREFIXES: Final = ("non", "dis", "mis", "un", "in", "im", "il", "ir")
"""Prefixes that deny a word: only where dictionary and opposites bear it out (`facts.py`)."""

_OPPOSITES: Final = (
    ("in inside into within", "out outside"),
    ("on onto", "off"),
    ("up upward upwards", "down downward downwards"),
    ("to toward towards into", "from"),
    ("before until till by prior within during", "after since"),
    ("with including", "without except excluding"),
    ("above over", "below under beneath underneath"),
    ("within", "beyond"),
    ("more", "less fewer"),
    ("most", "least fewest"),
    (
        "all every each always everything everyone everybody everywhere both",
        "none no never nothing nobody nowhere neither",
    ),
    (
        "all every each always everything everyone everybody everywhere",
        "some any sometimes ever anything anyone somebody",
    ),
    ("many much", "few little"),
    ("next following", "last previous prior"),
    ("first", "last second"),
    ("here", "there"),
    ("my mine our ours", "your yours"),
    ("same", "different other another"),
    ("and both", "or either"),
    ("if when", "unless"),
    ("for", "against"),
    ("sooner earlier", "later"),
    ("before formerly", "now currently"),
    ("max maximum", "min minimum"),
    ("ahead forward forwards", "back backward backwards behind"),
    ("near", "far"),
)

OPPOSITES: Final = frozenset(
    pair
    for one, other in _OPPOSITES
    for left in one.split()
    for right in other.split()
    for pair in ((left, right), (right, left))
    if left != right
)
"""Pairs of small words that are opposed, both ways round."""

QUESTION_WORDS: Final = {
    "who": "who", "whom": "who", "whose": "whose", "when": "when", "where": "where", "why": "why", "how": "how",
}  # fmt: skip
"""What is asked for. `what` and `which` stand for many things, and are left out."""

DEGREES: Final = frozenset(words_of("many much long often far old big tall deep high fast soon late large wide heavy"))
"""After `how` they say what is asked for: `how long` and `how often` want other answers."""

RESTRICTORS: Final = frozenset(
    words_of(
        "only solely exclusively except excluding besides unless instead both either neither self pre anti semi ex"
    )
)
"""Words, and prefixes before a hyphen, that narrow what is said, so that both texts must have them."""

THIRD_PERSONS: Final = {
    "he": "m", "him": "m", "his": "m", "himself": "m", "she": "f", "her": "f", "hers": "f", "herself": "f",
    "they": "p", "them": "p", "their": "p", "theirs": "p", "themselves": "p",
}  # fmt: skip
"""Somebody else's matter, so that both texts must have it."""

PERSONS: Final = THIRD_PERSONS | {
    "i": "1", "me": "1", "my": "1", "mine": "1", "myself": "1", "you": "2", "your": "2", "yours": "2", "yourself": "2",
    "we": "1s", "us": "1s", "our": "1s", "ours": "1s", "it": "n", "its": "n", "itself": "n",
}  # fmt: skip
"""Pronouns, as the person they stand for: `did he call her` is not `did she call him`."""

SUBJECTS: Final = frozenset(PERSONS) | frozenset(words_of("the a an this that these those there all any some"))
"""Words that begin a subject: behind a verb that denies (`isn't my card`) what is denied comes after it."""

MODALS: Final = {
    "must": "must", "shall": "must", "need": "must", "needs": "must", "required": "must", "should": "should",
    "ought": "should", "can": "can", "could": "can", "may": "can", "might": "can", "able": "can",
}  # fmt: skip
"""Duty, advice and ability: `must I` is answered otherwise than `can I`. Of the future nobody asks by `will` alone."""

DIRECTIONS: Final = frozenset(
    words_of(
        "from to into onto than before after over under above below by for without against versus vs as like behind"
    )
)
"""Prepositions whose two sides cannot change places."""

PREPOSITIONS: Final = DIRECTIONS | frozenset(
    words_of(
        "of in on at upon within inside outside about with via through between among amid during until till since "
        "toward towards beneath underneath beside near past beyond across along up down off out per"
    )
)
"""Words that lead to what follows them. Another one before the same word is a difference, but for these:"""

_SAME_PREPOSITIONS: Final = (
    "to into onto toward towards", "in on at upon within inside", "of for", "of in", "of on", "of at", "of about",
    "about on", "over above", "under below beneath underneath", "via through", "via by", "via with", "until till",
    "between among amid", "beside near",
)  # fmt: skip
SAME_PREPOSITIONS: Final = frozenset(
    (one, other) for group in _SAME_PREPOSITIONS for one in group.split() for other in group.split() if one != other
)

AFTER_ARTICLE: Final = frozenset(
    words_of("few very most more just no not once only so then too well same must over under")
)
"""Small words that may follow `a`; before any other one it is a letter: `vitamin a in milk`."""

CLIPPED: Final = frozenset(
    words_of(
        "don isn aren wasn weren doesn didn won wouldn shouldn couldn hasn haven hadn ain can i you he she it we they "
        "that this there here what who where when how let"
    )
)
CLIPPED_ENDINGS: Final = frozenset(words_of("s t d m"))
"""What is left of `don't` and `it's` where the apostrophe is missing, and before what."""

INTERJECTIONS: Final = frozenset(
    words_of(
        "um uh er erm ehm hmm mm oh ah eh well so hi hello hey thanks thank please ok okay yes yeah yep cheers sorry"
    )
)
"""Words that say nothing of the matter."""

FUNCTION_WORDS: Final = (
    frozenset(
        words_of(
            "a an the i me my mine myself we us our ours you your yours yourself he him his himself she her hers "
            "herself it its itself they them their theirs this that these those who whom whose what which when where "
            "why how be am is are was were been being have has had having do does did doing done can could may might "
            "must shall should will would ought and or but if while because as until than though although unless "
            "since whether of at by for with about against between into through during before after above below to "
            "from up down in out on off over under again then once here there all any both each few more most other "
            "some such no nor not only own same too very just also via per else let lets get got upon within without "
            "among amid onto toward towards s t d m ll re ve don isn aren wasn weren doesn didn won wouldn shouldn "
            "couldn hasn haven hadn ain anybody anyone anything anywhere everybody everyone everything everywhere "
            "nobody none nothing nowhere somebody someone something somewhere ever never always often sometimes "
            "whoever whatever whichever whenever wherever however id im ive youre theyre hes shes whats hows wheres "
            "whos thats theres"
        )
    )
    | INTERJECTIONS
)
"""Words without a content of their own."""
