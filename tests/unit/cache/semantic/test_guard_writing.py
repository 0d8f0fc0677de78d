"""What only the writing tells apart: raised figures, signs, the case of a letter. Such texts are often one to an
embedder, and some were one to the index of the same words."""

from __future__ import annotations

import pytest

from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.normalise import normalised


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(load_lexicon())


def passes(guard: Guard, one: str, other: str) -> bool:
    there, back = guard.compare(one, other) is None, guard.compare(other, one) is None
    assert there == back, "the guard must not depend on which text came first"
    return there


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 10² ?", "What is 102?"),
        ("5³", "53"),
        ("10⁻³", "10-3"),
        ("x²3", "x²³"),
        ("2²3", "2²³"),
        ("10₂", "102"),
        ("1½ cups", "11⁄2 cups"),
        ("5①", "51"),
        ("10⁶ people", "106 people"),
        ("Maße", "Masse"),
    ],
)
def test_other_figures_and_letters_are_not_the_same_words(guard: Guard, one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
    assert not passes(guard, f"How much is {one} here?", f"How much is {other} here?")


def test_forms_of_one_figure_are_the_same_words() -> None:
    for one, other in (
        ("x² + 1", "x^2 + 1"),
        ("CO₂", "CO2"),
        ("log₂8", "log2 8"),
        ("1½", "1 1/2"),
        ("１２", "12"),
        ("don`t", "don't"),
    ):
        assert normalised(one) == normalised(other), one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("100 Mb", "100 MB"),
        ("100Mb", "100MB"),
        ("100 mb", "100 MB"),
        ("10 Mbps", "10 MBps"),
        ("5 MW", "5 mW"),
        ("5MW", "5mW"),
        ("5 Mm", "5 mm"),
        ("5M", "5m"),
        ("code AB12", "code ab12"),
        ("grep -i", "grep -I"),
        ("decode aGVsbG8", "decode AGVsbG8"),
        ("decode aGVsbG", "decode agvsbg"),
        ("convert Mb to GB", "convert MB to GB"),
        ("convert mW to MW", "convert MW to mW"),
        ("plot X against x", "plot x against X"),
        ("print(Foo)", "print(foo)"),
        ("read /etc/Fstab", "read /etc/fstab"),
        ("see example.com/Qx", "see example.com/qx"),
    ],
)
def test_the_case_of_a_letter_counts_where_it_says_something(guard: Guard, one: str, other: str) -> None:
    assert not passes(guard, f"Please {one}", f"Please {other}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is 5 MB enough?", "Is 5 megabytes enough?"),
        ("Is 5 KG enough?", "is 5 kg enough"),
        ("Is 5 mL enough?", "is 5ml enough"),
        ("Is a 60W bulb bright?", "is a 60 w bulb bright"),
        ("Is it open at 5 PM?", "is it open at 5 pm"),
        ("Is it the 3RD mill?", "is it the 3rd mill"),
        ("Is iPhone or ChatGPT older?", "is iphone or chatgpt older"),
        ("How do I export PDFs?", "how do i export pdfs"),
        ("HOW DO I MEND A TYRE", "How do I mend a tyre?"),
    ],
)
def test_it_does_not_count_elsewhere(guard: Guard, one: str, other: str) -> None:
    assert passes(guard, one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What does the sign 👍 mean?", "What does the sign 👎 mean?"),
        ("Is it 🔴 or off?", "Is it 🟢 or off?"),
        ("👍 and 👎", "👎 and 👍"),
        ("Is it ✅?", "Is it ❌?"),
        ("Is x ≤ 5?", "Is x ≥ 5?"),
        ("x ≠ y", "x ≈ y"),
        ("What does :) mean?", "What does :( mean?"),
        ("a | b", "a || b"),
        ("a & b", "a && b"),
        ("What is ~a?", "What is a?"),
        ("a|b c", "a b|c"),
        ("a[1]", "a{1}"),
        ("(2 + 3) * 4", "2 + (3 * 4)"),
        ("x - y", "x y"),
        ("What is n!", "What is n?"),
        ("What is .5?", "What is 5?"),
        ("Is it 5' long?", 'Is it 5" long?'),
        ("cd ..", "cd ."),
        ("cd .", "cd"),
        ('echo "$x"', "echo '$x'"),
        ("echo `date`", "echo 'date'"),
        ("my_var", "my var"),
        ("rm -rf", "rm rf"),
        ("open a.txt", "open b.txt"),
        ("if x:\n  y\nz", "if x:\n  y\n  z"),
        ("दिन कब है", "दान कब है"),
    ],
)
def test_signs_count(guard: Guard, one: str, other: str) -> None:
    assert not passes(guard, one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What does 👍 mean?", "what does 👍 mean"),
        ("Is ❤️ a sign?", "is ❤ a sign"),
        ("Hello, is the mill open (on Sundays)?", "Hello; is the mill open on Sundays"),
        ("Is the mill open - on Sundays?", "Is the mill open, on Sundays?"),
        ("Is my e-mail 'late'?", 'is my e-mail "late"...'),
        ("Is it open at 9 a.m.?", "is it open at 9 a.m."),
    ],
)
def test_the_punctuation_of_prose_does_not(guard: Guard, one: str, other: str) -> None:
    assert passes(guard, one, other)


@pytest.mark.parametrize("sign", [chr(code) for code in (0x2200, 0x2713, 0x1F3FB, 0x1FAE8, 0x20E3, 0xE0067, 0xE000)])
def test_a_sign_that_nobody_knows_counts(guard: Guard, sign: str) -> None:
    """Unicode grows: what is not known to be punctuation is never left out."""
    assert not passes(guard, f"Is the lamp {sign} bright?", "Is the lamp bright?")
