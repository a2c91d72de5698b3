-- Make the queues that are not there yet. $1 names.
insert into longshore.queues (name) select distinct n from unnest($1::text[]) n (n) order by n
on conflict (name) do nothing
