"""A plan for people, and for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from simjax.plan.chips import Chip
from simjax.plan.operations import operations
from simjax.plan.planning import Plan
from simjax.plan.roofline import BEST, USUAL
from simjax.plan.search import Candidate
from simjax.plan.transfers import sent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SMALLER = "choose train.remat layer, a smaller train.micro_batch or a larger mesh.fsdp"


def figures(plan: Plan) -> dict[str, Any]:
    """All figures, in bytes, seconds and operations."""
    layout, memory, roofline = plan.layout, plan.memory, plan.roofline
    count = operations(layout, plan.topology.chip.platform)
    found: dict[str, Any] = {
        "topology": plan.topology.name,
        "devices": plan.topology.devices,
        "mesh": {"data": layout.parts // layout.fsdp, "fsdp": layout.fsdp, "tensor": layout.tensor},
        "keys": layout.exchange,
        "batch_size": layout.batch_size,
        "micro_batch": layout.micro * layout.block,
        "rows": {
            "length": layout.row_length,
            "of_a_block": layout.rows,
            "tokens_of_a_text": plan.rows.tokens,
            "fill": plan.rows.fill,
            "source": plan.rows.source,
        },
        "memory": {
            "parts": {part.name: part.bytes for part in memory.parts},
            "at_the_peak": [part.name for part in memory.parts if memory.phase in part.phases],
            "phase": memory.phase,
            "formula": memory.total,
            "compiler": None if plan.compiled is None else plan.compiled.total,
            "room": plan.room,
            "fits": plan.fits,
        },
        "operations": {
            "asked": count.asked,
            "encoder_of_a_device": count.encoder,
            "pairs_of_a_device": count.pairs,
            "head_of_a_device": count.head,
        },
        "sent": {"formula": sent(layout, plan.topology.chip.platform)},
        "seconds": {
            "products": roofline.products,
            "memory": roofline.memory,
            "links": roofline.links,
            "at_least": roofline.seconds,
            "expected": roofline.expected,
        },
        "bound": roofline.bound,
        "pairs_per_second": roofline.pairs_per_second,
        "mfu": roofline.mfu,
        "largest_batch": plan.largest_batch,
    }
    if plan.asked_batch is not None:
        found["asked_batch_size"] = plan.asked_batch
    if plan.compiled is not None and plan.compiled.needed is None:
        found["sent"]["compiler"] = plan.compiled.sent()
        found["compile_seconds"] = plan.compiled.seconds
    return found


def show(plan: Plan, recipe: str, console: Console) -> None:
    """Prints a plan."""
    layout, chip = plan.layout, plan.topology.chip

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    line(f"{recipe} on {plan.topology.name}: {_mesh(plan)}")
    for note in _notes(plan):
        line(note)
    console.print(_memory(plan), highlight=False)
    if plan.compiled is not None and plan.compiled.needed is not None:
        line(
            f"does not fit: the compiler asks for {_bytes(plan.compiled.needed)} of a device's "
            f"{_bytes(chip.memory)}; {_SMALLER}"
        )
    elif not plan.fits:
        line(
            f"does not fit: a step may take {_bytes(plan.room)} of a device; {_SMALLER} (or see "
            "--search)"
        )
    console.print(_time(plan), highlight=False)
    console.print(_sent(plan), highlight=False)
    fast, slow = plan.roofline.expected
    low, high = plan.roofline.pairs_per_second
    least, most = plan.roofline.mfu
    line(
        f"by the roofline a step takes {_seconds(plan.roofline.seconds)}, bound by "
        f"{plan.roofline.bound}; "
        f"expected {_seconds(fast)} to {_seconds(slow)}: {low:,.0f} to {high:,.0f} pairs/s, MFU "
        f"{least:.0%} to {most:.0%}"
    )
    line(
        f"(products at {BEST:.0%} of the peak with all transfers beside them, to products at "
        f"{USUAL:.0%} and nothing beside them; assumed, not measured)"
    )
    if chip.axes:
        line(
            f"(what goes round a ring of devices, such as collective-permute, is taken to use one "
            f"of a chip's {2 * chip.axes} links, to a neighbour, and the rest all of them)"
        )
    largest = plan.largest_batch
    if largest:
        line(
            f"largest global batch that fits, in micro-batches of {layout.micro * layout.block:,} "
            f"of a device: {largest:,}"
        )
    else:
        line("no global batch fits in micro-batches of this size")


def _mesh(plan: Plan) -> str:
    layout = plan.layout
    sizes = f"data {layout.parts // layout.fsdp} x fsdp {layout.fsdp}"
    if layout.tensor > 1:
        sizes += f" x tensor {layout.tensor}"
    used = f"{layout.devices} of " if layout.devices < plan.topology.devices else ""
    return (
        f"{used}{plan.topology.devices} devices, {sizes}; a batch of {layout.batch_size:,}, "
        f"{layout.own_examples:,} of a device in micro-batches of "
        f"{layout.micro * layout.block:,}; keys by {layout.exchange.replace('_', '-')}; "
        f"{layout.dtype}"
    )


def _notes(plan: Plan) -> Iterable[str]:
    layout, rows = plan.layout, plan.rows
    if plan.asked_batch is not None:
        yield (
            f"data.batch_size {plan.asked_batch:,} is fewer blocks of {layout.block} than there "
            f"are devices to share them, and simjax train would refuse it; planned is "
            f"{layout.batch_size:,}"
        )
    parameters = plan.layout.held.whole // 4
    yield (
        f"encoder: {plan.shapes.source}; {parameters:,} parameters"
        + (" of a device" if layout.tensor > 1 else "")
    )
    yield (
        f"texts: {rows.source}; {rows.tokens:.1f} tokens each, {rows.rows} rows of "
        f"{layout.row_length} to a block of {layout.block}, fill {rows.fill:.2f}"
    )
    if not plan.topology.compiles:
        yield "by formula alone: plans for GPUs are not compiled"
        if plan.topology.devices > plan.topology.chip.per_host:
            yield (
                f"links: NVLink's; between machines of {plan.topology.chip.per_host} the network "
                "is taken to be as fast"
            )
    elif plan.compiled is None:
        yield "by formula alone, as was asked"
    else:
        level = os.environ.get("JAX_OPTIMIZATION_LEVEL")
        lower = (
            "" if level is None else f" at JAX_OPTIMIZATION_LEVEL {level}, which sends otherwise"
        )
        yield f"compiled in {plan.compiled.seconds:.0f} s{lower}"


def _memory(plan: Plan) -> Table:
    table = _table("memory of a device", "", f"at the peak ({_PHASES[plan.memory.phase]})")
    for part in plan.memory.parts:
        there = plan.memory.phase in part.phases
        table.add_row(part.name, _bytes(part.bytes), _bytes(part.bytes) if there else "")
    table.add_section()
    table.add_row("all, by formula", "", _bytes(plan.memory.total))
    if plan.compiled is not None:
        remainder = plan.compiled.total - plan.memory.total
        table.add_row("remainder", "", f"{'-' if remainder < 0 else ''}{_bytes(abs(remainder))}")
        table.add_row("all, by the compiler", "", _bytes(plan.compiled.total))
    table.add_row("a step may take", "", _bytes(plan.room))
    return table


_PHASES = {"encode": "the encoder", "loss": "the loss", "update": "the update"}


def _time(plan: Plan) -> Table:
    chip, roofline = plan.topology.chip, plan.roofline
    count = operations(plan.layout, chip.platform)
    table = _table("a step of a device", "", "at the published peak")
    table.add_row("operations of the encoder", _tera(count.encoder), "")
    table.add_row("operations of the pairs", _tera(count.pairs), "")
    if count.head:
        table.add_row("operations of masked tokens", _tera(count.head), "")
    table.add_row("products", _rate(chip, plan), _seconds(roofline.products))
    table.add_row(
        "HBM, estimated", f"{chip.memory_bandwidth / 1e9:,.0f} GB/s", _seconds(roofline.memory)
    )
    rate = f"{chip.links / 1e9:,.0f} GB/s sent"
    if chip.axes:
        rate += f", {chip.link / 1e9:,.0f} to one neighbour"
    table.add_row("links", rate, _seconds(roofline.links))
    table.caption = f"peaks: {chip.source}"
    return table


def _rate(chip: Chip, plan: Plan) -> str:
    return f"{chip.peak(plan.layout.dtype) / 1e12:,.0f} TFLOP/s"


def _sent(plan: Plan) -> Table:
    table = _table("sent by a device in a step", "", "")
    compiled = None
    if plan.compiled is not None and plan.compiled.needed is None:
        compiled = plan.compiled.sent()
    formula = sent(plan.layout, plan.topology.chip.platform)
    for name, size in formula.items():
        table.add_row(f"{name}, by formula", _bytes(size), "")
    for kind, size in (compiled or {}).items():
        table.add_row(f"{kind}, by the compiler", "", _bytes(size))
    table.add_section()
    table.add_row(
        "all",
        _bytes(sum(formula.values())),
        "" if compiled is None else _bytes(sum(compiled.values())),
    )
    return table


def show_search(
    ranked: list[Candidate], plans: list[Plan], winner: Plan | None, console: Console
) -> None:
    """Prints what a search found: the candidates that were compiled, or the best by formula."""
    from rich.table import Table

    table = Table(title=f"the best of {len(ranked)} layouts that fit by formula")
    for heading in ("mesh", "micro-batch", "keys", "memory", "roofline", "expected, slow"):
        table.add_column(heading, justify="right")
    for plan in plans:
        layout = plan.layout
        mesh = f"{layout.parts // layout.fsdp} x {layout.fsdp} x {layout.tensor}"
        if layout.by_layer:
            mesh += " by layer"
        mark = " *" if plan is winner else ""
        table.add_row(
            mesh + mark,
            f"{layout.micro * layout.block:,}",
            layout.exchange,
            _bytes(plan.total) + ("" if plan.fits else " (does not fit)"),
            _seconds(plan.roofline.seconds),
            _seconds(plan.roofline.expected[1]),
        )
    console.print(table, highlight=False)


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(title_justify="left", caption_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _bytes(count: float) -> str:
    if not count:
        return "0"
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _tera(count: float) -> str:
    return f"{count / 1e12:,.3f} T"
