"""Files to try a source on: formats, not data sets. They are verified like the others and have no sites."""

from __future__ import annotations

from locum.data.catalog.base import File, Published

_EICU = "https://raw.githubusercontent.com/sunlabuiuc/PyHealth/0a75f99dba1fb96d6d9876790edecf252fd0d2f4/test-resources/core/eicudemo"
_OHDSI = "https://raw.githubusercontent.com/OHDSI/EunomiaDatasets/3efd533eb95a41a56d5b0758b0d7c8fa57e1303e/datasets/Synthea27Nj"
_SOF = "https://raw.githubusercontent.com/FHIR/sql-on-fhir-v2/49fc1adffa8490e7cd5c1e8917d8eb24cbea9dee"


def _files(url: str, lines: str) -> tuple[File, ...]:
    """One file a line: its name, its SHA-256 and its size; all below one address."""
    cells = (line.split() for line in lines.strip().splitlines())
    return tuple(File(name, digest, int(size), url=f"{url}/{name}") for name, digest, size in cells)


EICU_DEMO = Published(
    name="eicu_demo_subset",
    title="eICU demo: 174 stays in intensive care, 79 hospitals, laboratory results with units",
    licence="ODbL 1.0 (share-alike)",
    citation="Johnson, Pollard, Badawi, Raffa, eICU Collaborative Research Database Demo 2.0.1, PhysioNet, 2021; doi 10.13026/4mxk-na84",
    published="https://physionet.org/content/eicu-crd-demo/2.0.1/",
    folder="eicu_demo_subset",
    note="A subset that PyHealth made. Too small to train on: it shows the format and the units.",
    files=_files(
        _EICU,
        """
        diagnosis.csv.gz ef60b1fef5e715292bde2c11cb213a263b65200d05b538cb49de062e3aa7b93e 22699
        hospital.csv.gz 9ec58e063bd7dc1787694741c3b2d3decdb433aa64cbc59964a9efdc67828abc 405
        lab.csv.gz 38c316a3166e790c929fc15105c94e1ab290f3db7fc57a6befe0be677ab2aefc 381320
        patient.csv.gz e79b55fc6e729f04ee2de0c66822b1ba4d092a8a0e0c52865164aa75c01f2558 10950
        """,
    ),
)

OMOP_SYNTHEA = Published(
    name="omop_synthea27nj",
    title="OMOP CDM 5.4: synthetic patients in 40 CSV tables",
    licence="Apache-2.0; its CONCEPT table holds rows of LOINC, SNOMED CT and RxNorm, on their terms",
    citation="OHDSI EunomiaDatasets, Synthea27Nj",
    published="https://github.com/OHDSI/EunomiaDatasets",
    folder="omop_synthea27nj",
    files=(File("Synthea27Nj_5.4.zip", "cdd3971be325e17b0e872bf4560711ab4c346917ecb079e2faf32badb55cb693", 3351707, url=f"{_OHDSI}/Synthea27Nj_5.4.zip"),),
)

SQL_ON_FHIR = Published(
    name="sql_on_fhir_v2_tests",
    title="SQL-on-FHIR v2: the official conformance suite, 134 cases",
    licence="MIT",
    citation="HL7 SQL on FHIR v2, github.com/FHIR/sql-on-fhir-v2",
    published="https://github.com/FHIR/sql-on-fhir-v2",
    folder="sql_on_fhir_v2_tests",
    files=_files(
        _SOF,
        """
        LICENSE.md ef7916a81ef59949360313252720b233d509adba431c9c7fa5775af90fd85813 1111
        tests/basic.json e958ab7797ed0b6852d30912fa243a2e979d2f9270624b617acc9b491c67d70f 9844
        tests/collection.json aa5112b4ad91601f9a3bf6401519f3f9c552b6b6599e7863ed80cbba785f57b2 5555
        tests/combinations.json b294967add17646194e9c3baeaf93e2ad5eadc3f3bbae4da6df61b728a3c209a 4914
        tests/constant.json 0c5b9cd5d63589707afa4366ba9a5b187c0c508cf971379c3a87ca5653bfa673 6908
        tests/constant_types.json 899820d1b03efd4c53509db1ea3ac9c0100985131f7738d0094bf8d5fd45ba70 20797
        tests/fhirpath.json e9f811c51564cccf13e7afd86b1265bd443639725b949fd951230ef4927ad633 7888
        tests/fhirpath_numbers.json 50a8d14d3a3f9d2e6f18b496ef114edbde04c03c764a349a7e087e8f0217ffc4 2744
        tests/fn_boundary.json d2df265418356d59fe39e6c8924d32b2bafaec9c3c8477f141e0669a39c80c47 7314
        tests/fn_empty.json fa4f95ea7c9b9d378a2bb2460145905d0f3d041884d5a7147186d860b404c663 1043
        tests/fn_extension.json 2dea7502369e5938f281e35d20928253f30978d3cdb99416957396325bce1826 4194
        tests/fn_first.json b5af4cece8ababce1495eae706879b064a209863bbe75c431ddcb9de1517a735 1486
        tests/fn_join.json f513f39db05efbe3f63c82a91c14a901bafeb23fef89ef2b4c5efbb95cbc37a4 2138
        tests/fn_oftype.json 9b097bef6d9165ff48c0cd6d3421aaf97262dbbaa70903e13a2ba827e2e9585c 2172
        tests/fn_reference_keys.json 9b59356edaa560e8de49bd9cb75cca7812e666234c6a6783f4fb88b9d17dfae9 2355
        tests/foreach.json 84173ed33923c448941a204e5bdf25f94685eeeb1a3a535cb7e8354ef160921d 17491
        tests/logic.json 22df148d8dd2dac69337c39dc8c12aa6247b2d5d05197600afbcf7a4e3cdd82b 2302
        tests/repeat.json 7ada184272c305b59cb3365a68aa98bdc5c0dcdda059e366576aed5b151cd04b 11609
        tests/row_index.json 187abf146c2e1c7251ee48066f33d21e4a0a14059b881f1059eedfe7f6eadd10 16314
        tests/union.json e6c93718454f0be5fbf5295dc8255d4804a79784f6056156a031cdfb6f4bfd02 17964
        tests/validate.json 3bf8d204d6034342755ecd158c5f0a61dbe031a020cd5dd3e1d17f368b302aef 1835
        tests/view_resource.json ddee9096314aeac07812351517b8dc3ff5715e1b98932cee692102ddf4d00477 1698
        tests/where.json 0e141e3355720f005511dce20c956ea5fec6ccfd54863ae13a23bd1bd09960b9 5476
        """,
    ),
)
