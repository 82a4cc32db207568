from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from earlybird.errors import RunFolderError
from earlybird.report.plots import (
    CUT,
    DENSE_INK,
    SLIM,
    accuracy_axes,
    distance_axes,
    kept_axes,
    plot_accuracy,
    plot_kept_channels,
    plot_mask_distance,
    plot_run,
)
from earlybird.report.quantities import percent


def words(axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)


def drawn_accuracy(record):
    axes = Figure().add_subplot()
    accuracy_axes(axes, record)
    return axes, {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def drawn_distance(ticket, total_epochs=20):
    axes = Figure().add_subplot()
    distance_axes(axes, ticket, total_epochs)
    rings = [line for line in axes.lines if line.get_markeredgecolor() == CUT and line.get_linestyle() == "None"]
    return axes, rings[0] if rings else None


def test_a_run_with_a_ticket_gets_three_figures(tmp_path, make_record):
    written = plot_run(make_record(), tmp_path / "run")
    assert [path.name for path in written] == ["accuracy.svg", "mask_distance.svg", "kept_channels.svg"]
    for path in written:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_dense_run_gets_one_figure(tmp_path, make_record):
    assert [path.name for path in plot_run(make_record("dense"), tmp_path)] == ["accuracy.svg"]


def test_a_search_in_vain_without_a_history_gets_one_figure(tmp_path, make_record):
    record = make_record(ticket={"none": True, "last_distances": [0.4, 0.3]})
    assert [path.name for path in plot_run(record, tmp_path)] == ["accuracy.svg"]


def test_the_same_record_gives_the_same_bytes(tmp_path, make_record):
    first, second = plot_run(make_record(), tmp_path / "a"), plot_run(make_record(), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_look_of_other_figures_is_left_as_found(tmp_path, make_record):
    before = dict(matplotlib.rcParams)
    plot_accuracy(make_record(), tmp_path / "accuracy.svg")
    assert dict(matplotlib.rcParams) == before


def test_a_broken_user_style_does_not_change_the_file(tmp_path, make_record):
    plain = plot_accuracy(make_record(), tmp_path / "plain.svg").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert plot_accuracy(make_record(), tmp_path / "styled.svg").read_bytes() == plain


def test_a_title_names_model_data_and_ratio(tmp_path, make_record):
    svg = plot_mask_distance(make_record(), tmp_path / "mask_distance.svg").read_text()
    assert (
        "vgg16 (width 0.25) on cifar10  ·  early_bird  ·  p = 0.5  ·  seed 0" in svg
    )  # in a comment beside the outlines


def test_the_cut_is_labelled_with_epoch_and_share(make_record):
    axes, _ = drawn_distance(make_record()["ticket"])
    assert "ticket drawn after 2.125 epochs\n10.6 % of the 20-epoch schedule" in words(axes)
    assert any(line.get_color() == CUT and list(line.get_xdata()) == [2.125, 2.125] for line in axes.lines)


def test_epsilon_is_drawn_and_compared_with_chance(make_record):
    axes, _ = drawn_distance(make_record()["ticket"])
    assert "ε = 0.1  (20 % of chance)" in words(axes)  # chance at p = 0.5 is 2 * 0.5 * 0.5
    assert any(list(line.get_ydata()) == [0.1, 0.1] for line in axes.lines)


@pytest.mark.parametrize(("rule", "count"), [("paper", 5), ("authors_code", 4)])
def test_the_distances_that_fired_are_ringed(make_record, rule, count):
    ticket = {**make_record()["ticket"], "rule": rule}
    _, ring = drawn_distance(ticket)
    assert list(ring.get_ydata()) == ticket["distances"][-count:]


def test_rings_end_at_the_cut_when_the_search_went_on(make_record):
    ticket = make_record()["ticket"]
    ticket["distances"].append(0.05)
    ticket["distance_epochs"].append(2.25)
    _, ring = drawn_distance(ticket)
    assert list(ring.get_ydata()) == ticket["distances"][-6:-1]


def test_a_rule_that_reads_no_distances_has_no_epsilon_line(make_record):
    axes, ring = drawn_distance({**make_record()["ticket"], "rule": "epi", "epsilon": 0.983})
    assert ring is None and "ε" not in words(axes)


def test_a_search_in_vain_says_so_in_the_figure(make_record):
    axes, ring = drawn_distance({**make_record()["ticket"], "none": True})
    assert "no ticket" in words(axes) and ring is None


def test_a_dense_run_has_no_distance_figure(tmp_path, make_record):
    with pytest.raises(RunFolderError, match="vgg16-cifar10-dense-s0' has no mask distances"):
        plot_mask_distance(make_record("dense"), tmp_path / "mask_distance.svg")


def test_a_dense_run_has_no_channels_figure(tmp_path, make_record):
    with pytest.raises(RunFolderError, match="lists no layers"):
        plot_kept_channels(make_record("dense"), tmp_path / "kept_channels.svg")


def test_search_is_grey_and_retraining_blue(make_record):
    _, lines = drawn_accuracy(make_record(with_val=True))
    assert lines["dense network, training"].get_color() == DENSE_INK
    assert lines["slim network, training"].get_color() == SLIM
    assert "slim network, validation" in lines


def test_accuracy_is_in_percent_and_the_test_is_labelled(make_record):
    axes, lines = drawn_accuracy(make_record("dense", accuracy=0.8493))
    assert max(lines["dense network, training"].get_ydata()) == pytest.approx(86.25, abs=0.1)
    assert "test\n84.93 %" in words(axes)


def test_a_search_that_ends_inside_an_epoch_ends_at_the_cut(make_record):
    _, lines = drawn_accuracy(make_record())
    assert list(lines["dense network, training"].get_xdata()) == [1, 2, 2.125]
    assert list(lines["slim network, training"].get_xdata()) == list(range(3, 21))


def test_a_restarted_retraining_follows_the_search(make_record):
    record = make_record()
    search = [row for row in record["metrics"] if row["phase"] == "search"]
    again = [{**row, "phase": "retrain"} for row in make_record("dense")["metrics"]]
    _, lines = drawn_accuracy({**record, "metrics": search + again})
    epochs = list(lines["slim network, training"].get_xdata())
    assert (epochs[0], epochs[-1]) == (3.125, 22.125)


def test_a_rewound_retraining_repeats_only_what_it_repeats(make_record):
    record = make_record(total_epochs=80)  # the ticket is drawn after 8.5 epochs
    rows = [row for row in record["metrics"] if row["phase"] == "search"]
    rows += [
        {**row, "phase": "retrain"} for row in make_record("dense", total_epochs=80)["metrics"] if row["epoch"] > 6
    ]
    _, lines = drawn_accuracy({**record, "metrics": rows})
    epochs = list(lines["slim network, training"].get_xdata())
    assert (epochs[0], epochs[-1]) == (9.5, 82.5)  # 8.5 dense and 74 slim epochs in all


def test_validation_is_left_out_where_it_was_not_measured(make_record):
    _, lines = drawn_accuracy(make_record())
    assert not any("validation" in label for label in lines)


def test_a_run_without_metrics_is_still_drawn(tmp_path, make_record):
    assert plot_accuracy({**make_record("dense"), "metrics": []}, tmp_path / "accuracy.svg").exists()


def test_bars_show_dense_and_kept_channels():
    axes = Figure().add_subplot()
    kept_axes(axes, [{"name": "a", "dense": 64, "kept": 16}, {"name": "b", "dense": 512, "kept": 511}], 2, 512)
    assert [bar.get_width() for bar in axes.patches] == [64, 512, 16, 511]
    assert words(axes).splitlines() == ["25 %", "16 / 64", "99 %", "511 / 512"]  # 99.8 is not all
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_hundred_layers_are_all_named_and_none_collide(tmp_path, make_record, hundred_layers):
    record = make_record(model="preresnet101", layers=hundred_layers)
    svg = plot_kept_channels(record, tmp_path / "kept_channels.svg").read_text()
    assert all(f"<!-- {layer['name']} -->" in svg for layer in hundred_layers)
    height = float(ElementTree.fromstring(svg).attrib["height"].removesuffix("pt"))
    assert height / 50 > 7.5  # points per row against the points of a letter


@pytest.mark.parametrize(("share", "shown"), [(0.5, "50 %"), (0.10625, "10.6 %"), (1.0, "100 %"), (0.0, "0 %")])
def test_percent_has_the_digits_it_needs(share, shown):
    assert percent(share) == shown
