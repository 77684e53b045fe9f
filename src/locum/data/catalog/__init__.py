"""The public data sets that the registry knows: what each is, on what licence, and how to read it. One module a data set.

The files are not part of Locum. Each is named by its SHA-256, so that what a paper reports can be run again anywhere.
"""

from locum.data.catalog.base import DataSet, File, Published
from locum.data.catalog.breast_cancer import BREAST_CANCER
from locum.data.catalog.breast_ultrasound import BREAST_ULTRASOUND
from locum.data.catalog.digits import DIGITS
from locum.data.catalog.fixtures import EICU_DEMO, OMOP_SYNTHEA, SQL_ON_FHIR
from locum.data.catalog.flusight import FLUSIGHT
from locum.data.catalog.heart_disease import HEART_DISEASE
from locum.data.catalog.ist import IST
from locum.data.catalog.lung import LUNG
from locum.data.catalog.mitbih import MITBIH, MITBIH_DS1_DS2
from locum.data.catalog.tcga_brca import TCGA_BRCA
from locum.data.catalog.watch import WATCH

_SETS = (BREAST_CANCER, BREAST_ULTRASOUND, DIGITS, FLUSIGHT, HEART_DISEASE, IST, LUNG, MITBIH, MITBIH_DS1_DS2, TCGA_BRCA, WATCH)
CATALOG: dict[str, DataSet] = {d.name: d for d in _SETS}
"""Data sets with sites and a contract."""

FIXTURES: dict[str, Published] = {d.name: d for d in (EICU_DEMO, OMOP_SYNTHEA, SQL_ON_FHIR)}
"""Files of a format, to try a source on: verified like the others, and without sites."""

__all__ = ["CATALOG", "FIXTURES", "DataSet", "File", "Published"]
