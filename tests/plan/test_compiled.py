"""What is made of a compiler's answer, and of its refusals."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from simjax.errors import SimjaxError
from simjax.plan.compiled import compile_step

MEMORY = SimpleNamespace(
    argument_size_in_bytes=1000,
    output_size_in_bytes=930,
    alias_size_in_bytes=900,
    temp_size_in_bytes=200,
    generated_code_size_in_bytes=5,
)
TEXT = """HloModule jit_step

%body (s: (s32[])) -> (s32[]) {
  ROOT %next = (s32[]) tuple(%i)
}

%condition (s: (s32[])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[]) -> f32[] {
  %all = f32[10]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  LOOP
}
"""
LOOP = "%loop = (s32[]) while(%s), condition=%condition, body=%body"


def program(step=None, error=None):
    """What `compile_step` needs of a `Program`."""

    def compile_():
        if error is not None:
            raise jax.errors.JaxRuntimeError(error)
        return step

    return SimpleNamespace(compile=compile_, mesh=SimpleNamespace(size=8))


def test_new_state_takes_the_place_of_the_old_and_other_results_do_not():
    step = SimpleNamespace(memory_analysis=lambda: MEMORY, as_text=lambda: TEXT.replace("LOOP", ""))
    found = compile_step(program(step))
    assert (found.arguments, found.temporary, found.code) == (1000, 230, 5)
    assert found.total == 1235 and found.needed is None
    assert found.sent() == {"all-reduce": 2 * 7 / 8 * 40}


def test_what_is_too_large_says_what_it_would_take():
    message = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory " \
        "space hbm. Used 22.03G of 15.75G hbm. Exceeded hbm capacity by 6.28G."  # fmt: skip
    found = compile_step(program(error=message))
    assert found.needed == found.total == int(22.03 * 2**30)
    assert found.collectives == () and found.sent() == {}


@pytest.mark.parametrize("message", ["INTERNAL: Mosaic failed\nmore", ""])
def test_another_failure_is_one_line(message):
    with pytest.raises(SimjaxError, match=r"the compiler fails .*--no_compile") as caught:
        compile_step(program(error=message))
    assert "\n" not in str(caught.value)


def test_a_program_whose_loops_cannot_be_counted_is_no_traceback():
    text = TEXT.replace("LOOP", LOOP)
    step = SimpleNamespace(memory_analysis=lambda: MEMORY, as_text=lambda: text)
    with pytest.raises(SimjaxError, match=r"what the compiled step sends .*--no_compile") as caught:
        compile_step(program(step))
    assert "\n" not in str(caught.value)
