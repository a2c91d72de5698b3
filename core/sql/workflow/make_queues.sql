-- In order of name: two publishes that share queues do not deadlock.
insert into longshore.queues (name)
select name from unnest($1::text[]) name order by name
on conflict (name) do nothing
