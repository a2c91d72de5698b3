-- The process that serves this session, and whether it can be on this machine.
select pg_backend_pid(), coalesce(inet_server_addr() = inet_client_addr(), true)
