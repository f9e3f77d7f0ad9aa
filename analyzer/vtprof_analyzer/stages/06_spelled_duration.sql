-- spelled_duration(ms): a time of milliseconds in words: 2.00 ns, 850 µs, 14.2 ms, 2.31 s, 12.4 min, 3.20 h.
-- Three digits that count, in the unit that fits: as the report spells it (`report.format.duration`).
CREATE MACRO three_digits(x) AS
    format('{:.{}f}', x::DOUBLE, greatest(0, 2 - floor(log10(nullif(abs(x), 0))))::INTEGER);
CREATE MACRO spelled_duration(ms) AS CASE
    WHEN ms = 0 THEN '0 ms'
    WHEN abs(ms) < 0.9995e-6 THEN 'about 0 ns'
    WHEN abs(ms) < 0.9995e-3 THEN three_digits(ms * 1000000) || ' ns'
    WHEN abs(ms) < 0.9995 THEN three_digits(ms * 1000) || ' µs'
    WHEN abs(ms) < 999.5 THEN three_digits(ms) || ' ms'
    WHEN abs(ms) < 119500 THEN three_digits(ms / 1000) || ' s'
    WHEN abs(ms) < 7170000 THEN three_digits(ms / 60000) || ' min'
    ELSE three_digits(ms / 3600000) || ' h'
END;
