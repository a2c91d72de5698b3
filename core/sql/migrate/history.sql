-- The migrator's own table, as it makes it: only in the printed script.
create table if not exists longshore._sqlx_migrations (
    version        bigint primary key,
    description    text not null,
    installed_on   timestamptz not null default now(),
    success        boolean not null,
    checksum       bytea not null,
    execution_time bigint not null
);
