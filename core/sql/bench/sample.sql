-- When, and how much WAL has been written since the cluster was made.
select clock_timestamp(), (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint
