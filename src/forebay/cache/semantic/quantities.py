"""Numbers, units and dates of a text, in a form in which equal things are equal: 1,000 and 1k, kg and kilograms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Final, NamedTuple

from forebay.cache.semantic.grammar import FUNCTION_WORDS, words_of
from forebay.cache.semantic.sequence import Named, in_sequence
from forebay.cache.semantic.signs import OPERATORS
from forebay.cache.semantic.tokens import Token

_ONES: Final = {
    word: number
    for number, word in enumerate(
        words_of(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen"
        )
    )
}
_TENS: Final = {
    word: 10 * number
    for number, word in enumerate(words_of("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
_SCALES: Final = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS: Final = {
    word: number
    for number, word in enumerate(
        words_of("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), start=1
    )
}
_FRACTIONS: Final = {
    "half": "0.5", "halves": "0.5", "quarter": "0.25", "double": "2", "twice": "2", "triple": "3", "thrice": "3",
    "once": "1", "dozen": "12", "couple": "2",
}  # fmt: skip
_SUFFIXES: Final = {"k": 10**3, "m": 10**6, "mn": 10**6, "mio": 10**6, "bn": 10**9, "b": 10**9}
ORDINAL_ENDINGS: Final = frozenset(("st", "nd", "rd", "th"))

_UNITS: Final = (
    "mm millimetre millimeter|cm centimetre centimeter|m metre meter|km kilometre kilometer|inch inches|ft foot feet|"
    "yd yard|mile mi|acre|hectare ha|mg milligram|g gram gramme|kg kilo kilogram kilogramme|tonne|ton|oz ounce|"
    "lb pound lbs|st stone|ml millilitre milliliter|cl centilitre centiliter|l litre liter|gal gallon|pt pint|qt quart|"
    "cup|tbsp tablespoon|tsp teaspoon|ms millisecond|sec s secs seconds|min minute mins|hr h hour hrs hourly|"
    "day daily|week weekly|fortnight fortnightly|month monthly|quarterly|year yr yrs yearly annual annually|decade|"
    "century centuries|degree °|°c c celsius centigrade|°f f fahrenheit|kelvin|v volt|a amp ampere|w watt|kw kilowatt|"
    "kwh|mah|hz hertz|khz kilohertz|mhz megahertz|ghz gigahertz|bit|byte|kb kilobyte|mb megabyte|gb gigabyte|"
    "tb terabyte|kbps|mbps|gbps|j joule|kj|cal calorie|kcal|pa pascal|bar|psi|mph|kph kmh|knot|% percent pct|am|pm|"
    "px pixel|$ usd dollar buck|€ eur euro|£ gbp quid sterling|¥ yen jpy|yuan cny rmb|₹ inr rupee|"
    "chf franc|₽ rub ruble rouble|₩ krw won|cent|penny pence"
)
UNITS: Final = {name: group.split(" ")[0] for group in _UNITS.split("|") for name in group.split(" ")}
"""Names and signs of units, each to one name."""
_ONLY_AFTER_NUMBERS: Final = frozenset(
    words_of(
        "m g l c f v a w h s j b k st min sec second am pm ft mi ha pt qt cl bar won cal pa bit stone cup foot feet "
        "ms lb oz knot yard pound cent"
    )
)
"""Names of units that are other words as well."""
_LEADING: Final = frozenset("$€£¥₹₩₽")
"""Signs of units that stand before their number."""
_NO_MEASURES: Final = _ONLY_AFTER_NUMBERS | frozenset(
    words_of("hourly daily weekly fortnightly monthly quarterly yearly annually annual")
)
"""Names of units behind which a number may as well be a version or a section: is Python 3.10 a language."""

_DATE_NAMES: Final = (
    "january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sep sept|october oct|"
    "november nov|december dec",
    "monday mon|tuesday tue tues|wednesday wed|thursday thu thur thurs|friday fri|saturday sat|sunday sun|today|"
    "tonight|tomorrow|yesterday|weekend|weekday",
    "morning|noon midday|afternoon|evening|night|midnight",
    "spring|summer|autumn|winter",
    "bc bce|ad ce",
)
"""Kinds of dates; of one kind several may be said of several things."""
_DATES: Final = {
    name: (group.split(" ")[0], kind)
    for kind, names in enumerate(_DATE_NAMES)
    for group in names.split("|")
    for name in group.split(" ")
}
_NEEDS_CAPITAL: Final = frozenset(words_of("may march mar jan mon sat sun wed dec sep ad ce bc spring"))
"""Names of dates that are other words as well: they count with a capital letter within a sentence, or by a number."""

_NUMBER: Final = re.compile(r"(-?\d+(?:[.,]\d+)*)([^\W\d_]*)")
_THOUSANDS: Final = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_PLAIN: Final = re.compile(r"-?\d+(?:\.\d+)?")
_CODE: Final = re.compile(r"-?(?:0\d.*|\d+\.\d*0)")
"""Figures that say more than their value where they do not measure: 0451, and 3.10, which is no 3.1."""
_PADDED: Final = re.compile(r"-?\d+\.(?!\d{3}$)\d*0")
"""A fraction whose last zeros say nothing in a measure. One of three figures may be thousands: 10.000 km."""
_EXACT: Final = Context(prec=MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX)


class Quantities(NamedTuple):
    """Numbers and codes in their order, as they are written but for those that a unit makes a measure. `measured`: the
    units that stand beside a number, with the place of that number among them, sorted; `units`: the others; these and
    `dates` in the order of `sequence.py`. `used`: which tokens all were; `counted`: those of the numbers."""

    numbers: tuple[str, ...]
    units: tuple[str, ...]
    measured: tuple[tuple[int, str], ...]
    dates: tuple[str, ...]
    used: frozenset[int]
    counted: frozenset[int]


def read_quantities(tokens: Sequence[Token], fronted: int = 0) -> Quantities:
    """What a text counts, measures and dates. The first `fronted` words are a phrase that could come last as well."""
    numbers: list[str] = []
    measured: list[tuple[int, str]] = []
    ordinals: dict[int, int] = {}  # by the place of a token of a number, which number it is
    place = 0
    while place < len(tokens):
        value, unit, after = _number(tokens, place)
        numbers += [value] if value else []
        measured += [(len(numbers), unit)] if unit else []
        ordinals |= dict.fromkeys(range(place, after), len(numbers))
        place = after if after > place else place + 1
    units: list[Named] = []
    dates: list[Named] = []
    used = set(ordinals)
    for place in (*range(fronted, len(tokens)), *range(fronted)):
        if place in ordinals:
            continue
        token = tokens[place]
        near = place - 1 in ordinals or place + 1 in ordinals
        at = (place - fronted) % len(tokens)
        unit = _unit(token.word, after_number=place - 1 in ordinals)
        used.update([place] if unit else [])
        if unit and near:
            leads = place - 1 not in ordinals or (place + 1 in ordinals and token.word in _LEADING)
            ordinal = ordinals[place + 1 if leads else place - 1]
            measured.append((ordinal, unit))
            if unit in _LEADING if leads else token.word not in _NO_MEASURES:
                numbers[ordinal - 1] = _unpadded(numbers[ordinal - 1])
        elif unit:
            units.append(Named(at, unit, 0, bound=False))
        capital = token.written[0].isupper() and not token.opens
        if token.word in _DATES and (token.word not in _NEEDS_CAPITAL or capital or near):
            dates.append(Named(at, *_DATES[token.word], bound=near))
            used.add(place)
    words = [token.word for token in (*tokens[fronted:], *tokens[:fronted])]
    return Quantities(
        numbers=tuple(numbers),
        units=in_sequence(words, units),
        measured=tuple(sorted(measured)),
        dates=in_sequence(words, dates),
        used=frozenset(used),
        counted=frozenset(ordinals),
    )


def _number(tokens: Sequence[Token], place: int) -> tuple[str, str, int]:
    """A number that begins at this token, the unit written with it, and the place after it."""
    word = tokens[place].word
    if word in OPERATORS:
        return word, "", place + 1
    if any(character.isdigit() for character in word):
        value, unit = _digits(word)
        scale = _SCALES.get(tokens[place + 1].word) if place + 1 < len(tokens) else None
        if scale and _PLAIN.fullmatch(value):
            return _times(value, scale), unit, place + 2
        return value, unit, place + 1
    if word in _ORDINALS:
        return str(_ORDINALS[word]), "", place + 1
    if word in _FRACTIONS:
        return _FRACTIONS[word], "", place + 1
    return _spelled(tokens, place)


def _spelled(tokens: Sequence[Token], place: int) -> tuple[str, str, int]:
    """Words such as `twenty-five thousand`."""
    total = current = 0
    begin, last = place, ""
    while place < len(tokens):
        word = tokens[place].word
        if word in _TENS and last not in ("ones", "tens"):
            current, last = current + _TENS[word], "tens"
        elif (
            word in _ONES
            and not _pronoun(tokens, place)
            and last != "ones"
            and not (last == "tens" and _ONES[word] > 9)
        ):
            current, last = current + _ONES[word], "ones"
        elif word in _SCALES and (place > begin or word != "second"):
            if word == "hundred":
                current = (current or 1) * 100
            else:
                total, current = total + (current or 1) * _SCALES[word], 0
            last = "scale"
        else:
            break
        place += 1
    return (str(total + current), "", place) if place > begin else ("", "", begin)


def _pronoun(tokens: Sequence[Token], place: int) -> bool:
    """Whether `one` stands for a thing: `which one is`, but not `one night`."""
    following = tokens[place + 1].word if place + 1 < len(tokens) else ""
    return tokens[place].word == "one" and (not following or following in FUNCTION_WORDS)


def _digits(word: str) -> tuple[str, str]:
    """`10k` is 10000, `5kg` is 5 and kg, `3rd` is 3; what is no number (a code, a date, a time) stays as it is."""
    match = _NUMBER.fullmatch(word)
    if match is None:
        return word, ""
    text, suffix = match.groups()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _PLAIN.fullmatch(text) is None:
        return word, ""
    if not suffix or suffix in ORDINAL_ENDINGS:
        return text, ""
    unit = _unit(suffix, after_number=True)
    if unit and suffix != "m":
        return text if suffix in _NO_MEASURES else _unpadded(text), unit
    if suffix not in _SUFFIXES or _CODE.fullmatch(text):
        return word, ""
    return _times(text, _SUFFIXES[suffix]), ""


def _times(number: str, scale: int) -> str:
    """The product as plain figures, however many: no digit of a long number is rounded away."""
    return format(_EXACT.normalize(_EXACT.multiply(Decimal(number), Decimal(scale))), "f")


def _unpadded(number: str) -> str:
    """A number that measures, without the zeros that say nothing: 5.0 kg is 5 kg."""
    return number.rstrip("0").rstrip(".") if _PADDED.fullmatch(number) else number


def _unit(word: str, *, after_number: bool) -> str:
    if word in _ONLY_AFTER_NUMBERS and not after_number:
        return ""
    word = word.removesuffix("'s").replace(" ", "")
    found = UNITS.get(word)
    if found is None and word.endswith("s") and (word[:-1] not in _ONLY_AFTER_NUMBERS or after_number):
        found = UNITS.get(word[:-1])
    return found or ""
