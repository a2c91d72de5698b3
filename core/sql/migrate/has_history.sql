select to_regclass('longshore._sqlx_migrations') is not null
