"""The tables of the OMOP Common Data Model 5.4 and their columns, in the order of its DDL (github.com/OHDSI/CommonDataModel, inst/ddl/5.4).

A column's type follows from its name, with the exceptions of `_TYPES`. Numbers that the DDL calls NUMERIC are DOUBLE here.
"""

from __future__ import annotations

from dataclasses import dataclass

_TABLES = """
person: person_id gender_concept_id year_of_birth month_of_birth day_of_birth birth_datetime race_concept_id ethnicity_concept_id location_id
 provider_id care_site_id person_source_value gender_source_value gender_source_concept_id race_source_value race_source_concept_id
 ethnicity_source_value ethnicity_source_concept_id
observation_period: observation_period_id person_id observation_period_start_date observation_period_end_date period_type_concept_id
visit_occurrence: visit_occurrence_id person_id visit_concept_id visit_start_date visit_start_datetime visit_end_date visit_end_datetime
 visit_type_concept_id provider_id care_site_id visit_source_value visit_source_concept_id admitted_from_concept_id admitted_from_source_value
 discharged_to_concept_id discharged_to_source_value preceding_visit_occurrence_id
visit_detail: visit_detail_id person_id visit_detail_concept_id visit_detail_start_date visit_detail_start_datetime visit_detail_end_date
 visit_detail_end_datetime visit_detail_type_concept_id provider_id care_site_id visit_detail_source_value visit_detail_source_concept_id
 admitted_from_concept_id admitted_from_source_value discharged_to_source_value discharged_to_concept_id preceding_visit_detail_id
 parent_visit_detail_id visit_occurrence_id
condition_occurrence: condition_occurrence_id person_id condition_concept_id condition_start_date condition_start_datetime condition_end_date
 condition_end_datetime condition_type_concept_id condition_status_concept_id stop_reason provider_id visit_occurrence_id visit_detail_id
 condition_source_value condition_source_concept_id condition_status_source_value
drug_exposure: drug_exposure_id person_id drug_concept_id drug_exposure_start_date drug_exposure_start_datetime drug_exposure_end_date
 drug_exposure_end_datetime verbatim_end_date drug_type_concept_id stop_reason refills quantity days_supply sig route_concept_id lot_number
 provider_id visit_occurrence_id visit_detail_id drug_source_value drug_source_concept_id route_source_value dose_unit_source_value
procedure_occurrence: procedure_occurrence_id person_id procedure_concept_id procedure_date procedure_datetime procedure_end_date
 procedure_end_datetime procedure_type_concept_id modifier_concept_id quantity provider_id visit_occurrence_id visit_detail_id
 procedure_source_value procedure_source_concept_id modifier_source_value
device_exposure: device_exposure_id person_id device_concept_id device_exposure_start_date device_exposure_start_datetime
 device_exposure_end_date device_exposure_end_datetime device_type_concept_id unique_device_id production_id quantity provider_id
 visit_occurrence_id visit_detail_id device_source_value device_source_concept_id unit_concept_id unit_source_value unit_source_concept_id
measurement: measurement_id person_id measurement_concept_id measurement_date measurement_datetime measurement_time measurement_type_concept_id
 operator_concept_id value_as_number value_as_concept_id unit_concept_id range_low range_high provider_id visit_occurrence_id visit_detail_id
 measurement_source_value measurement_source_concept_id unit_source_value unit_source_concept_id value_source_value measurement_event_id
 meas_event_field_concept_id
observation: observation_id person_id observation_concept_id observation_date observation_datetime observation_type_concept_id value_as_number
 value_as_string value_as_concept_id qualifier_concept_id unit_concept_id provider_id visit_occurrence_id visit_detail_id
 observation_source_value observation_source_concept_id unit_source_value qualifier_source_value value_source_value observation_event_id
 obs_event_field_concept_id
death: person_id death_date death_datetime death_type_concept_id cause_concept_id cause_source_value cause_source_concept_id
note: note_id person_id note_date note_datetime note_type_concept_id note_class_concept_id note_title note_text encoding_concept_id
 language_concept_id provider_id visit_occurrence_id visit_detail_id note_source_value note_event_id note_event_field_concept_id
note_nlp: note_nlp_id note_id section_concept_id snippet offset lexical_variant note_nlp_concept_id note_nlp_source_concept_id nlp_system
 nlp_date nlp_datetime term_exists term_temporal term_modifiers
specimen: specimen_id person_id specimen_concept_id specimen_type_concept_id specimen_date specimen_datetime quantity unit_concept_id
 anatomic_site_concept_id disease_status_concept_id specimen_source_id specimen_source_value unit_source_value anatomic_site_source_value
 disease_status_source_value
fact_relationship: domain_concept_id_1 fact_id_1 domain_concept_id_2 fact_id_2 relationship_concept_id
location: location_id address_1 address_2 city state zip county location_source_value country_concept_id country_source_value latitude
 longitude
care_site: care_site_id care_site_name place_of_service_concept_id location_id care_site_source_value place_of_service_source_value
provider: provider_id provider_name npi dea specialty_concept_id care_site_id year_of_birth gender_concept_id provider_source_value
 specialty_source_value specialty_source_concept_id gender_source_value gender_source_concept_id
payer_plan_period: payer_plan_period_id person_id payer_plan_period_start_date payer_plan_period_end_date payer_concept_id payer_source_value
 payer_source_concept_id plan_concept_id plan_source_value plan_source_concept_id sponsor_concept_id sponsor_source_value
 sponsor_source_concept_id family_source_value stop_reason_concept_id stop_reason_source_value stop_reason_source_concept_id
drug_era: drug_era_id person_id drug_concept_id drug_era_start_date drug_era_end_date drug_exposure_count gap_days
dose_era: dose_era_id person_id drug_concept_id unit_concept_id dose_value dose_era_start_date dose_era_end_date
condition_era: condition_era_id person_id condition_concept_id condition_era_start_date condition_era_end_date condition_occurrence_count
episode: episode_id person_id episode_concept_id episode_start_date episode_start_datetime episode_end_date episode_end_datetime
 episode_parent_id episode_number episode_object_concept_id episode_type_concept_id episode_source_value episode_source_concept_id
episode_event: episode_id event_id episode_event_field_concept_id
cdm_source: cdm_source_name cdm_source_abbreviation cdm_holder source_description source_documentation_reference cdm_etl_reference
 source_release_date cdm_release_date cdm_version cdm_version_concept_id vocabulary_version
concept: concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code valid_start_date valid_end_date
 invalid_reason
concept_ancestor: ancestor_concept_id descendant_concept_id min_levels_of_separation max_levels_of_separation
concept_relationship: concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason
concept_synonym: concept_id concept_synonym_name language_concept_id
cohort: cohort_definition_id subject_id cohort_start_date cohort_end_date
"""

_TEXT_IDS = ("unique_device_id", "production_id", "specimen_source_id", "domain_id", "vocabulary_id", "concept_class_id", "relationship_id")
_TYPES = {
    **dict.fromkeys(_TEXT_IDS, "VARCHAR"),
    **dict.fromkeys(("value_as_number", "range_low", "range_high", "dose_value", "latitude", "longitude"), "DOUBLE"),
    **dict.fromkeys(("year_of_birth", "month_of_birth", "day_of_birth", "refills", "days_supply", "drug_exposure_count", "gap_days"), "BIGINT"),
    **dict.fromkeys(("condition_occurrence_count", "episode_number", "concept_id_1", "concept_id_2", "domain_concept_id_1"), "BIGINT"),
    **dict.fromkeys(("domain_concept_id_2", "fact_id_1", "fact_id_2", "min_levels_of_separation", "max_levels_of_separation"), "BIGINT"),
}


def column_type(column: str, table: str) -> str:
    """The DuckDB type of a CDM column."""
    if column == "quantity":
        return "DOUBLE" if table in ("drug_exposure", "specimen") else "BIGINT"
    if column in _TYPES:
        return _TYPES[column]
    return "DATE" if column.endswith("_date") else "TIMESTAMP" if column.endswith("_datetime") else "BIGINT" if column.endswith("_id") else "VARCHAR"


def _parsed() -> dict[str, dict[str, str]]:
    lines = _TABLES.strip().replace("\n ", " ").splitlines()
    split = {name: columns.split() for name, _, columns in (line.partition(":") for line in lines)}
    return {table: {c: column_type(c, table) for c in columns} for table, columns in split.items()}


TABLES: dict[str, dict[str, str]] = _parsed()
"""Table -> column -> type."""


@dataclass(frozen=True)
class Event:
    """Which columns of a table say what happened and when."""

    key: str
    concept: str
    date: str
    datetime: str | None


EVENTS: dict[str, Event] = {
    "measurement": Event("measurement_id", "measurement_concept_id", "measurement_date", "measurement_datetime"),
    "observation": Event("observation_id", "observation_concept_id", "observation_date", "observation_datetime"),
    "condition_occurrence": Event("condition_occurrence_id", "condition_concept_id", "condition_start_date", "condition_start_datetime"),
    "drug_exposure": Event("drug_exposure_id", "drug_concept_id", "drug_exposure_start_date", "drug_exposure_start_datetime"),
    "procedure_occurrence": Event("procedure_occurrence_id", "procedure_concept_id", "procedure_date", "procedure_datetime"),
    "device_exposure": Event("device_exposure_id", "device_concept_id", "device_exposure_start_date", "device_exposure_start_datetime"),
    "visit_occurrence": Event("visit_occurrence_id", "visit_concept_id", "visit_start_date", "visit_start_datetime"),
    "specimen": Event("specimen_id", "specimen_concept_id", "specimen_date", "specimen_datetime"),
    "condition_era": Event("condition_era_id", "condition_concept_id", "condition_era_start_date", None),
    "drug_era": Event("drug_era_id", "drug_concept_id", "drug_era_start_date", None),
    "death": Event("person_id", "cause_concept_id", "death_date", "death_datetime"),
}
"""The tables from which a variable of one value per person can be made without SQL."""
