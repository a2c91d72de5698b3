-- Frames that are live again, or have completed after all: $1 shard, $2 run, $3 frames, $4 the attempt of its block that each stands for (null: none, or
-- that which it stood for), $5 whether it has completed, $6 with what (null: with what it has). An instance of a block begins when its attempt does: not before
-- what is before the block, which a new run has from now on.
update longshore.frames f
set state = case when t.completed then 3 else 1 end,
    output = case when t.completed then coalesce(t.output::jsonb, f.output) end,
    error = null,
    finished_at = case when t.completed then now() end,
    created_at = case when f.whole then now() else f.created_at end,
    attempt = coalesce(t.attempt, f.attempt),
    failed = case when f.whole then 0 else f.failed end
from unnest($3::int[], $4::int[], $5::boolean[], $6::text[]) t (frame, attempt, completed, output)
where f.shard = $1 and f.run_id = $2 and f.frame = t.frame
