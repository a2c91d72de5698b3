-- For this transaction: names are ours, hash tables may be large, no time goes into compiling plans. Nested loops are off because a check
-- expects to find nothing, and so does the planner: it would loop over whole tables (measured: minutes for what hash joins do in seconds).
select set_config('search_path', 'longshore, pg_temp', true), set_config('work_mem', '64MB', true), set_config('jit', 'off', true),
    set_config('enable_nestloop', 'off', true)
