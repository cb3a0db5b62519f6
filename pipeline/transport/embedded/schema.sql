-- The embedded broker: one file, shared by every process of one machine. The version of this schema is in database.py.

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
CREATE INDEX IF NOT EXISTS messages_by_age ON messages (topic, published);

-- Messages of the topic from seq on are not scheduled for the group yet.
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT NOT NULL,
    grp   TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (topic, grp)
) WITHOUT ROWID;

-- Messages before a group's position that the group has not settled.
CREATE TABLE IF NOT EXISTS deliveries (
    topic       TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    grp         TEXT NOT NULL,
    key         TEXT NOT NULL,
    due         REAL NOT NULL DEFAULT 0,
    owner       TEXT,
    lease_until REAL NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    -- 1 if an earlier message with the key is not settled. The triggers below keep it current.
    blocked     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, seq, grp)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_ready ON deliveries (grp, topic, due, seq) WHERE owner IS NULL AND blocked = 0;
CREATE INDEX IF NOT EXISTS deliveries_leased ON deliveries (grp, topic, lease_until) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_by_key ON deliveries (grp, topic, key, seq);

CREATE TRIGGER IF NOT EXISTS deliveries_block AFTER INSERT ON deliveries
WHEN EXISTS (
    SELECT 1 FROM deliveries WHERE grp = NEW.grp AND topic = NEW.topic AND key = NEW.key AND seq < NEW.seq)
BEGIN
    UPDATE deliveries SET blocked = 1 WHERE topic = NEW.topic AND seq = NEW.seq AND grp = NEW.grp;
END;

CREATE TRIGGER IF NOT EXISTS deliveries_unblock AFTER DELETE ON deliveries
BEGIN
    UPDATE deliveries SET blocked = 0 WHERE topic = OLD.topic AND grp = OLD.grp AND seq = (
        SELECT min(seq) FROM deliveries WHERE grp = OLD.grp AND topic = OLD.topic AND key = OLD.key);
END;

CREATE TABLE IF NOT EXISTS topics (
    name      TEXT PRIMARY KEY,
    retention REAL,
    reports   INTEGER NOT NULL
) WITHOUT ROWID;
