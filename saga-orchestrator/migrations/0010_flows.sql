-- Flows that users publish, and what their sagas know.

-- A published flow never changes: another file is another version.
CREATE TABLE flows (
    name         text        NOT NULL,
    version      integer     NOT NULL,
    -- SHA-256 of `source`, in hexadecimal digits.
    digest       text        NOT NULL,
    -- The file, as it was written.
    source       text        NOT NULL,
    -- It came with a release, and was not published by a person.
    built_in     boolean     NOT NULL,
    published_by text        NOT NULL,
    reason       text        NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

-- Which version new sagas start by, append-only: the last change of a flow decides.
CREATE TABLE flow_changes (
    change_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text        NOT NULL,
    version   integer     NOT NULL,
    -- PUBLISHED: it can be read. ACTIVATED: new sagas start by it, and by no other version. RETIRED: none start by it.
    change    text        NOT NULL CHECK (change IN ('PUBLISHED', 'ACTIVATED', 'RETIRED')),
    actor     text        NOT NULL,
    reason    text        NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (name, version) REFERENCES flows
);
CREATE INDEX flow_changes_by_flow ON flow_changes (name, change_id);

-- The request by which a saga was started, as its flow has read it. NULL for a checkout, which has columns for that.
-- (json and not jsonb: a command that is repeated has to have the same bytes.)
ALTER TABLE sagas ADD COLUMN input json;
-- What is kept of replies: an object of fields for each step. NULL: nothing.
ALTER TABLE sagas ADD COLUMN kept json;
