"""Memory and device settings, each in a process of its own: they cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jacloom_worker import memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and sets RLIMIT_DATA")


def run(script: str, **environment: str) -> str:
    """Returns what a script prints in a new interpreter."""
    import os

    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_usage_follows_what_is_allocated() -> None:
    before = memory.usage()
    block = np.ones(8 << 20)
    after = memory.usage()
    assert after.anonymous - before.anonymous >= 0.9 * block.nbytes
    assert after.private - before.private >= 0.9 * block.nbytes
    assert before.shared > 0


def test_an_allocation_above_the_grant_is_a_fault_and_the_worker_lives() -> None:
    printed = run(
        """
        from jacloom_worker import compiling, devices, infer, kernels, memory
        from jacloom_worker.faults import explain
        from jacloom_worker.protocol import Kernel, Kind
        from jacloom_graph.types import Type
        import jax, jax.numpy as jnp, numpy as np
        devices.configure("cpu")
        devices.device()

        def compiled(size):
            apply = lambda _, leaves: [jnp.sort(jnp.sin(jnp.arange(size) * leaves[0]))[:1]]
            inputs = (Type("float64"),)
            subject = kernels.Subject(apply, inputs, infer.output_types(apply, inputs))
            return compiling.compile(kernels.computation(subject, Kernel("f", Kind.VALUE, values=(0,))))

        small, large = compiled(1000), compiled(100 << 20)
        assert memory.limit(400 << 20)
        try:
            jax.block_until_ready(large([np.float64(2)]))
        except Exception as error:
            print(explain(error).reason.value)
        print(float(jax.block_until_ready(small([np.float64(0)]))[0][0]))
        """
    )
    assert printed.split() == ["OUT_OF_MEMORY", "0.0"]


def test_devices_are_set_up_for_exact_numbers() -> None:
    printed = run(
        """
        from jacloom_worker import devices
        devices.configure("cpu")
        import jax, jax.numpy as jnp
        print(jnp.asarray(1.5).dtype, jnp.asarray(1 << 40), jax.config.jax_default_matmul_precision, devices.device().name)
        """,
        NPROC="1",
    )
    assert printed == "float64 1099511627776 highest cpu, 1 thread"


def test_one_thread_is_one_thread() -> None:
    # XLA's pool is what NPROC bounds; the process has other threads, which sleep.
    printed = run(
        """
        from jacloom_worker import devices
        devices.configure("cpu")
        import time, jax, jax.numpy as jnp
        a = jnp.ones((1500, 1500))
        product = jax.jit(lambda a: a @ a @ a)
        product(a).block_until_ready()
        wall, cpu = time.perf_counter(), time.process_time()
        product(a).block_until_ready()
        print((time.process_time() - cpu) / (time.perf_counter() - wall))
        """,
        NPROC="1",
    )
    assert float(printed) < 1.2
