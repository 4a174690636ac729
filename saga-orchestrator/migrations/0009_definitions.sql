-- The flows by which sagas were started, as text. A release that brings another flow under a version that is here does
-- not start: sagas in flight would go on by steps that they did not begin with.

CREATE TABLE definitions (
    name          text        NOT NULL,
    version       integer     NOT NULL,
    -- A line for each step.
    steps         text        NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
