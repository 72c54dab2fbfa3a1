"""PIE-Bench on 16 x 16 pixels, worked out by hand."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.unified.evaluation.colours import HALF, Colour
from unified.errors import UserError
from unified.evaluation import pie_bench
from unified.images import save_image

SIDE = 16
RUNS = [5 * SIDE + 4, 3, 6 * SIDE + 4, 3]  # two rows of three pixels inside, beside the border's 60
EDITED = SIDE * SIDE - (SIDE - 2) ** 2 + 6


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two edits. The first adds 51/255 of green to red everywhere; the second leaves a red picture as it is."""
    data, generated = tmp_path / "data", tmp_path / "run"
    rows = {
        key: {
            "image_path": f"0_random/{key}.png",
            "original_prompt": "a red [thing]",
            "editing_prompt": "a [green] thing",
            "editing_type_id": "1",
            "mask": RUNS,
        }
        for key in ("000", "001")
    }
    data.mkdir()
    (data / "mapping_file.json").write_text(json.dumps(rows))
    red = torch.zeros(3, SIDE, SIDE)
    red[0] = 1
    orange = red.clone()
    orange[1] = 0.2
    for folder, key, picture in (
        (data / "annotation_images", "000", red),
        (data / "annotation_images", "001", red),
        (generated, "000", orange),
        (generated, "001", red),
    ):
        save_image(picture, folder / "0_random" / f"{key}.png")
    return data, generated


def test_masks_are_runs_with_the_border_on() -> None:
    mask = pie_bench.decode_mask(RUNS, side=SIDE)
    assert int(mask.sum()) == EDITED
    assert mask[5, 4:7].tolist() == [1, 1, 1] and mask[5, 7] == 0 and mask[7, 4] == 0
    assert bool((mask[0] == 1).all() and (mask[:, -1] == 1).all())
    assert int(pie_bench.decode_mask([SIDE * SIDE - 20, 999], side=SIDE).sum()) > 0  # a run beyond the end is cut
    with pytest.raises(UserError, match="pairs"):
        pie_bench.decode_mask([1, 2, 3], side=SIDE)


def test_scores_by_hand(folders: tuple[Path, Path]) -> None:
    edits = pie_bench.read(*folders, side=SIDE)
    assert (edits[0].source_prompt, edits[0].target_prompt, edits[0].kind) == ("a red thing", "a green thing", 1)
    found = pie_bench.evaluate(edits, pie_bench.Networks(text=Colour()), run="run").scores
    # All pixels count, those in the mask as equal; only the green channel differs, by 0.2.
    error = 0.2**2 / 3 * (SIDE * SIDE - EDITED) / (SIDE * SIDE)
    assert found["mse-background"].score.value == pytest.approx(error / 2, rel=1e-4)
    assert found["psnr-background"].score.value == math.inf  # the second picture is as it was
    assert found["psnr-background"].interval is None
    assert found["clip-source"].score.value == pytest.approx(100)
    # (1, .2, 0) with green, and red with green
    assert found["clip-whole"].score.value == pytest.approx(100 * (0.2 / math.hypot(1, 0.2) + 0) / 2, rel=1e-4)
    assert found["clip-edited"].score.value == pytest.approx(found["clip-whole"].score.value, rel=1e-4)
    assert {m.score.averaging for m in found.values()} == {"pictures"}
    first = pie_bench.evaluate(edits[:1], pie_bench.Networks(), run="run").scores
    assert first["psnr-background"].score.value == pytest.approx(-10 * math.log10(error), rel=1e-4)
    assert 0 < first["ssim-background"].score.value < 1


def test_clip_score_is_never_below_zero(folders: tuple[Path, Path]) -> None:
    edit = pie_bench.read(*folders, side=SIDE)[0]
    picture = torch.ones(1, 3, SIDE, SIDE) * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)
    other = type(edit)(**{**vars(edit), "target_prompt": "not red", "source_prompt": "red"})
    found = pie_bench.score(picture, picture, other, pie_bench.Networks(text=Colour()))
    assert found["clip-whole"] == 0 and found["clip-source"] == pytest.approx(100 * HALF)


def test_an_empty_part_is_left_out(folders: tuple[Path, Path]) -> None:
    edits = pie_bench.read(*folders, side=SIDE)
    whole = type(edits[0])(**{**vars(edits[0]), "mask": torch.ones(SIDE, SIDE)})
    found = pie_bench.evaluate([whole, edits[1]], pie_bench.Networks(text=Colour()), run="run").scores
    assert found["mse-background"].count == 1 and found["clip-whole"].count == 2


def test_perceptual_distance_gets_masked_pictures_in_its_own_range(folders: tuple[Path, Path]) -> None:
    seen = []

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append((a, b))
        return (a - b).abs().mean()

    edit = pie_bench.read(*folders, side=SIDE)[0]
    source, edited = (torch.rand(1, 3, SIDE, SIDE) for _ in range(2))
    pie_bench.score(source, edited, edit, pie_bench.Networks(perceptual=distance))
    (a, b), inside = seen[0], edit.mask == 1
    assert bool((a[..., inside] == -1).all() and (b[..., inside] == -1).all())
    torch.testing.assert_close(a[..., ~inside], 2 * edited[..., ~inside] - 1)


def test_the_last_square_of_several_side_by_side_counts(folders: tuple[Path, Path]) -> None:
    data, generated = folders
    black, red = torch.zeros(3, SIDE, 2 * SIDE), torch.zeros(3, SIDE, SIDE)
    red[0] = 1
    save_image(torch.cat([black, red], 2), generated / "0_random" / "000.png")
    edits = pie_bench.read(data, generated, side=SIDE)[:1]
    assert pie_bench.evaluate(edits, pie_bench.Networks(), run="run").scores["mse-background"].score.value == 0


def test_what_is_missing_or_of_another_size_is_named(folders: tuple[Path, Path]) -> None:
    data, generated = folders
    (generated / "0_random" / "001.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures .*001\.png"):
        pie_bench.read(data, generated, side=SIDE)
    edits = pie_bench.read(data, generated, side=SIDE, partial=True)
    assert [edit.key for edit in edits] == ["000"]
    save_image(torch.zeros(3, 12, 12), generated / "0_random" / "000.png")
    with pytest.raises(UserError, match="16 x 16"):
        pie_bench.evaluate(edits, pie_bench.Networks(), run="run")
    with pytest.raises(UserError, match=r"mapping_file\.json"):
        pie_bench.read(generated, generated)
