"""Plots are SVG with the numbers they were given, and can be read in light and in dark."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report`")

from textbrewer import BasicTrainer, TrainingConfig
from textbrewer.errors import DataError
from textbrewer.report import plots
from textbrewer.report.plots import Bin, Point

PAGES = {"light": (plots.LIGHT, "#ffffff"), "dark": (plots.DARK, "#0d1117")}
EVIL = ["<script>alert(1)</script>", "$\\frac{$", "a & b", 'say "hi"', "电影"]


def words(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_quality_shows_mean_and_deviation():
    text = words(plots.quality({"teacher": [95.0], "student": [90.0, 92.0]}, "accuracy, %"))
    assert "91.0 ± 1.4" in text and "95.0" in text and "accuracy, %" in text


def test_relative_shows_shares_of_the_reference():
    text = words(plots.relative({"size": {"teacher": 200.0, "student": 50.0}}, "teacher"))
    assert "25 %" in text and "100 %" in text and "% of the teacher" in text


def test_curves_name_their_series():
    text = words(plots.curves({"a": [[(0, 1.0), (1, 0.5)], [(0, 2.0), (1, 1.5)]], "b": [[(0, 1.0)]]}, "loss"))
    assert "a" in text.split() and "b" in text.split() and "loss" in text


def test_the_same_numbers_give_the_same_file():
    assert plots.quality({"m": [1.0]}, "x") == plots.quality({"m": [1.0]}, "x")


def test_scalars_are_read_from_a_run(tmp_path):
    import torch

    from tests.tiny import EncoderAdaptor, batches, encoder

    model = encoder()
    config = TrainingConfig(log_dir=str(tmp_path / "log"), output_dir=str(tmp_path), progress_bar=False, device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    BasicTrainer(config, model, EncoderAdaptor()).train(optimizer, batches(3), num_epochs=1)
    read = plots.scalars(tmp_path / "log")
    assert [step for step, _ in read] == [0, 1, 2]
    assert all(value > 0 for _, value in read)
    with pytest.raises(DataError, match="scalar/total_loss"):
        plots.scalars(tmp_path / "log", "scalar/none")


def test_scores_along_a_training_name_the_line_to_reach():
    text = words(plots.progress({"a": [(1, 0.5), (2, 0.7)], "b": [(1, 0.6)]}, "accuracy, %", ("Teacher", 0.9)))
    assert {"a", "b", "Teacher", "optimiser"} <= set(text.split()) and "accuracy, %" in text


def test_more_series_than_colours_are_all_there():
    names = [f"run{i}" for i in range(14)]
    for svg in (
        plots.curves({name: [[(0, 1.0), (1, 0.5)]] for name in names}, "loss"),
        plots.progress({name: [(1, 0.5)] for name in names}, "score"),
        plots.pareto([Point(name, i, i) for i, name in enumerate(names)], "ms", "%"),
    ):
        assert set(names) <= set(words(svg).split())


def test_the_front_is_what_no_other_beats():
    draw = random.Random(0)
    points = [Point(str(i), draw.randint(1, 6), draw.randint(1, 6)) for i in range(40)]
    for point in points:
        beaten = any(
            (other.cost < point.cost and other.score >= point.score)
            or (other.cost <= point.cost and other.score > point.score)
            for other in points
        )
        assert plots.is_on_front(point, points) is not beaten


def test_a_heat_map_has_its_texts_and_names():
    values = [[0.0, 0.5, 1.0], [0.2, 0.4, 0.6]]
    texts = [[f"v{value}" for value in row] for row in values]
    svg = plots.heat_map(values, texts, ["r0", "r1"], ["c0", "c1", "c2"], down="truth", across="said")
    assert {*texts[0], *texts[1], "r0", "r1", "c0", "c1", "c2", "truth", "said"} <= set(words(svg).split())
    for step in (0, 5, 10, 2, 4, 6):
        assert plots.LIGHT[f"heat-{step}"] in svg


def test_long_names_of_classes_are_cut():
    svg = plots.heat_map([[1.0]], [["1"]], ["x" * 500], ["y" * 500], down="a", across="b")
    assert f"{'x' * 17}…" in words(svg) and "x" * 18 not in svg


def test_a_reliability_diagram_names_both_models():
    bins = [Bin(0.25, 0.3, 0.2), Bin(0.75, 0.9, 0.95)]
    text = words(plots.reliability({"teacher": bins, "student": bins}, "probability", "right"))
    assert {"teacher", "student", "probability", "right"} <= set(text.split()) and "as sure as right" in text


def test_names_are_text_whatever_they_are():
    points = [Point(name, i + 1, i) for i, name in enumerate(EVIL)]
    for svg in (
        plots.pareto(points, "ms", "%"),
        plots.heat_map([[0.5] * 5], [EVIL], ["r"], EVIL, down="$x$", across="b"),
        plots.quality({name: [1.0] for name in EVIL}, "x"),
    ):
        assert "<script" not in svg and all(name[:17] in words(svg) for name in EVIL)


def test_a_plot_can_be_had_as_pixels():
    plot = plots.quality({"m": [1.0]}, "x")
    assert plot.png().startswith(b"\x89PNG\r\n") and plot.png() == plots.quality({"m": [1.0]}, "x").png()


def test_a_curve_is_thinned_to_means():
    curve = [(i, float(i)) for i in range(1001)]
    found = plots.thinned(curve, 100)
    assert len(found) == 91 and found[0] == (10, 5.0) and found[-1] == (1000, 995.0)
    assert plots.thinned(curve[:7]) == curve[:7] and plots.thinned([]) == []


def test_on_a_page_colours_are_variables_and_ids_do_not_repeat():
    heat = plots.heat_map([[0.0, 1.0]], [["a", "b"]], ["r"], ["c", "d"], down="x", across="y")
    every = [heat, plots.quality({"m": [1.0]}, "x"), plots.pareto([Point("m", 1, 1)], "ms", "%")]
    for svg in every:
        shown = plots.themed(svg)
        assert not set(plots.LIGHT.values()) & set(re.findall("#[0-9a-f]{6}", shown))
        assert {name for name in re.findall(r"var\(--([\w-]+)\)", shown)} <= set(plots.LIGHT)
        assert words(shown) == words(svg) and "<g id=" not in shown
    assert "var(--heat-10)" in plots.themed(heat) and "var(--on-heat)" in plots.themed(heat)


def test_text_that_looks_like_a_colour_stays():
    svg = plots.themed(plots.quality({plots.LIGHT["ink"]: [1.0]}, "x"))
    assert plots.LIGHT["ink"] in words(svg)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", PAGES)
def test_contrast_is_that_of_the_accessibility_guidelines(name):
    """WCAG 2.1, level AA: 4.5 for text, 3 for what is drawn."""
    colours, page = PAGES[name]
    assert set(colours) == set(plots.LIGHT) and len(set(colours.values())) == len(colours)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for text in ("ink", "soft"):
        assert contrast(colours[text], page) >= 4.5
    for i in range(6):
        assert contrast(colours[f"series-{i}"], page) >= 3
    for step in range(11):
        text = "on-heat" if step >= 6 else "ink"
        assert contrast(colours[f"heat-{step}"], colours[text]) >= 4.5, step


@pytest.mark.parametrize("name", PAGES)
def test_the_heat_goes_one_way(name):
    steps = [luminance(PAGES[name][0][f"heat-{step}"]) for step in range(11)]
    assert steps == sorted(steps, reverse=name == "light")
