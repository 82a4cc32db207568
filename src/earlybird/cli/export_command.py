"""`earlybird export`: the network of a finished run as ONNX or .pt2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from earlybird.cli.options import Parser
from earlybird.errors import ConfigError


def command(argv: Sequence[str]) -> int:
    """Write the file and say how far it is from its source."""
    parser = Parser("export", "Write the network of a finished run as ONNX or .pt2, and compare it with its source.")
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--onnx", action="store_true", help="ONNX (needs the extra `export`)")
    parser.add_argument("--pt2", action="store_true", help="torch.export program")
    parser.add_argument("--out", type=str | None, default=None, help="folder to write into; default the run folder")
    parser.add_argument("--model", type=str | None, default=None, help="name the run's model again if it is your code")
    parsed = parser.parse_args(list(argv))
    if not (parsed.onnx or parsed.pt2):
        raise ConfigError("no format given; add --onnx, --pt2 or both")
    from earlybird.integrations.export import export_onnx, export_pt2
    from earlybird.runs.folder import load_network

    model, spec = load_network(Path(parsed.run), trusted=[parsed.model] if parsed.model else [])
    folder = Path(parsed.out or parsed.run)
    folder.mkdir(parents=True, exist_ok=True)
    example = spec.example_input().repeat(2, 1, 1, 1)
    for wanted, write, name in ((parsed.onnx, export_onnx, "model.onnx"), (parsed.pt2, export_pt2, "model.pt2")):
        if wanted:
            difference = write(model, example, folder / name)
            print(f"{folder / name}: relative difference to the run's network {difference:.1e}")
    return 0
