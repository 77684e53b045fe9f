"""The forms of the tasks that differential privacy protects: chosen by the study's terms, under the same names."""
