-- One row for each patient whose blood pressure was taken, as of the last reading.
WITH last AS (
  SELECT patient, max(taken) AS taken, arg_max(systolic, taken) AS sbp FROM pressure GROUP BY patient
),
values_of AS (
  SELECT patient,
         arg_max(value, taken) FILTER (loinc = '2093-3' AND unit = 'mmol/L') AS chol,
         arg_max(value, taken) FILTER (loinc = '39156-5' AND unit = 'kg/m2') AS bmi
  FROM measured GROUP BY patient
)
SELECT p.id AS patient, p.gender, CAST(l.taken[:10] AS DATE) AS admitted,
       date_sub('year', p.born, CAST(l.taken[:10] AS DATE)) AS age,
       l.sbp, v.chol, v.bmi,
       p.id IN (SELECT patient FROM diagnosis WHERE icd10 LIKE 'I10%') AS hypertension
FROM patient p
JOIN last l ON l.patient = p.id
LEFT JOIN values_of v ON v.patient = p.id
ORDER BY p.id
