"""What a process decoded reaches the next one whole, and not through the pipe."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from typing import Any

import pytest
import torch

from harness.sweep.parcel import Parcel, receive


def handed_over(content: Any) -> Any:
    ours, theirs = Pipe()
    Parcel(content).send(theirs)
    return receive(ours)


def test_tensors_arrive_as_they_were_sent() -> None:
    sent = {
        "none": torch.zeros(0),
        "one": torch.tensor(3.0),
        "bits": torch.tensor([True, False, True]),
        "turned": torch.arange(12).reshape(3, 4).T,
        "half": torch.ones(5, dtype=torch.bfloat16),
        "text": "a text",
    }
    found = handed_over(sent)
    assert found.keys() == sent.keys() and found["text"] == "a text"
    for key in sent.keys() - {"text"}:
        assert torch.equal(found[key], sent[key]) and found[key].dtype == sent[key].dtype
    found["bits"] += True  # whoever has them may write to them
    assert handed_over((False, "no tensor")) == (False, "no tensor")


def test_megabytes_do_not_go_through_the_pipe() -> None:
    """Where the receiver would have to read for every few dozen KB, the sender would wait for it."""
    ours, theirs = Pipe()
    sent = torch.arange(1 << 21)
    sender = threading.Thread(target=Parcel(sent).send, args=(theirs,), daemon=True)
    sender.start()
    sender.join(60)
    assert not sender.is_alive(), "it waits for somebody to read"
    assert torch.equal(receive(ours), sent)


def test_a_sender_that_is_gone() -> None:
    ours, theirs = Pipe()
    theirs.send((b"", [1]))  # it was killed before it sent the descriptor
    theirs.close()
    with pytest.raises(EOFError):
        receive(ours)
