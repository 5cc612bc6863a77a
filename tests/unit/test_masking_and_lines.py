"""Masking of addresses and C4's cutting of lines, case by case; tests/peers compares both with datatrove."""

from __future__ import annotations

import ipaddress

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.data.gates.c4_lines import cut_c4_lines
from pocketlm.data.gates.masking import ADDRESS, EMAIL, mask

AMBIGUOUS = ipaddress.IPv4Network("192.0.0.0/24")
"""Python's releases disagree with each other about this network."""


def masked(text: str, emails: bool = True, addresses: bool = True) -> str:
    return mask(pa.array([text], pa.large_string()), emails, addresses)[0].as_py()


def cut(text: str) -> str:
    return cut_c4_lines(pa.array([text], pa.large_string()))[0].as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.b+c@mail.example.org.", f"write to {EMAIL}."),
        ("<ann@x.de>,bob@y.co.uk", f"<{EMAIL}>,{EMAIL}"),
        ("ann@localhost", "ann@localhost"),
        ("ann@x-.de and .@x.de", "ann@x-.de and .@x.de"),
        ("ann@[1.2.3.4] ann@[1.2.3.4", f"{EMAIL} ann@[{ADDRESS}"),
        ("a@b@c.de", f"a@{EMAIL}"),
        ("@decorator and C@ and @x.de", "@decorator and C@ and @x.de"),
        ("\u00e9ann@x.de \u00e9 ann@x.de", f"\u00e9ann@x.de \u00e9 {EMAIL}"),
    ],
)
def test_emails(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected
    assert masked(text, emails=False, addresses=False) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", ADDRESS),
        (
            "10.0.0.1 127.0.0.1 192.168.7.7 172.31.255.255 172.32.0.0",
            f"10.0.0.1 127.0.0.1 192.168.7.7 172.31.255.255 {ADDRESS}",
        ),
        ("008.8.8.8", "008.8.8.8"),
        ("999.8.8.256", f"9{ADDRESS}6"),
        ("3.14 and 1.2.3", "3.14 and 1.2.3"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(text, addresses=False) == text


@given(st.ip_addresses(v=4))
def test_an_address_is_masked_exactly_if_it_is_global(address: ipaddress.IPv4Address) -> None:
    if address not in AMBIGUOUS:
        assert (masked(f"at {address}.") == f"at {ADDRESS}.") == (address.is_global or str(address) == ADDRESS)


def test_many_and_none_in_a_unit_and_in_a_slice() -> None:
    texts = pa.array(["none", "a@b.cd " * 5_000, "", "x 8.8.8.8", "end"], pa.large_string())
    expected = ["none", f"{EMAIL} " * 5_000, "", f"x {ADDRESS}", "end"]
    assert mask(texts, True, True).to_pylist() == expected
    assert mask(texts[2:], True, True).to_pylist() == expected[2:]
    assert mask(texts[:1], True, True).to_pylist() == ["none"]


def test_c4_keeps_sentences_and_cuts_furniture() -> None:
    kept = ["These words stay here.", 'He said: "so it is"', "Is this a question?"]
    gone = [
        "Home | About",
        "Two words.",
        "Cut off here...",
        "Please enable JavaScript to go on.",
        "By using it you accept our Terms of Use.",
    ]
    lines = [line for pair in zip([*kept, ""], gone, strict=False) for line in pair]
    assert cut("\n".join([*lines, gone[-1]])) == "\n".join(kept)
    assert cut("x" * 1_001 + " is a word too long.") == ""
    assert cut("x" * 1_000 + " is not.") == "x" * 1_000 + " is not."


def test_c4_takes_citations_out_and_leaves_what_its_gates_look_for() -> None:
    assert cut("It was[edit] so then.[12][citation needed]") == "It was so then."
    assert cut("Lorem ipsum and JavaScript stay.") == "Lorem ipsum and JavaScript stay."
    assert cut("Our privacy policy {name} stays.") == "Our privacy policy {name} stays."
    assert cut("Some JavaScript {name} goes.") == ""
    assert cut("") == ""
