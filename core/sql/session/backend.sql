-- The server process behind a connection, as far as this statement can tell.
select pg_backend_pid()
