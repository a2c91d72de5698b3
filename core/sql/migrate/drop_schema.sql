-- What is left once every migration is undone. Fails if someone keeps something else in the schema.
drop table if exists longshore._sqlx_migrations;
drop schema if exists longshore;
