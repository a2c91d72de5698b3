-- On a connection of its own, which is closed afterwards: whoever waits for the lock of a table queues every lane behind it.
set lock_timeout = '2s'
