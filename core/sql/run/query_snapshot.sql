-- What a query reads in its transaction is of one moment.
set transaction isolation level repeatable read, read only
