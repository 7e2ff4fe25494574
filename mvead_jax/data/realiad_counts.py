"""How many samples, images and masks Real-IAD has, by list; from public inventories, not counted by us."""

from __future__ import annotations

from collections.abc import Sequence

from mvead_jax.data.published_counts import differing
from mvead_jax.data.records import Sample

_NAMES = """
    audiojack bottle_cap button_battery end_cap eraser fire_hood mint mounts pcb phone_battery plastic_nut
    plastic_plug porcelain_doll regulator rolled_strip_base sim_card_set switch tape terminalblock toothbrush
    toy toy_brick transistor1 u_block usb usb_adaptor vcpill wooden_beads woodstick zipper
"""
CATEGORIES = frozenset(_NAMES.split())
_FUIAD = {"train images": 57_840, "test images": 30_000, "test masks": 9_843}
# Of all thirty categories, by list.
EXPECTED: dict[str, dict[str, int]] = {
    "realiad_jsons": {
        "train images": 36_465,
        "train samples": 7_293,
        "test images": 114_585,
        "test samples": 22_917,
        "test samples OK": 7_275,
        "test samples NG": 15_642,
        "test masks": 51_329,
    },
    "realiad_jsons_sv": {"train images": 10_408, "test images": 19_802, "test masks": 9_415},
    **{f"realiad_jsons_fuiad_{noise}": _FUIAD for noise in ("0.0", "0.1", "0.2", "0.4")},
}


def unexpected_counts(samples: Sequence[Sample], lists: str) -> list[str]:
    """Return the counts that are not Real-IAD's: "train images 36,460, Real-IAD has 36,465". Empty if all
    agree, or if these are not its thirty categories, or lists that nobody counted."""
    expected = EXPECTED.get(lists)
    if expected is None or {sample.category for sample in samples} != CATEGORIES:
        return []
    return differing(samples, "Real-IAD", expected)
