"""IBEM-shaped records: reading, matching, what expressions share, pages found, and bad files."""

from __future__ import annotations

import json

import pytest

from eval.ibem.config import IbemEvalConfig, check_files
from eval.ibem.records import document_of, read_ibem
from eval.ibem.retrieval import Pages, evenly, search_rows
from eval.ibem.scores import edit_similarity, match_boxes, overlap, tokens
from eval.ibem.stage import run
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.tracking.stage_tracker import NullTracker


def entry(latex, left=10.0, norm=None, width=10.0):
    box = {"x_min": left, "y_min": 5.0, "x_max": left + width, "y_max": 10.0}
    return {**box, "split": 0, "latex": latex, "latex_expand": latex, "latex_norm": norm or latex}


def generated(num_documents=12, pages=2):
    """Pages in the shape of IBEM.json; each has two expressions of its own and one of all pages."""
    made = {}
    for d in range(num_documents):
        for p in range(pages):
            own = f"v _ {{ {d} }} w _ {{ {p} }}"
            made[f"99{d:02d}-page{p:02d}"] = {
                "preamble": r"\newcommand{\eps}{\epsilon}",
                "embedded": {
                    "0": entry(r"\eps", 10.0, r"\epsilon"),
                    "1": entry(own + " = 1", 30.0),
                },
                "displayed": {"0": entry(rf"\sum _ {{ i }} {own}", 50.0)},
            }
    return made


def write(path, pages):
    path.write_text(json.dumps(pages))
    return str(path)


def measured(tmp_path, pages, found=None, **settings):
    out = tmp_path / "out"
    out.mkdir()
    said = None if found is None else write(tmp_path / "found.json", found)
    config = IbemEvalConfig(write(tmp_path / "IBEM.json", pages), said, **settings)
    flat = run(config, {}, RuntimeConfig(), out, NullTracker())
    notes = json.loads((out / "notes.json").read_text())
    return flat, json.loads((out / "metrics.json").read_text()), notes


def test_the_file_is_read(tmp_path):
    pages = generated(1)
    first = pages["9900-page00"]
    first["isolated"] = [entry("x"), entry(" ", 40.0)]  # an older copy's name, as a list
    del first["displayed"]
    read = read_ibem(_written(tmp_path, pages))
    one, two, three = read.pages["9900-page00"]
    assert (one.latex, one.latex_norm, one.type) == (r"\eps", r"\epsilon", "embedded")
    assert one.box == (10.0, 5.0, 20.0, 10.0)
    assert (three.type, three.id) == ("displayed", "9900-page00/displayed/0")
    assert two.document == "9900"
    assert read.dropped == {"expression without text": 1}
    assert document_of("hep-th9901001-page12") == "hep-th9901001"
    assert document_of("alone") == "alone"


def _written(tmp_path, pages):
    path = tmp_path / "written.json"
    write(path, pages)
    return path


def test_tokens_leave_spacing_out():
    assert tokens(r"\left( x _{2}\, +\quad y\right)\%") == [*"(x_{2}+y)", r"\%"]
    assert tokens(r"\alpha\beta") == [r"\alpha", r"\beta"]
    assert tokens("") == []


@pytest.mark.parametrize(
    ("one", "other", "similarity"),
    [
        ("abc", "abc", 1.0),
        ("", "", 1.0),
        ("", "ab", 0.0),
        ("ab", "", 0.0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("flaw", "lawn", 0.5),
        ("abcdef", "f", 1 - 5 / 6),
    ],
)
def test_edit_similarity_by_hand(one, other, similarity):
    assert edit_similarity(list(one), list(other)) == pytest.approx(similarity)
    assert edit_similarity(list(other), list(one)) == pytest.approx(similarity)


def test_boxes_match_one_to_one_by_overlap(tmp_path):
    # 10..20 and 12..22 share 8 of 12; 10..20 and 11..21 share 9 of 11.
    assert overlap((10, 5, 20, 10), (12, 5, 22, 10)) == pytest.approx(8 / 12)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0
    page = {"embedded": [entry("a", 10.0), entry("b", 12.0)]}
    true = read_ibem(_written(tmp_path, {"p": page})).pages["p"]
    (found,) = read_ibem(_written(tmp_path, {"p": {"embedded": [entry("c", 11.5)]}})).pages["p"]
    assert match_boxes(true, [found], 0.7) == [(1, 0)]  # 9.5 of 10.5 beats 8.5 of 11.5
    assert match_boxes(true, [found, found], 0.7) == [(0, 1), (1, 0)]
    assert match_boxes(true, [found], 0.95) == []
    assert match_boxes(true, [found._replace(type="displayed")], 0.1) == []


def test_perfect_predictions_score_one(tmp_path):
    flat, metrics, notes = measured(tmp_path, generated(), generated())
    for name in ("exact", "normalised", "edit", "span_precision", "span_recall", "span_f1"):
        assert flat[f"eval_ibem/{name}"] == 1.0, name
    assert flat["eval_ibem/bleu"] == pytest.approx(100.0)
    assert metrics["displayed"]["exact"]["n"] == 24
    assert metrics["all"]["exact"]["groups"] == 12
    assert flat["eval_ibem/found_page_mrr"] == flat["eval_ibem/gold_page_mrr"]
    assert len(notes) == 1
    assert "sacrebleu" in notes[0]


def test_scores_by_hand(tmp_path):
    pages, found = generated(), generated()
    for page in found.values():
        # Right up to spacing; a box that is elsewhere; a wrong token of 12; one that isn't there.
        page["embedded"]["0"] = entry(r"\,\epsilon", 10.0)
        page["embedded"]["1"] = entry("z", 80.0)
        latex = page["displayed"]["0"]["latex"]
        page["displayed"]["0"] = entry(latex.replace("w", "u"), 51.0)
        page["displayed"]["1"] = entry("q", 70.0)
    flat, metrics, _ = measured(tmp_path, pages, found)
    assert metrics["embedded"]["exact"]["value"] == 0.0
    assert metrics["embedded"]["normalised"]["value"] == 1.0
    assert metrics["displayed"]["normalised"]["value"] == 0.0
    assert flat["eval_ibem/normalised"] == 0.5
    # \sum _ { i } v _ { d } w _ { p}: 15 tokens of a one-digit document, 16 of 10 and 11.
    assert metrics["displayed"]["edit"]["value"] == pytest.approx((10 * 14 / 15 + 2 * 15 / 16) / 12)
    # Of each page 2 of 4 found ones match, 2 of 3 true ones: F1 2 x 2 / 7.
    assert flat["eval_ibem/span_precision"] == pytest.approx(1 / 2)
    assert flat["eval_ibem/span_recall"] == pytest.approx(2 / 3)
    assert flat["eval_ibem/span_f1"] == pytest.approx(4 / 7)
    assert metrics["embedded"]["span_f1"]["value"] == pytest.approx(1 / 2)


def test_predictions_by_number_need_no_boxes(tmp_path):
    found = {name: {"displayed": {"0": {"latex": "x"}}} for name in list(generated())[:20]}
    flat, metrics, notes = measured(tmp_path, generated(), found, match="number")
    assert metrics["all"]["exact"]["n"] == 20
    assert flat["eval_ibem/exact"] == 0.0
    assert not any("span" in name for name in flat)
    assert "4 pages have no predictions; their expressions count as missed." in notes


def test_a_page_is_found_by_what_else_is_on_it(tmp_path):
    pages = {
        "a-page1": {"embedded": [entry("x + y"), entry("x + z", 30.0)]},
        "a-page2": {"embedded": [entry("u v w"), entry("u v", 30.0)]},
        "b-page1": {"embedded": [entry("k")]},
    }
    read = read_ibem(_written(tmp_path, pages)).pages
    expressions = [one for own in read.values() for one in own]
    rows = search_rows(Pages(read), [(one, one.latex_norm) for one in expressions], "gold")
    # Its own text is taken out: k stands nowhere else, so its page is the last.
    assert [row["reciprocal_rank"] for row in rows] == [1.0, 1.0, 1.0, 1.0, pytest.approx(1 / 3)]
    (wrong,) = search_rows(Pages(read), [(expressions[0], "u v")], "found")
    assert (wrong["hit_at_1"], wrong["hit_at_10"]) == (0, 1)
    assert evenly(list(range(10)), 3) == [0, 3, 6]
    assert evenly([1, 2], None) == [1, 2]


def test_retrieval_alone_needs_no_predictions(tmp_path):
    flat, metrics, notes = measured(tmp_path, generated(), max_queries=36)
    assert set(flat) >= {"eval_ibem/gold_page_hit_at_1", "eval_ibem/gold_page_mrr"}
    assert not any("found" in name or "exact" in name for name in flat)
    assert metrics["all"]["gold_page_mrr"]["n"] == 36
    assert notes == []


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ([], "must hold an object of pages by name"),
        ({"p": []}, "page 'p' must be an object"),
        ({"p": {"embedded": "x"}}, "p/embedded .* must be an object or a list"),
        ({"p": {"embedded": [{"latex": 1}]}}, "p/embedded/0 .* the text latex"),
        ({"p": {"embedded": [{"latex": "x"}]}}, "x_min, y_min, x_max, y_max .* must be numbers"),
        ({"p": {"embedded": [entry("x", 95.0)]}}, "must lie in 0 to 100 percent"),
        ({"p": {"embedded": [{**entry("x"), "latex_norm": 3}]}}, "latex_norm .* must be text"),
        ({"p": {}}, "must hold an expression"),
    ],
)
def test_bad_files_are_refused(tmp_path, pages, problem):
    with pytest.raises(DataError, match=problem):
        measured(tmp_path, pages)


def test_other_bad_inputs_are_refused(tmp_path):
    with pytest.raises(DataError, match="no page is in both"):
        measured(tmp_path, generated(), {"other": {"embedded": [entry("x")]}})
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(DataError, match="must be JSON"):
        read_ibem(tmp_path / "no.json")
    with pytest.raises(DataError, match="can't be read"):
        read_ibem(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"eval_ibem\.path \(=None\)"):
        check_files(PlacedNode("eval_ibem", "eval_ibem", {}, IbemEvalConfig()), RuntimeConfig())
    with pytest.raises(ConfigError, match=r"eval_ibem\.match"):
        IbemEvalConfig(match="name")
    with pytest.raises(ConfigError, match=r"eval_ibem\.iou"):
        IbemEvalConfig(iou=0.0)
