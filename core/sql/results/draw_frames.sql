-- 1024 numbers from this one on are the caller's.
select nextval('longshore.frame_seq')::int
