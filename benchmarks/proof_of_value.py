"""Shows that a refactor changed nothing: the same runs by two source trees end with the same bits.

    python benchmarks/proof_of_value.py run OUT [--source TREE]    # about five minutes each, one thread
    python benchmarks/proof_of_value.py compare OLD NEW            # exit code 1 and a list where anything differs
    python benchmarks/proof_of_value.py reread OLD                 # this tree reads what the old one left

`run` trains digits with every method, preset and control (same seed) and compares a grid at equal cost. `compare` holds
tensors (sha256), masks, scales and records against each other, times and versions left out. `reread` evaluates every
old run, retrains an old ticket, resumes an old unfinished run, and prints the old folder as a table.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DATA = "--data digits --data.train_images 400 --data.val_fraction 0.1 --batch-size 40 --precision fp32"
SHORT = f"--model vgg16 --width 0.125 {DATA} --epochs 6 --quiet"
BASE = f"{SHORT} --seed 3"
RESIDUAL = f"--model preresnet20 {DATA} --epochs 3 --quiet --seed 3"
TRAINED = {
    "dense": "--method dense",
    "early_bird": "--method early_bird",
    "authors_code": "--method.rule authors_code",
    "epi": "--method.rule epi",
    "clock_epochs": "--clock epochs --method.window 2 --method.epsilon 0.6",
    "rewind": "--weights rewind --method.rewind_epoch 1 --method.draw_at 8",
    "momentum": "--method.carry_momentum true --round-to 1",
    "proximal": "--method.penalty_form proximal --method.retrain_penalty 1e-4",
    "filter_l1": "--method.criterion filter_l1",
    "taylor": "--method.criterion taylor --method.draw_at 8",
    "no_ticket": "--method.epsilon 1e-6 --round-to 1",
    "drawn_anyway": "--method.epsilon 1e-6 --round-to 1 --on-no-ticket draw",
    "budget": "--training.budget_macs 2e9",
    **{
        name: f"--method {name}"
        for name in (
            "reinit", "random", "shuffled", "draw_0", "draw_1", "draw_5", "draw_last", "early_bird_restart",
            "lottery_ticket", "lottery_ticket_reinit", "lottery_ticket_iterative", "snip", "snip_channels",
            "network_slimming", "soft_filter_pruning", "soft_filter_pruning_as_written",
        )
    },
    "late_rewinding": "--method lottery_ticket --method.rewind_epoch 2",
    "thinet": "--method thinet --method.finetune_steps 3",
}  # fmt: skip
# Not `-m earlybird`, which older trees lack.
COMMAND_LINE = "import sys; from earlybird.cli.main import main; sys.exit(main())"
CONTROLS = ("uniform", "scratch_longer", "dense_shorter")
GRID = (
    f"compare {SHORT} --methods dense,early_bird,uniform,thinet:finetune_steps=3,lottery_ticket,shuffled "
    "--equal-cost thinet:finetune_steps=3,lottery_ticket --ratios 0.5 --seeds 3"
)
# What differs between two runs of one program, and what tells which program it was.
VOLATILE = {
    "created_at", "versions", "wall_seconds", "cpu_seconds", "peak_bytes", "joules", "spans", "energy", "seconds",
    "energy_coverage", "draw_wall_seconds", "draw_cpu_seconds", "draw_seconds", "images_per_second", "preset",
    "files", "seal", "format_version",
}  # fmt: skip


def commands(out: Path) -> dict[str, str]:
    """Folder name -> command line; later ones start from what earlier ones left."""
    found = {name: f"train {BASE} {flags} --out {out / name}" for name, flags in TRAINED.items()}
    found["preresnet"] = f"train {RESIDUAL} --ratio 0.4 --out {out / 'preresnet'}"
    found["from_dense"] = f"train {BASE} --method lottery_ticket --dense-run {out / 'dense'} --out {out / 'from_dense'}"
    found["search"] = f"search {BASE} --ratios [0.3,0.6] --draws [rule,0,8] --out {out / 'search'}"
    for name in CONTROLS:
        ticket = out / "early_bird" / "ticket.safetensors"
        found[name] = f"retrain {BASE} --ticket {ticket} --method {name} --out {out / name}"
    found["grid"] = f"{GRID} --out {out / 'grid'}"
    return found


def run(out: Path) -> None:
    from earlybird.cli.main import main

    for name, line in commands(out).items():
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(line.split())
        print(f"{name}: {time.process_time() - began:.1f} s", flush=True)
        if code:
            raise SystemExit(f"{line} ended with {code}")
    _interrupted(out / "interrupted")


def _interrupted(folder: Path) -> None:
    """An Early-Bird run that was told to stop in the middle of its retrain."""
    flags = f"train {BASE} --method early_bird --training.checkpoint_every 3 --out {folder}"
    process = subprocess.Popen([sys.executable, "-c", COMMAND_LINE, *flags.split()])
    while process.poll() is None and not (folder / "ticket.safetensors").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    print(f"interrupted: exit code {process.wait()}")


def tensors_digest(path: Path) -> str:
    """Of all names, types, shapes and bytes of a safetensors or npz file."""
    import numpy as np
    from safetensors.numpy import load_file

    arrays = dict(np.load(path)) if path.suffix == ".npz" else load_file(path)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def stable(value: Any) -> Any:
    """JSON without what differs from run to run, and without the place of the folder."""
    if isinstance(value, dict):
        return {key: stable(entry) for key, entry in value.items() if key not in VOLATILE}
    return [stable(entry) for entry in value] if isinstance(value, list) else value


def facts(root: Path) -> dict[str, Any]:
    """Path below the root -> digest of its tensors, or its JSON."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if "checkpoints" in name or name.startswith(("interrupted", "reread")):
            continue
        if path.suffix in (".safetensors", ".npz"):
            found[name] = tensors_digest(path)
        elif path.name in ("record.json", "search.json") or path.name in ("config.json",):
            found[name] = stable(json.loads(path.read_text()))
    return found


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{where}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{where}[{i}]")
        ]
    return [] if old == new else [f"{where}: {str(old)[:80]} -> {str(new)[:80]}"]


def compare(old: Path, new: Path) -> int:
    ours, theirs = facts(new), facts(old)
    wrong = differences(theirs, ours)
    tensors = sum(isinstance(value, str) for value in theirs.values())
    print(
        f"{len(theirs)} files of {old}: {tensors} of tensors, {len(theirs) - tensors} of JSON; {len(wrong)} differences"
    )
    print("\n".join(wrong[:60]))
    return 1 if wrong else 0


def reread(old: Path) -> int:
    from earlybird.cli.main import main
    from earlybird.runs.run import run_evaluation

    wrong, seen = [], 0
    for path in sorted(old.rglob("record.json")):
        if "reread" in path.parts or path.parent.name == "interrupted":
            continue
        record = json.loads(path.read_text())
        seen += 1
        result = run_evaluation(path.parent)
        if (result.correct, result.loss) != (record["test"]["correct"], record["test"]["loss"]):
            wrong.append(f"evaluate {path.parent.name}: {result} against {record['test']}")
    copies = old / "reread"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(old / "interrupted", copies / "interrupted")
    flags = f"{BASE} --method early_bird --training.checkpoint_every 3"
    with contextlib.redirect_stdout(io.StringIO()):
        main(f"train {flags} --out {copies / 'interrupted'}".split())
        main(f"retrain --ticket {old / 'early_bird' / 'ticket.safetensors'} --out {copies / 'retrain'} --quiet".split())
    expected = tensors_digest(old / "early_bird" / "model.safetensors")
    for name in ("interrupted", "retrain"):
        if tensors_digest(copies / name / "model.safetensors") != expected:
            wrong.append(f"{name}: another network than the uninterrupted run's")
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        code = main(["report", str(old)])
    if code or "early_bird" not in table.getvalue():
        wrong.append(f"report: exit code {code}")
    print(f"{seen} runs evaluated to their recorded loss, 1 resumed, 1 ticket retrained; {len(wrong)} differences")
    print("\n".join(wrong))
    return 1 if wrong else 0


def main() -> int:
    action, places = sys.argv[1], [Path(place).resolve() for place in sys.argv[2:4] if not place.startswith("--")]
    if "--source" in sys.argv:
        source = Path(sys.argv[sys.argv.index("--source") + 1]).resolve() / "src"
        places = places[:1]
        if os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] != str(source):
            os.environ["PYTHONPATH"] = str(source)
            os.execv(sys.executable, [sys.executable, *sys.argv])
    import torch

    import earlybird

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"earlybird of {Path(earlybird.__file__).parent}, torch {torch.__version__}")
    if action == "run":
        run(places[0])
        return 0
    return compare(*places) if action == "compare" else reread(places[0])


if __name__ == "__main__":
    sys.exit(main())
