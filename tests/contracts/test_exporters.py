"""The built-in exporters pass the suite that strangers use; other people's libraries read the files."""

import gzip
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np

from cryomamba_backends.formats.mrc.exporter import MrcExporter
from cryomamba_backends.formats.nifti.exporter import NiftiExporter
from cryomamba_backends.formats.nrrd.exporter import NrrdExporter
from cryomamba_backends.formats.stats import StatisticsExporter
from cryomamba_core.interfaces import Exporter
from cryomamba_core.testing.exporters import ExporterConformance


class TestMrc(ExporterConformance):
    def make_exporter(self) -> Exporter:
        return MrcExporter()

    def read_back(self, path: Path) -> Any:
        with mrcfile.open(path) as mrc:
            axes = [3 - int(mrc.header[name]) for name in ("maps", "mapr", "mapc")]
            return np.array(mrc.data).transpose(np.argsort(axes))

    def read_channels_back(self, path: Path) -> Any:
        assert mrcfile.validate(path)
        with mrcfile.open(path) as mrc:
            assert mrc.is_volume_stack()
            axes = [3 - int(mrc.header[name]) for name in ("maps", "mapr", "mapc")]
            return np.array(mrc.data).transpose(0, *(1 + np.argsort(axes)))


class TestNifti(ExporterConformance):
    def make_exporter(self) -> Exporter:
        return NiftiExporter()

    def read_back(self, path: Path) -> Any:
        return np.asarray(nibabel.load(path).dataobj).T

    def read_channels_back(self, path: Path) -> Any:
        content = path.read_bytes()
        data = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        return np.asarray(nibabel.Nifti1Image.from_bytes(data).dataobj).T


class TestNrrd(ExporterConformance):
    def make_exporter(self) -> Exporter:
        return NrrdExporter()

    def read_back(self, path: Path) -> Any:
        return nrrd.read(str(path))[0].T

    def read_channels_back(self, path: Path) -> Any:
        return self.read_back(path)


class TestStatistics(ExporterConformance):
    holds_labels = False

    def make_exporter(self) -> Exporter:
        return StatisticsExporter()
