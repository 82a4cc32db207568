"""`earlybird cost` and `earlybird energy import`: what they print, and what they say to wrong input."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from earlybird.cli.main import main

pytestmark = pytest.mark.usefixtures("costs_counted_once")

SMALL = ["cost", "--model", "vgg11", "--width", "0.125", "--epochs", "10"]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err


def test_without_widths_both_ends_are_printed(capsys):
    text = said(SMALL, capsys)
    assert "50,000 images of 3x32x32, 10 epochs, batch 128, p = 0.5, fp32" in " ".join(text.split())
    assert "slim, cheapest channels removed first" in text and "25 % to 65 % of the MACs" in " ".join(text.split())
    assert "ticket drawn at epoch 0.375 at the earliest, 10 at the latest" in " ".join(text.split())
    for method in ("dense", "lottery_ticket", "snip", "network_slimming", "thinet", "soft_filter_pruning"):
        assert method in text
    assert "~ marks an estimate" in text


def test_with_widths_and_draw_there_is_one_cost_and_json_holds_it(capsys):
    flags = [*SMALL, "--widths", "uniform", "--ticket-epoch", "2", "--methods", "[dense,early_bird]"]
    text = said(flags, capsys)
    assert " to " not in "".join(line for line in text.splitlines() if "early_bird" in line and "│" in line)
    assert "At the cost of early_bird: dense for" in " ".join(text.split())
    facts = json.loads(said([*flags, "--json"], capsys))
    assert list(facts["methods"]) == ["dense", "early_bird"]
    assert facts["ticket_epochs"] == [2.0, 2.0]
    assert facts["methods"]["early_bird"]["cases"]["planned"]["epochs"] == {"dense": 2.0, "slim": 8.0}


def test_calibration_adds_seconds_energy_from_given_watts_and_price(capsys):
    flags = [
        *SMALL,
        "--width",
        "0.0625",
        "--batch-size",
        "8",
        "--widths",
        "uniform",
        "--ticket-epoch",
        "2",
        "--calibrate",
    ]
    flags += ["--calibration-steps", "5", "--watts", "100", "--price-per-hour", "3.6", "--method", "early_bird"]
    facts = json.loads(said([*flags, "--json"], capsys))
    case = facts["methods"]["early_bird"]["cases"]["planned"]
    assert case["cpu_seconds"] > 0
    assert case["kwh"] == pytest.approx(100 * case["wall_seconds"] / 3.6e6)
    assert case["price"] == pytest.approx(case["wall_seconds"] / 1000)
    assert facts["calibration"]["watts"] == 100 and facts["calibration"]["measured_steps"] == 5
    text = " ".join(said(flags, capsys).split())
    assert "kWh: the 100 W given, times the hours; nothing was measured." in text
    assert "energy: not measured (no counter: " in text


def test_a_budget_shortens_every_plan_and_wide_start_needs_one(capsys):
    flags = [
        "cost",
        "--model",
        "vgg11",
        "--width",
        "0.25",
        "--data",
        "digits",
        "--epochs",
        "8",
        "--widths",
        "uniform",
        "--ticket-epoch",
        "1",
        "--json",
    ]
    methods = ["--methods", "dense,wide_start,early_bird"]
    whole = json.loads(said([*flags, *methods], capsys))
    told = "method wide_start spends a budget and was given none; add --budget time=0.5"
    assert whole["left_out"] == {"wide_start": told}
    half = json.loads(said([*flags, *methods, "--budget", "macs=0.5"], capsys))
    macs = whole["methods"]["dense"]["cases"]["planned"]["macs"]
    assert len(half["methods"]) == 3
    for method in half["methods"].values():
        assert method["cases"]["planned"]["macs"] == pytest.approx(0.5 * macs, rel=0.03)


@pytest.mark.parametrize(("table", "word"), [("table3", "1718.78"), ("table2", "7.45 off"), ("figure5", "2.16x")])
def test_the_papers_tables_are_recomputed(table, word, capsys):
    assert word in said(["cost", "--paper", table], capsys)
    assert json.loads(said(["cost", "--paper", table, "--json"], capsys))["rows"]


def test_figure_5_is_drawn_the_same_every_time(tmp_path: Path, capsys):
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        assert main(["cost", "--paper", "figure5", "--picture", str(picture)]) == 0
    assert f"drawn: {pictures[1]}" in capsys.readouterr().err
    svg = pictures[0].read_text()
    assert svg == pictures[1].read_text()
    assert svg.count('<g id="axes_') == 11  # settings of Table 2 that have a fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cost --paper table9", "--paper is 'table9'; did you mean 'table3' or 'table2'"),
        ("cost --paper table3 --epochs 3", "--epochs says nothing of --paper, .*; leave it out"),
        ("cost --paper table3 --picture x.svg", "--picture is 'x.svg'; give it with --paper figure5"),
        ("cost --paper figure5 --picture x.doc", "--picture is 'x.doc'; give a file that ends in .svg, .png or .pdf"),
        ("cost --model vgg61", "unknown model 'vgg61'"),
        ("cost vgg16", "'vgg16' belongs to no flag"),
        ("cost --data cifar11", "unknown data 'cifar11'; did you mean 'cifar10'"),
        ("cost --data.train_images 60000", "train_images is 60000 but there are 50000; give at most that many"),
        ("cost --data.val_fraction 1", r"data.val_fraction is 1.0; give a number in \[0, 1\)"),
        ("cost --data-shape 3x32x32", "unknown setting --data-shape"),
        ("cost --model vgg16 --ratio 1", r"--ratio is 1.0; give a number in \[0, 1\)"),
        ("cost --model vgg16 --precision int4", "--precision is 'int4'; give fp32 or bf16"),
        ("cost --model vgg16 --epochs ten", "epochs is 'ten'; give a number"),
        ("cost --model vgg11 --width 0.1 --ticket-epoch 200", r"--ticket-epoch is 200.0; give a number in"),
        ("cost --model vgg11 --width 0.1 --calibrate", "--calibrate predicts one training: give --widths"),
        ("cost --model vgg16 --widths nowhere", "--widths is 'nowhere'; give uniform, a run folder or a"),
        ("cost --model vgg11 --width 0.1 --watts 90", "--watts is 90, but no seconds are predicted; give"),
        ("cost --model vgg11 --width 0.1 --method dense,magic",
            "method.name is 'magic'; give one of early_bird"),
        ("cost --methods", "--methods/--method stands without its value"),
        ("cost --model vgg16 --policy some", "residual policy is 'some'; give auto"),
        ("energy", "--run is missing|the following arguments are required"),
        ("energy export x", "unknown energy command 'export'; give import"),
        ("energy import x.csv", "--run is missing; give the folder of the finished run"),
        ("energy import x.csv --run r --max-gap nan", "max_gap is 'nan'; give a number or null"),
        ("cost --data.train_images many", "data.train_images is 'many'; give an integer or null"),
        ("energy import x.csv --run nowhere", "no finished run in 'nowhere'"),
        ("energy import x.csv --run r --power-unit MW", "power.unit is 'MW'; give W, kW"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_with_the_cure(arguments, message, capsys):
    if arguments == "energy":
        assert main(["energy", "import"]) == 2
        assert re.search(message, capsys.readouterr().err)
    else:
        fails(arguments.split(), message, capsys)


@pytest.fixture
def finished(tiny_settings, tmp_path: Path, run_once) -> Path:
    run_once(tiny_settings(), tmp_path / "run")
    return tmp_path / "run"


def test_a_runs_settings_are_the_defaults_of_its_forecast_and_the_error_is_told(finished, tiny, capsys):
    flags = ["cost", "--model", f"{tiny}:network", "--widths", str(finished), "--calibrate", "--calibration-steps", "5"]
    facts = json.loads(said([*flags, "--json"], capsys))
    assert (facts["train_images"], facts["image_shape"], facts["epochs"]) == (90, [3, 8, 8], 12)
    check = facts["check"]
    assert check["macs"]["error"] == 0
    assert set(check["cpu_seconds"]) == {"predicted", "measured", "error"}
    assert "Checked against run (early_bird): CPU seconds" in " ".join(said(flags, capsys).split())


@pytest.mark.parametrize(
    ("more", "planned"),
    [
        ({"data": {"val_fraction": 0.2}}, "early_bird"),
        ({"channels": "shuffled"}, "shuffled"),
        ({"name": "snip", "form": "channels", "round_to": 1}, "snip_channels"),
    ],
)
def test_the_plan_of_a_run_is_what_it_executed(tiny_settings, tmp_path: Path, tiny, capsys, more, planned, run_once):
    method = more.get("name", "early_bird")
    more = {key: value for key, value in more.items() if key != "name"}
    run_once(tiny_settings(method, **more), tmp_path / "run")
    flags = [
        "cost",
        "--model",
        f"{tiny}:network",
        "--widths",
        str(tmp_path / "run"),
        "--calibrate",
        "--calibration-steps",
        "5",
    ]
    check = json.loads(said([*flags, "--json"], capsys))["check"]
    assert (check["method"], check["reason"], check["macs"]["error"]) == (planned, None, 0)


def test_code_that_only_a_record_names_is_not_run(finished, tiny, capsys):
    flags = ["cost", "--widths", str(finished)]
    fails(flags, r"--model is .*tiny.py:network', code that runs only when you name it; add --model", capsys)
    flags += ["--model", f"{tiny}:network", "--data.val_fraction", "0.1"]
    fails(flags, r"--data is .*tiny.py:data', code that runs only when you name it; add --data", capsys)
    facts = json.loads(said([*flags, "--data", f"{tiny}:data", "--json"], capsys))
    assert (facts["train_images"], facts["val_images"], facts["test_images"]) == (81, 9, 30)


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ("--model vgg11 --width 0.125 --data cifar100", (50_000, [3, 32, 32], 100)),
        (
            "--model vgg11 --width 0.125 --data cifar10 --data.train_images 1000 --data.val_fraction 0.1",
            (900, [3, 32, 32], 10),
        ),
        ("--model torchvision:resnet18 --data imagenet --data.image_size 64", (1_281_167, [3, 64, 64], 1000)),
    ],
)
def test_data_give_images_and_classes_of_the_plan_without_being_there(flags, sizes, capsys):
    arguments = f"cost {flags} --data.root nowhere --method early_bird --widths uniform --ticket-epoch 9 --json"
    facts = json.loads(said(arguments.split(), capsys))
    assert (facts["train_images"], facts["image_shape"], facts["classes"]) == sizes


def test_a_run_is_not_checked_against_a_plan_of_another_training(finished, tiny, capsys):
    flags = ["cost", "--model", f"{tiny}:network", "--widths", str(finished), "--calibrate", "--calibration-steps", "5"]
    text = " ".join(said([*flags, "--data", f"{tiny}:data", "--data.train_images", "60"], capsys).split())
    assert "Not checked against run: the plan is of another training than the run: -" in text


def test_a_tickets_own_ratio_and_schedule_are_the_plans(finished, tiny, capsys):
    ticket = str(finished / "ticket.safetensors")
    code = ["--model", f"{tiny}:network", "--data", f"{tiny}:data"]
    flags = ["cost", *code, "--widths", ticket, "--batch-size", "20"]
    facts = json.loads(said([*flags, "--json"], capsys))
    drawn = json.loads((finished / "record.json").read_text())["ticket"]
    assert (facts["epochs"], facts["prune_ratio"]) == (12, 0.5)
    assert facts["ticket_epochs"] == [drawn["epoch"], drawn["epoch"]]
    fails([*flags, "--ratio", "0.3"], r"--ratio is 0.3, but the ticket of .* is of 0.5; leave it out", capsys)
    fails([*flags, "--epochs", "20"], r"--epochs is 20, but the ticket of .* is of 12; leave it out, or say", capsys)
    assert json.loads(said([*flags, "--epochs", "20", "--ticket-epoch", "3", "--json"], capsys))["epochs"] == 20


def test_a_run_without_a_ticket_has_no_slim_widths(tiny_settings, tmp_path: Path, tiny, capsys, run_once):
    run_once(tiny_settings("dense"), tmp_path / "dense")
    fails(
        ["cost", "--model", f"{tiny}:network", "--widths", str(tmp_path / "dense")],
        r"drew no ticket \(method dense\), so it has no slim widths; give the run of a ticket, or --widths uniform",
        capsys,
    )
    assert (tmp_path / "dense" / "record.json").is_file()


def test_an_imported_log_shows_in_the_report_beside_the_estimate_and_not_in_its_column(finished, capsys):
    record = json.loads((finished / "record.json").read_text())
    begin, end = record["cost"]["phases"]["search"]["spans"][0][0], record["cost"]["total"]["spans"][-1][1]
    log, seconds = finished.parent / "meter.csv", record["cost"]["total"]["wall_seconds"]
    lines = int(20 * (80 + end - begin))  # Longer than the run, however slow the machine is.
    with open(log, "w", newline="") as file:
        csv.writer(file).writerows([("time", "power (W)"), *((begin - 20 + k / 20, 40.0) for k in range(lines))])
    text = said(["energy", "import", str(log), "--run", str(finished)], capsys)
    joules = float(re.search(r"([\d,.]+) J over 100.0 % of the seconds measured by external_meter", text).group(1))
    assert joules == pytest.approx(40 * seconds, rel=0.01)
    assert "40.0 W before and after the run; it is not taken off" in text
    assert "  meter.csv: time in column 1 ('time'), power in column 2 ('power (W)'), in W\n" in text
    table = said(["report", str(finished), "--markdown"], capsys)
    head = next(line for line in table.splitlines() if line.startswith("| method"))
    row = next(line for line in table.splitlines() if line.startswith("| early_bird"))
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert not cells["energy, measured by external_meter"].startswith("~")
    assert cells["energy, estimated"].startswith("~")
    assert "energy, by the run's own counter: not measured (no counter: " in table


def test_a_log_of_many_columns_is_asked_for_two_of_them(finished, capsys):
    before = (finished / "record.json").read_bytes()
    log = finished.parent / "meter.csv"
    log.write_text("time,volts,watts\n1,230,50\n")
    told = r"name two columns by --time-column and --power-column; the file has 'time', 'volts', 'watts'"
    fails(["energy", "import", str(log), "--run", str(finished)], told, capsys)
    named = ["--time-column", "Time", "--power-column", "watts"]
    told = "meter.csv has no column 'Time'; the file has 'time', 'volts', 'watts'"
    fails(["energy", "import", str(log), "--run", str(finished), *named], told, capsys)
    assert (finished / "record.json").read_bytes() == before


def test_a_bad_log_changes_nothing(finished, capsys):
    before = (finished / "record.json").read_bytes()
    log = finished.parent / "meter.csv"
    log.write_text("time,watts\n1,50\n2,-3\n")
    fails(
        ["energy", "import", str(log), "--run", str(finished)],
        r"meter.csv, line 3: power '-3'; write a finite number of 0 or more",
        capsys,
    )
    assert (finished / "record.json").read_bytes() == before


def test_the_sizes_of_a_folder_are_read_and_the_flag_that_changes_them_is_named(capsys, tmp_path: Path):
    from PIL import Image

    for split, pictures in (("train", 6), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for place in range(pictures):
                Image.new("RGB", (32, 32), (place, label, 0)).save(tmp_path / "set" / split / name / f"{place}.png")
    command = ["cost", "--data", f"imagefolder:{tmp_path / 'set'}", "--data.cache", str(tmp_path / "cache")]
    command += ["--model", "preresnet20", "--width", "0.25", "--method", "dense", "--batch-size", "4", "--json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["image_shape"], facts["train_images"]) == ([3, 32, 32], 12)
    assert main([*command, "--data.image_size", "64"]) == 2
    assert "image_size is 64; resize the data (--data.image_size 32)" in capsys.readouterr().err
