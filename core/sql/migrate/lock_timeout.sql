-- After the migrators' own lock, which they wait for as long as it takes: whoever waits for the lock of a table queues every lane behind it.
set lock_timeout = '5s'
