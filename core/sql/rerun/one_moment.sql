-- All statements of this transaction see the same; the first of it.
set transaction isolation level repeatable read
