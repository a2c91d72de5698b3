-- On the migrating connection only, which is closed afterwards: the migrator's own table then lives in our schema.
set search_path = longshore
