-- Whatever the migrator holds, however it ended.
select pg_advisory_unlock_all()
