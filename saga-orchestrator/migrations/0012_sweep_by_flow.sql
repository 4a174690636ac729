-- What is due is claimed flow by flow: a backlog of one must not be read through to find what another one has due. (The
-- release before finds what is due in this index as well: it holds unfinished sagas only, and is sorted by it.)
DROP INDEX sagas_to_sweep;
CREATE INDEX sagas_to_sweep ON sagas (definition, sweep_at) WHERE status IN ('RUNNING', 'COMPENSATING');
