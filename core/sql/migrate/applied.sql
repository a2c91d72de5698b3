-- The migrations that have been applied, oldest first.
select version, installed_on
from longshore._sqlx_migrations
where success
order by version
