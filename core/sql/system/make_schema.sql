-- Where the bookkeeping of the system lane's migrations lives: in a schema of its own, since in "public" it would sit in the table
-- that an application's own migrations use.
create schema if not exists longshore_system
