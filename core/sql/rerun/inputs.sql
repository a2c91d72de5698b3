-- What frames were given, and how they failed: $1 shard, $2 run, $3 frames.
select f.frame, f.input::text as input, f.error::text as error
from longshore.frames f
where f.shard = $1 and f.run_id = $2 and f.frame = any ($3)
