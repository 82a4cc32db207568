"""`run`: train a configuration to a finished run folder; called again after a kill, it resumes.

`prepare` settles once what "auto" means: data, device, network, precision, session.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from earlybird.atomic import write_atomically
from earlybird.core import Ticket
from earlybird.data import Batches, DataBundle, train_batches
from earlybird.data.images import stratified_indices, subset
from earlybird.energy import find_counter, measure_idle
from earlybird.errors import ConfigError, MethodError, RunFolderError, TicketError, is_integer, require
from earlybird.methods.budget import give_budget_
from earlybird.methods.early_bird import draw_tickets, raise_no_ticket, search_steps
from earlybird.methods.hooks import momentum_file, rewind_file
from earlybird.methods.pipeline import Outcome, check_network, run_method, start_from_ticket
from earlybird.methods.retrain import check_notes
from earlybird.methods.task import STEP_TIMES, Candidate, Task
from earlybird.runs.folder import (
    SEARCH_NAME,
    NetworkSpec,
    RunFolder,
    load_dense_run,
    load_network,
    read_search,
    save_network,
)
from earlybird.runs.inputs import (
    evaluation_batches,
    load_bundle,
    network_and_data,
    refuse_smaller_images,
    resolve_augment,
)
from earlybird.runs.record import make_record
from earlybird.runs.record_file import check_files, file_digests, finished_record, record_of, write_record
from earlybird.settings.method import (
    TICKET_FILE,
    EarlyBirdTraining,
    Method,
    TicketRequest,
    check_requests,
    hardware_multiple,
    with_multiple,
)
from earlybird.settings.recipes import recipe_of
from earlybird.settings.run import RunConfig, refuse_unnamed_code
from earlybird.training.compute import Compute, Evaluation, choose_device, choose_precision, evaluate
from earlybird.training.session import Journal, Progress, Session, StopFlag, stop_on_signals
from earlybird.training.step_choice import choose_step, resolved_compute


def run(
    config: RunConfig,
    out: str | Path,
    *,
    ticket: str | Path | None = None,
    dense_run: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
    wait: bool = False,
    step_times: Path | None = None,
) -> dict[str, Any]:
    """Train a configuration to its record (`record.json`), which is returned, or resume the run in the folder.

    Args:
        config: all settings.
        out: the run folder; made if absent.
        ticket: start from this ticket instead of searching.
        dense_run: folder of a finished run of method `dense` to start from, instead of training that again.
        force: go on even if the folder holds another configuration.
        quiet: print no progress.
        wait: wait for another process that has the folder instead of raising.
        step_times: file of step times that runs share, where a budget needs them; by default in the folder.

    Raises:
        EarlyBirdError: anything the user can mend; one line.
        Terminated: a signal asked to stop; the state is saved.
    """
    folder = RunFolder(out)
    if ticket is not None and dense_run is not None:
        raise MethodError("a run starts from a ticket or from a dense run, not from both; leave one out")
    drawn = None
    if ticket is not None:  # Read before the folder is made: a wrong ticket must leave nothing behind.
        drawn = Ticket.load(ticket)
        check_files(Path(ticket).parent, Path(ticket).name)
    with folder.held(wait=wait):
        resolved = folder.open(config, force=force)
        if drawn is not None:
            _refuse_another_ticket(folder, drawn)
        if (finished := finished_record(folder.path)) is not None:
            folder.checkpoints.clear()  # A kill may have come between the record and this.
            return finished
        with _started(config, folder, resolved, quiet, drawn, step_times) as prepared:
            candidate = trained = None
            if not folder.checkpoints.exist():  # Else it has what it needs.
                if ticket is not None and drawn is not None:
                    candidate = _start_from_ticket(prepared, drawn, Path(ticket))
                if dense_run is not None:
                    trained = load_dense_run(Path(dense_run), config, prepared.resolved["precision"])
            outcome = run_method(prepared.method, prepared.task, prepared.test_batches(), candidate, trained)
            return _write_result(folder, config, prepared, outcome)


def _write_result(folder: RunFolder, config: RunConfig, prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    """Write the network and the record of a run that has ended; its checkpoints go."""
    folder.raise_if_gone()
    used = outcome.candidate.ticket
    save_network(folder.path, outcome.candidate.model, prepared.spec, used.mask if used else None)
    record = make_record(config, prepared.resolved, prepared.task, outcome) | {"files": file_digests(folder.path)}
    write_record(folder.path, record)
    folder.checkpoints.clear()
    return record


def run_search(
    config: RunConfig,
    requests: Sequence[TicketRequest],
    out: str | Path,
    *,
    force: bool = False,
    quiet: bool = False,
    wait: bool = False,
    step_times: Path | None = None,
) -> dict[TicketRequest, Path | None]:
    """Write all requested tickets, in one dense training: request -> path, or None where the rule never fired.

    `force`, `quiet`, `wait` and `step_times` are those of `run`.

    Raises:
        ConfigError: the method does not search, a ratio or draw is out of range or asked for twice, or the folder holds
            a search of other tickets.
        EarlyBirdError: anything else the user can mend.
    """
    check_requests(requests)
    method = config.method
    if not isinstance(method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {method.name!r}, which searches no such ticket; give early_bird")
    folder = RunFolder(out)
    with folder.held(wait=wait):
        resolved = folder.open(config, force=force)
        if not (folder.path / SEARCH_NAME).is_file():
            with _started(config, folder, resolved, quiet, step_times=step_times) as prepared:
                summary = _search(cast(EarlyBirdTraining, prepared.method), prepared.task, requests)
                folder.raise_if_gone()
                write_atomically(folder.path / SEARCH_NAME, json.dumps(summary, allow_nan=False).encode())
                folder.checkpoints.clear()
    theirs = read_search(folder.path)["tickets"]
    if theirs != [[request.prune_ratio, request.draw_at] for request in requests]:
        ratios = list(dict.fromkeys(ratio for ratio, _ in theirs))
        draws = list(dict.fromkeys(draw for _, draw in theirs))
        what = f"the ratios {ratios}" + (f" at the draws {draws}" if draws != ["rule"] else "")
        raise ConfigError(f"{folder.path} holds a search of {what}; give these, or another --out")
    paths = {request: folder.path / request.file_name(requests) for request in requests}
    return {request: path if path.is_file() else None for request, path in paths.items()}


def _search(method: EarlyBirdTraining, task: Task, requests: Sequence[TicketRequest]) -> dict[str, Any]:
    """Draw the tickets; what `search.json` says of them."""
    resume = task.session.checkpoints.latest()
    if resume is None:
        check_network(method, task.build(), task.example_input())
    # Nobody wants the dense network here: without a ticket the training ends when the draws do.
    hooks, _ = draw_tickets(method, task, requests, resume, end_step=search_steps(method, task.session))
    if method.on_no_ticket == "error" and not hooks.has_all_tickets():
        raise_no_ticket(hooks)
    return {
        "ratios": list(hooks.detector.prune_ratios),
        "tickets": [[request.prune_ratio, request.draw_at] for request in requests],
        "fired": hooks.detector.fired,
        "distances": hooks.detector.distances,
        "draw_steps": hooks.draw_steps,
    }


def run_evaluation(out: str | Path, *, device: str = "auto", trusted: Collection[str] = ()) -> Evaluation:
    """Evaluate a finished run's network on the test set once more; nothing is written.

    device: auto, cpu, cuda or cuda:N. trusted: names of models and data in the user's own code that may be imported and
    called; a run folder by itself runs no code.

    Raises:
        EarlyBirdError: the folder holds no finished run, its data is gone, or it names code that is not trusted.
    """
    folder = Path(out)
    record = record_of(folder)
    # Not all of the configuration: its method may be code that an evaluation has no use for.
    training = record["config"]["training"]
    data = RunConfig.from_dict({"data": record["config"]["data"]}).data
    refuse_unnamed_code("--data", data.name, trusted)
    model, _ = load_network(folder, trusted=trusted)
    place, resolved = choose_device(device), record["resolved"]
    layout = resolved.get("layout") if record["device"]["type"] == place.type else None
    compute = Compute(place, resolved["precision"], layout=layout, tf32=training.get("tf32", "conv"))
    bundle = load_bundle(data, training["seed"])
    batches = evaluation_batches(bundle, "test", training.get("eval_batch_size", 500), compute, data.workers)
    return evaluate(compute.place(model), batches, compute)


@contextmanager
def _started(
    config: RunConfig,
    folder: RunFolder,
    resolved: dict[str, Any],
    quiet: bool,
    ticket: Ticket | None = None,
    step_times: Path | None = None,
) -> Iterator[Prepared]:
    """Prepare a run and heed signals inside; a start that fails leaves nothing behind."""
    try:
        with stop_on_signals() as stop:
            prepared = prepare(config, folder, resolved, stop, quiet, ticket, step_times)
            yield prepared
            prepared.task.session.energy.stop()
            stop.raise_if_set()  # It came after the last step; the result is written.
    except BaseException:
        folder.raise_if_gone()
        folder.discard_failed_start()
        raise


def _refuse_another_ticket(folder: RunFolder, ticket: Ticket) -> None:
    """Raise if the folder has begun a run that did not start from this very ticket."""
    path = folder.path / TICKET_FILE
    if finished_record(folder.path) is None and not folder.checkpoints.exist():
        return
    own = Ticket.load(path) if path.is_file() else None
    same = own is not None and own.mask == ticket.mask and own.weights.keys() == ticket.weights.keys()
    if own is None or not same or not all(torch.equal(own.weights[name], ticket.weights[name]) for name in own.weights):
        raise RunFolderError(f"{folder.path} holds a run that did not start from this ticket; give another --out")


def _start_from_ticket(prepared: Prepared, ticket: Ticket, path: Path) -> Candidate:
    """Put the ticket (and what it needs from the files beside it) into the run folder, and let the method start."""
    method, task = prepared.method, prepared.task
    check_notes(ticket)
    drawn = (ticket.notes["total_steps"], ticket.notes["steps_per_epoch"])
    now = (task.session.total_steps, task.session.steps_per_epoch)
    schedule = method.resolved_schedule if isinstance(method, EarlyBirdTraining) else None
    if drawn != now and schedule != "restart":
        raise TicketError(
            f"the ticket was drawn in a schedule of {drawn[0]} steps, this run has {now[0]} (per epoch {drawn[1]} and "
            f"{now[1]}); give the --epochs, --batch-size and --data of the search"
            + (", or --method.schedule restart" if schedule else "")
        )
    ratio = getattr(method, "prune_ratio", ticket.prune_ratio)
    if ratio != ticket.prune_ratio:
        raise TicketError(f"the ticket is of ratio {ticket.prune_ratio:g}, --ratio is {ratio:g}; give the ticket's")
    copy = task.folder / TICKET_FILE
    ticket.save(copy)
    wanted = []
    if isinstance(method, EarlyBirdTraining) and method.weights == "rewind":
        wanted.append(tuple(rewind_file(place, method.rewind_epoch) for place in (path.parent, task.folder)))
    if isinstance(method, EarlyBirdTraining) and method.carry_momentum:
        wanted.append((momentum_file(path), momentum_file(copy)))
    for theirs, ours in wanted:
        if theirs.is_file() and theirs.resolve() != ours.resolve():
            write_atomically(ours, theirs.read_bytes())
    return start_from_ticket(method, task)


@dataclass(frozen=True)
class Prepared:
    """Prepared run: task, method with its "auto" settled, network for the record, and the test set, to be read once."""

    task: Task
    method: Method
    spec: NetworkSpec
    resolved: dict[str, Any]
    test_batches: Callable[[], Batches]


def prepare(
    config: RunConfig, folder: RunFolder, resolved: dict[str, Any], stop: StopFlag, quiet: bool,
    ticket: Ticket | None = None, step_times: Path | None = None,
) -> Prepared:  # fmt: skip
    """Load data and network, settle device and precision, and write the value of each "auto" into the folder.

    `resolved` is what an earlier start settled; it is reused, so that a resumed run keeps its numbers.

    Raises:
        EarlyBirdError: unknown or missing model or data, or a network that cannot take these images, or is not the
            ticket's.
    """
    settings = config.training
    spec, bundle, model = network_and_data(config, ticket)
    if settings.low_resolution:
        refuse_smaller_images(spec, model)
    device = choose_device(settings.device)
    shape = (settings.batch_size, *spec.example_input().shape[1:])
    precision = resolved.get("precision") or choose_precision(settings.precision, model, shape, device)
    compute = Compute(device, precision, tf32=settings.tf32)
    # An earlier start, of whatever version, has settled the step where it has settled the precision.
    is_begun = "precision" in resolved
    compute = resolved_compute(compute, resolved) if is_begun else choose_step(settings, model, shape, compute)
    session = _session(config, bundle, compute, folder, stop, quiet)
    image_shape = (bundle.in_channels, bundle.image_size, bundle.image_size)
    sample, times = partial(_sample, config, bundle, compute), step_times or folder.path / STEP_TIMES
    task = Task(spec.build, image_shape, session, folder.path, settings.seed, bundle.num_classes, sample, times)
    settled = give_budget_(task, compute.place(model), resolved)
    measure_idle(session.energy)  # now, while nothing runs
    settled |= {
        "precision": precision, "step": compute.step, "layout": compute.layout, "device": str(device),
        "augment": resolve_augment(config.data, bundle), "recipe": recipe_of(asdict(settings)),
        "threads": torch.get_num_threads(), "steps_per_epoch": session.steps_per_epoch,
        "total_steps": session.total_steps,
    }  # fmt: skip
    if isinstance(config.method, EarlyBirdTraining):
        settled["schedule"] = config.method.resolved_schedule
    method = _at_settled_widths(config.method, resolved, compute)
    if is_integer(round_to := getattr(method, "round_to", None)):
        settled["round_to"] = round_to
    folder.write_config(config, settled)
    test = partial(evaluation_batches, bundle, "test", settings.eval_batch_size, compute, config.data.workers)
    return Prepared(task, method, spec, settled, test)


def _at_settled_widths(method: Method, resolved: Mapping[str, Any], compute: Compute) -> Method:
    """The method with `round_to` "auto" taken as an earlier start took it, else as the device and precision say.

    Raises:
        ConfigError: the earlier start's is no multiple.
    """
    multiple = resolved.get("round_to", hardware_multiple(compute.device.type, compute.precision))
    require("resolved.round_to", multiple, is_integer(multiple) and multiple >= 1, "an integer >= 1")
    return with_multiple(method, multiple)


def _session(
    config: RunConfig, bundle: DataBundle, compute: Compute, folder: RunFolder, stop: StopFlag, quiet: bool
) -> Session:
    settings, workers = config.training, config.data.workers
    train = train_batches(
        bundle, batch_size=settings.batch_size, seed=settings.seed, augment=resolve_augment(config.data, bundle),
        device=compute.device, workers=workers, memory_format=compute.memory_format,
    )  # fmt: skip
    val = None
    if bundle.val is not None:
        val = evaluation_batches(bundle, "val", settings.eval_batch_size, compute, workers)
    return Session(
        train, val, settings, compute, folder.checkpoints, Journal(folder.write_rows),
        Progress(train.steps_per_epoch, settings.epochs, quiet=quiet), stop, find_counter(compute.device),
    )  # fmt: skip


def _sample(config: RunConfig, bundle: DataBundle, compute: Compute, images: int) -> Batches:
    """Sample of training images, each class by its share, not augmented; the same ones for the same seed."""
    chosen = stratified_indices(bundle.train.labels, images, config.training.seed)
    sample = replace(bundle, train=subset(bundle.train, chosen))
    return evaluation_batches(sample, "train", config.training.eval_batch_size, compute, config.data.workers)
