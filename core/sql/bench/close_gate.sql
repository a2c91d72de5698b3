-- No worker can claim while this stands: its first claim waits here, connected, planned and measured from the moment the transaction ends.
lock table longshore.step_ready in access exclusive mode
