-- The embedded broker: one file, shared by every process of one machine.

-- A message's offset is its seq. Offsets increase within each topic, with gaps.
CREATE TABLE IF NOT EXISTS messages (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    topic     TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     BLOB NOT NULL,
    headers   TEXT NOT NULL,
    published REAL NOT NULL,
    -- Time before which the message is not delivered, s since the epoch.
    due       REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS messages_by_topic ON messages (topic, seq);
CREATE INDEX IF NOT EXISTS messages_by_key ON messages (topic, key, seq);

-- Messages from a group's low-water mark on that are leased or settled, or have had an attempt.
CREATE TABLE IF NOT EXISTS deliveries (
    grp         TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    owner       TEXT,
    lease_until REAL NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    settled     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grp, seq)
) WITHOUT ROWID;

-- All messages of the topic below the mark are settled for the group.
CREATE TABLE IF NOT EXISTS low_water_marks (
    grp   TEXT NOT NULL,
    topic TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (grp, topic)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS topics (
    name      TEXT PRIMARY KEY,
    retention REAL,
    reports   INTEGER NOT NULL
) WITHOUT ROWID;
