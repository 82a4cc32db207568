"""The records of a study as one file, `docs/results/STUDY/records.tar.xz`, and back.

    python benchmarks/pack_results.py pack runs/STUDY [--also 'scaled-s0/scales.npz']
    python benchmarks/pack_results.py unpack STUDY [--into runs]

`pack` takes of every run and search its record, its settings and the file of its tickets, and the grid of a comparison;
`--also` names further files, as glob patterns within the folder. The same files give the same bytes, whenever and by
whomever they are packed. `unpack` is what `tar -xf docs/results/STUDY/records.tar.xz -C runs` does.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"
ARCHIVE = "records.tar.xz"
KEPT = ("**/record.json", "**/search.json", "**/config.yaml", "grid.json", "plan-*.json")


def pack(folder: Path, also: Sequence[str] = (), results: Path = RESULTS) -> Path:
    """Write the archive of a study; its name is the folder's."""
    files = sorted({path for pattern in (*KEPT, *also) for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise SystemExit(f"no records below '{folder}'; give the folder that holds a study's run folders")
    archive = results / folder.name / ARCHIVE
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", format=tarfile.USTAR_FORMAT, preset=9) as tar:
        for path in files:
            content = path.read_bytes()
            # A fresh entry: time 0, owner 0, mode 644. What the disk says of the file would change the bytes.
            entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def unpack(study: str, into: Path, results: Path = RESULTS) -> Path:
    """Unpack the archive of a study; returns the folder that holds its run folders."""
    with tarfile.open(results / study / ARCHIVE) as tar:
        tar.extractall(into, filter="data")
    return into / study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--also", nargs="*", default=[], metavar="PATTERN")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("study", choices=sorted(path.parent.name for path in RESULTS.glob(f"*/{ARCHIVE}")))
    unpacking.add_argument("--into", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    if arguments.command == "pack":
        print(pack(arguments.folder, arguments.also))
    else:
        print(unpack(arguments.study, arguments.into))


if __name__ == "__main__":
    main()
