"""In which numbers a world is computed: measured once, remembered, never in the way."""

from pathlib import Path

import pytest
import torch

from world_model import precision

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "rolling-worlds"


@pytest.mark.parametrize("faster", [torch.bfloat16, torch.float32])
def test_the_faster_numbers_are_chosen_and_not_measured_again(faster: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "time_products", lambda dtype: 0.5 if dtype == faster else 1.0)
    assert precision.choose_dtype(CPU) == faster
    monkeypatch.setattr(precision, "time_products", lambda dtype: pytest.fail("measured again"))
    assert precision.choose_dtype(CPU) == faster
    with precision.fast_autocast():
        assert torch.is_autocast_enabled("cpu") == (faster == torch.bfloat16), "training computes in the same numbers"
    monkeypatch.setattr(precision, "processor", lambda: "another one")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        precision.choose_dtype(CPU)


@pytest.mark.parametrize("content", [b"", b"{]", b'{"x": "int3"}', b"[1]"])
def test_a_broken_memory_is_made_anew(content: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / "precision.json").write_bytes(content)
    chosen = precision.choose_dtype(CPU)
    assert str(chosen).removeprefix("torch.") in (folder / "precision.json").read_text()


def test_a_folder_that_cannot_be_written_is_no_hindrance(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    assert precision.choose_dtype(CPU) in (torch.bfloat16, torch.float32)
    assert folder.read_text() == "a file where the folder should be"


def test_products_take_time_in_both_numbers() -> None:
    assert all(precision.time_products(dtype, repeats=3) > 0 for dtype in (torch.bfloat16, torch.float32))


def test_a_gpu_computes_bfloat16(folder: Path) -> None:
    assert precision.choose_dtype(torch.device("cuda")) == torch.bfloat16
    assert not folder.exists()
