-- Tell listening workers that these queues have work. A hint: who misses it sees the work at the next poll.
select pg_notify('longshore', queue) from unnest($1::text[]) queue
