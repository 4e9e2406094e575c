"""Sizes of images that were made up, to the byte."""

from __future__ import annotations

import gzip
import random

import pytest
from tests.images.archives import layer, write_archive
from tests.images.repository import FOLDER, images

RANDOM = random.Random(1).randbytes(3_000_000)  # does not compress
BASE = layer({"usr/bin/python3": RANDOM})
COMMON = layer({"opt/sla-planner/numeric": RANDOM[:1_000_000]})
LICENSES = layer({"licenses/NOTICE": RANDOM[:500_000]})


class TestSizeOf:
    def test_layers_of_the_base_do_not_count_and_all_above_do(self, sizes, tmp_path):
        size = sizes.size_of(write_archive(tmp_path / "x.tar", BASE, COMMON, LICENSES), {})
        assert (size.unpacked_mb, size.compressed_mb) == (1.5, 1.5)

    def test_layers_may_lie_compressed_in_the_archive(self, sizes, tmp_path):
        packed = gzip.compress(layer({"./opt/sla-planner/zeros": bytes(2_000_000)}))
        size = sizes.size_of(write_archive(tmp_path / "x.tar", BASE, packed), {})
        assert (size.unpacked_mb, size.compressed_mb) == (2.0, 0.0)

    def test_a_layer_that_images_share_is_measured_once(self, sizes, tmp_path):
        measured = {"1/layer.tar": (7_000_000, 2_000_000)}
        size = sizes.size_of(write_archive(tmp_path / "x.tar", BASE, COMMON, LICENSES), measured)
        assert (size.unpacked_mb, size.compressed_mb) == (7.5, 2.5)
        assert set(measured) == {"1/layer.tar", "2/layer.tar"}


class TestTable:
    @pytest.mark.parametrize(
        ("unpacked", "compressed", "warned"),
        [(110.0, 33.0, False), (90.0, 20.0, False), (110.1, 30.0, True), (100.0, 33.1, True)],
    )
    def test_more_than_a_tenth_in_either_size_is_a_warning(self, sizes, unpacked, compressed, warned):
        recorded = {"planner": sizes.Size(100.0, 30.0)}
        assert ("warning: planner" in sizes.table({"planner": sizes.Size(unpacked, compressed)}, recorded)) is warned

    def test_an_image_that_is_not_recorded_is_shown_all_the_same(self, sizes):
        assert sizes.table({"new": sizes.Size(10.0, 3.0)}, {}).splitlines()[1].split() == ["new", "10.0", "/", "3.0", "MB", "-"]


class TestRecord:
    def test_recording_some_images_keeps_the_others(self, sizes, tmp_path):
        file = tmp_path / "sizes.json"
        sizes.write_record(file, {"planner": sizes.Size(100.0, 30.0), "engine-sim": sizes.Size(50.0, 10.0)})
        sizes.write_record(file, {"planner": sizes.Size(101.0, 31.0)})
        assert sizes.read_record(file) == {"engine-sim": sizes.Size(50.0, 10.0), "planner": sizes.Size(101.0, 31.0)}

    def test_the_committed_record_knows_every_image(self, sizes):
        assert sorted(sizes.read_record(FOLDER / "sizes.json")) == images()
