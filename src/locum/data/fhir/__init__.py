"""FHIR resources as tables: views of SQL on FHIR v2, run by a FHIRPath compiler of its own."""

from locum.data.fhir.definition import ViewDefinition
from locum.data.fhir.runner import Program, run_view

__all__ = ["Program", "ViewDefinition", "run_view"]
