-- For this transaction: names are ours, hash tables may be large, and no time goes into compiling plans.
select set_config('search_path', 'longshore, pg_temp', true), set_config('work_mem', '64MB', true), set_config('jit', 'off', true)
