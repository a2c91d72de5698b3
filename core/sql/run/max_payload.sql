-- The same limit as in start_runs.
select coalesce(nullif(current_setting('longshore.max_payload_bytes', true), '')::bigint, 1048576)
