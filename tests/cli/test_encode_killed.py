"""A real process that encodes is killed, and another one goes on."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from simjax.inference.embedder import WINDOW
from simjax.sentence_encoder import SentenceEncoder


@pytest.mark.faults
def test_a_killed_encode_is_gone_on_with(simjax, model_folder, tmp_path, monkeypatch) -> None:
    texts = [f"a cat {i % 997} sleeps" for i in range(8 * WINDOW)]
    output = tmp_path / "x.npy"
    journal = tmp_path / "x.npy.partial.json"
    command = [sys.executable, "-m", "simjax", "encode", str(model_folder), "-", str(output)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # The pipe stays open, so that it cannot have come to the end.
    for start in range(0, 7 * WINDOW, WINDOW):
        process.stdin.write("".join(f"{t}\n" for t in texts[start : start + WINDOW]).encode())
        process.stdin.flush()
        time.sleep(2)
        if journal.exists():
            break
    process.send_signal(signal.SIGKILL)
    process.stdin.close()
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    done = json.loads(journal.read_text())["rows"]
    assert done >= WINDOW

    lines = io.BytesIO("".join(f"{text}\n" for text in texts).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    status, out, err = simjax("encode", model_folder, "-", output)
    assert status == 0 and f"going on after {done:,} embeddings" in err
    assert out == f"{output}: {len(texts):,} embeddings of width 16\n"
    expected = SentenceEncoder.from_pretrained(model_folder).encode(texts)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
