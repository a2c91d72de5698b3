-- One snapshot for several statements, and no way to change anything.
begin isolation level repeatable read, read only
