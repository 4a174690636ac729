-- Each saga's steps and undos in the order in which they were pending, for psql. Name the saga: the view reads its history.
--
-- PENDING     it is asked for
-- DONE        it was done
-- REFUSED     it was refused, and the saga turned back
-- UNANSWERED  its time was over, or somebody cancelled the saga: whether it happened is not known
-- UNDOING     the undo is asked for
-- UNDONE      it was done, or settled by an operator

CREATE VIEW saga_steps AS
WITH entries AS (
    SELECT saga_id, seq, input, status, step, at, status = 'COMPENSATING' AS back,
           status IN ('COMPLETED', 'FAILED') OR (step, status = 'COMPENSATING') IS DISTINCT FROM
               (lag(step) OVER history, lag(status) OVER history = 'COMPENSATING') AS is_new
    FROM saga_events
    WINDOW history AS (PARTITION BY saga_id ORDER BY seq)
), numbered AS (
    -- What does not lead on, such as an operator's retry, belongs to the step that it met.
    SELECT *, count(*) FILTER (WHERE is_new) OVER (PARTITION BY saga_id ORDER BY seq) AS nr FROM entries
), steps AS (
    SELECT saga_id, nr, min(seq) AS seq, min(at) AS began, (array_agg(step))[1] AS step, bool_or(back) AS back,
           bool_or(status IN ('COMPLETED', 'FAILED')) AS is_end,
           (array_agg(input ORDER BY seq))[1] AS input, (array_agg(status ORDER BY seq))[1] AS status
    FROM numbered GROUP BY saga_id, nr
), followed AS (
    SELECT *, lead(began) OVER history AS ended, lead(input) OVER history AS next_input,
           lead(status) OVER history AS next_status
    FROM steps
    WINDOW history AS (PARTITION BY saga_id ORDER BY nr)
)
SELECT saga_id, nr AS number, step,
       CASE
           WHEN back THEN CASE WHEN ended IS NULL THEN 'UNDOING' ELSE 'UNDONE' END
           WHEN ended IS NULL THEN 'PENDING'
           WHEN next_input IN ('deadline.passed', 'operator.cancelled', 'owner.cancelled') THEN 'UNANSWERED'
           WHEN next_status IN ('RUNNING', 'WAITING', 'COMPLETED') THEN 'DONE'
           ELSE 'REFUSED'
       END AS state,
       began, ended
FROM followed
WHERE NOT is_end;
