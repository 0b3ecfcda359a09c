"""Holds the operator on a GPU to its definition and to the reference; `test_on_gpu` starts it.

JAX_PLATFORMS=cuda python -m tests.ops.on_gpu
"""

import argparse
import sys

import jax
import jax.numpy as jnp

from tests.ops import test_reduce_pairs as held
from tests.ops.cases import CASES, PLANS

IMPLEMENTATIONS = ["tiled", "pallas_gpu"]


def main() -> int:
    """Prints what was held; raises where it does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("implementations", nargs="*", help=", ".join(IMPLEMENTATIONS))
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many, by default all")
    args = parser.parse_args()
    implementations = args.implementations or IMPLEMENTATIONS
    print(f"on {jax.devices()[0].device_kind}")
    for case in CASES[: args.cases]:
        for plan in PLANS:
            expected = held.run(case, plan, "reference", tile=None)
            held.assert_defined(expected[0], case, plan)
            if "tiled" in implementations:
                held.assert_same(held.run(case, plan, "tiled", tile=None), expected, case.scale)
                print(f"tiled: {case.name}, {plan}")
            if "pallas_gpu" not in implementations:
                continue
            rounded = {"dtype": jnp.bfloat16, "tile": None}
            try:
                ours = held.run(case, plan, "pallas_gpu", **rounded)
            except ValueError as error:  # the kernels serve no guide, say
                print(f"pallas_gpu: {case.name}, {plan}: left out, {error}")
                continue
            held.assert_same(ours, held.run(case, plan, "reference", **rounded), case.scale)
            print(f"pallas_gpu: {case.name}, {plan}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
