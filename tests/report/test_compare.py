"""The page of a comparison: the table is the legend, and what was not measured has no figure."""

from __future__ import annotations

from typing import Any

from blindsight.report import About, Absent, Compared, compared_table, overlap, render_compared

from ._runs import ROC
from .test_page import HOSTILE, Reader


def compared(name: str = "ECOD", auroc: float = 0.8, **changes: Any) -> Compared:
    values: dict[str, Any] = {
        "name": name, "measurable": True, "auroc": auroc, "auroc_low": auroc - 0.02, "auroc_high": auroc + 0.02,
        "average_precision": 0.4, "false_positive_rate": 0.02, "false_negative_rate": 0.5, "seconds": 0.1, "roc": ROC,
    }  # fmt: skip
    return Compared(**(values | changes))


def one_class(name: str = "ECOD") -> Compared:
    return compared(name, 0.5, measurable=False, average_precision=None, false_negative_rate=None)


ABOUT = About(note="one file, read exactly", created_utc="2030-01-01 00:00 UTC", records="Fitted on 10 records.")


def test_one_class_is_blank_without_an_empty_figure() -> None:
    about = About(note="one file", warnings=("The evaluation data hold one class only.",))
    page = render_compared([one_class()], about=about)
    text = Reader(page).text
    assert "not measurable" in text
    assert "The evaluation data hold one class only." in text
    assert "<figure>" not in page
    assert "0.000" not in text
    assert "1.000" not in text
    assert "intervals overlap" not in text
    assert "1 detector measured" in text
    assert compared_table([one_class()])[0] == ["Detector", "AUROC", "FPR", "Seconds"]


def test_the_table_is_the_legend() -> None:
    several = [compared("HBOS", 0.7), one_class("LODA"), compared("ECOD", 0.9), compared("IForest", 0.71)]
    headings, rows = compared_table(several)
    assert [row[0] for row in rows] == ["ECOD", "IForest", "HBOS", "LODA"]
    assert not {"Sums", "Bytes", "Epsilon"} & set(headings), "a column without a value"
    page = render_compared(several, about=ABOUT)
    assert page.count("<figure>") == 2
    table = page[page.index("<tbody>") :]
    marks = [table[table.index(f"</svg>{name}</td>") - 80 :][:80] for name in ("ECOD", "IForest", "HBOS")]
    colours = [mark.split('stroke="')[1][:7] for mark in marks]
    assert len(set(colours)) == 3
    for figure in page.split("<figure>")[1:]:
        drawn = figure[: figure.index("</figure>")].lower()
        assert all(colour.lower() in drawn for colour in colours)
    text = Reader(page).text
    for words in ("2030-01-01 00:00 UTC", "Fitted on 10 records.", "cryptography not yet audited"):
        assert words in text


def test_intervals_that_overlap_are_said_of_several_only() -> None:
    assert not overlap([compared()])
    assert not overlap([])
    assert not overlap([compared("A", 0.9), compared("B", 0.7)])
    assert overlap([compared("A", 0.71), compared("B", 0.7)])
    assert "intervals overlap" in render_compared([compared("A", 0.71), compared("B", 0.7)], about=ABOUT)


def test_hostile_words_stay_text_here_too() -> None:
    absent = Absent(name=HOSTILE, kind="left out", reason=HOSTILE)
    about = About(note=HOSTILE, warnings=(HOSTILE,), records=HOSTILE)
    page = render_compared([compared(HOSTILE), compared("B")], about=about, absent=[absent])
    assert not {tag for tag, _ in Reader(page).tags} & {"script", "img"}
