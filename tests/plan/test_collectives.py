"""Bytes read off a compiled program's text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from simjax.plan.collectives import bytes_sent, collectives, largest

TEXT = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (s: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%inner_body (s: (s32[])) -> (s32[]) {
  %part = f32[2,8]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %next = (s32[]) tuple(%i)
}

%outer_condition (s: (s32[])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%outer_body (s: (s32[])) -> (s32[]) {
  %loop = (s32[]) while(%s), condition=%inner_condition, body=%inner_body
  %whole = (bf16[4]{0}, bf16[16]{0}) all-gather-start(%x), replica_groups={{0,2,4,6},{1,3,5,7}}
  %done = bf16[16]{0} all-gather-done(%whole)
  ROOT %next = (s32[]) tuple(%i)
}

%chosen (x: f32[]) -> f32[] {
  ROOT %r = (f32[10]{0}, f32[]) all-reduce(%x, %y), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main (x: f32[]) -> f32[] {
  %turns = (s32[]) while(%s), condition=%outer_condition, body=%outer_body, backend_config={FIVE}
  %one = f32[] conditional(%p, %x, %x), branch_computations={%chosen, %add}
  %ring = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=1
}
"""
FIVE = '"known_trip_count":{"n":"5"}'
TEXT = TEXT.replace("FIVE", FIVE)


def program(text=TEXT):
    return SimpleNamespace(as_text=lambda: text)


def test_loops_within_loops_are_counted_as_they_turn():
    found = {one.kind: one for one in collectives(program(), 8)}
    assert found["reduce-scatter"].turns == 15 and found["reduce-scatter"].depth == 2
    assert found["all-gather"].turns == 5 and found["all-gather"].depth == 1
    assert found["all-reduce"].turns == 1 and found["all-reduce"].depth == 0


def test_bytes_go_by_the_group_and_not_by_all_devices():
    assert bytes_sent(program(), 8) == {
        "reduce-scatter": 15 * 16 * 4 * 3,
        "all-gather": 5 * 16 * 2 * 3 / 4,
        "all-reduce": 2 * 7 / 8 * 11 * 4,
        "collective-permute": 6 * 4,
    }
    assert largest(program(), 8)["all-reduce"] == 10


def test_a_loop_that_does_not_say_how_often_it_turns_is_no_guess():
    with pytest.raises(ValueError, match="turns"):
        collectives(program(TEXT.replace(FIVE, "")), 8)


@pytest.mark.parametrize(
    ("instruction", "arrays"),
    [
        ("f32[6,2]{1,0} all-reduce-start(%x)", [("f32", 12)]),
        # Gradients that the compiler has combined: results, and no operands beside them.
        (
            "(f32[10]{0}, bf16[4,8]{1,0:T(8,128)(2,1)}, f32[]) all-reduce-start(%x, %y, %z)",
            [("f32", 10), ("bf16", 32), ("f32", 1)],
        ),
        ("(f32[10]{0}, f32[10]{0}) all-reduce-start(%x, %y)", [("f32", 10), ("f32", 10)]),
        ("(bf16[4,2]{1,0:T(8,128)}, bf16[16,2]{1,0}) all-gather-start(%x)", [("bf16", 32)]),
        (
            "((f32[3]{0}, s32[5]{0}), (f32[12]{0}, s32[20]{0})) all-gather-start(%x, %y)",
            [("f32", 12), ("s32", 20)],
        ),
        (
            "(f32[6]{0:T(256)S(1)}, f32[6]{0}, u32[]{:S(2)}, u32[]) collective-permute-start(%x)",
            [("f32", 6)],
        ),
        # What it carries may look like what it is tracked by.
        ("(u32[], u32[], u32[], u32[]) collective-permute-start(%x)", [("u32", 1)]),
        (
            "((f32[6]{0}, s32[2]{0}), (f32[6]{0}, s32[2]{0}), u32[], u32[]) "
            "collective-permute-start(%x, %y)",
            [("f32", 6), ("s32", 2)],
        ),
        ("((f32[16]{0}), f32[4]{0}, u32[]) reduce-scatter-start(%x)", [("f32", 4)]),
        (
            "((f32[16]{0}, f32[8]{0}), (f32[4]{0}, f32[2]{0}), s32[]) reduce-scatter-start(%x, %y)",
            [("f32", 4), ("f32", 2)],
        ),
        ("((f32[16]{0}), f32[16]{0}, s32[]) all-reduce-start(%x)", [("f32", 16)]),
    ],
)
def test_what_is_begun_counts_by_its_results(instruction, arrays):
    text = (
        f"ENTRY %main (x: f32[]) -> f32[] {{\n  %start = {instruction}, channel_id=1\n"
        "  %done = f32[] all-reduce-done(%start)\n}\n"
    )
    (found,) = collectives(program(text), 8)
    assert list(found.arrays) == arrays
