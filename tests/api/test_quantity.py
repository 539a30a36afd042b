from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"),
        ("1.5Gi", "1536Mi"),
        ("0.1Gi", "107374182400m"),
        ("1024Mi", "1Gi"),
        ("0.5", "500m"),
        ("1e3", "1e3"),
        ("12E6", "12e6"),
        ("1000", "1k"),
        ("12345", "12345"),
        (".5", "500m"),
        ("0.5Ki", "512"),
        ("100n", "100n"),
        ("0.1n", "1n"),
        ("0.0", "0"),
        ("-1500m", "-1500m"),
        (2, "2"),
        (0.25, "250m"),
        ("1000Ei", "9223372036854775807"),
    ],
)
def test_the_canonical_form_is_kubernetes(text, canonical):
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "x", "1K", "1 Gi", "1e", "1e9999", "--1", "1.2.3", True, "9" * 99]
)
def test_what_is_no_quantity_is_refused_in_kubernetes_words(text):
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        quantity.parse(text)
    assert not quantity.is_quantity(text)


def test_values_are_exact_and_round_up():
    assert quantity.parse("0.1") == Fraction(1, 10)
    assert quantity.cpu_millis("0.0001") == 1
    assert quantity.cpu_millis("1.5") == 1500
    assert quantity.bytes("1Ki") == 1024
    assert quantity.bytes("1500m") == 2


@given(st.fractions(min_value=-(10**9), max_value=10**9).map(lambda f: f.limit_denominator(1000)))
def test_writing_and_reading_gives_the_value_to_a_nano(value):
    written = quantity.format_value(Fraction(int(value * 10**9), 10**9))
    assert quantity.parse(written) == Fraction(int(value * 10**9), 10**9)


@given(st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})?(m|k|M|Ki|Mi|Gi|e2)?", fullmatch=True))
def test_the_canonical_form_is_a_fixed_point(text):
    once = quantity.canonical(text)
    assert quantity.canonical(once) == once
    assert quantity.parse(once) == quantity.parse(text)
