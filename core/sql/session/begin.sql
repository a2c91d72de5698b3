-- Begins the transaction of a statement that goes through a pooler. Whoever stops in the middle of it must not keep its locks, nor a server of the
-- pooler: a client whose answer is this late gave up already.
begin; set local idle_in_transaction_session_timeout = '10s'
