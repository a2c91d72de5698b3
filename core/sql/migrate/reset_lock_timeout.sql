-- What the migrator set for itself.
reset lock_timeout
