-- Hold a snapshot for as long as the session lasts: nothing that dies from here on can be vacuumed.
begin isolation level repeatable read;
select count(*) from longshore.queues;
