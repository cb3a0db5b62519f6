-- Takes over the groups from a file without a schema version (release 0.2). Its tables have been renamed to earlier_….

INSERT OR IGNORE INTO positions (topic, grp, seq)
SELECT w.topic, w.grp, max(w.seq, coalesce((
    SELECT max(d.seq) + 1 FROM earlier_deliveries d JOIN messages m ON m.seq = d.seq
    WHERE d.grp = w.grp AND m.topic = w.topic), 0))
FROM earlier_low_water_marks w;

INSERT OR IGNORE INTO deliveries (topic, seq, grp, key, due, owner, lease_until, attempts)
SELECT m.topic, m.seq, w.grp, m.key, max(m.due, 0.0), d.owner, coalesce(d.lease_until, 0), coalesce(d.attempts, 0)
FROM earlier_low_water_marks w
JOIN positions p ON p.topic = w.topic AND p.grp = w.grp
JOIN messages m ON m.topic = w.topic AND m.seq >= w.seq AND m.seq < p.seq
LEFT JOIN earlier_deliveries d ON d.grp = w.grp AND d.seq = m.seq
WHERE coalesce(d.settled, 0) = 0
ORDER BY m.seq;

DROP TABLE earlier_deliveries;
DROP TABLE earlier_low_water_marks;
DROP INDEX messages_by_key;
