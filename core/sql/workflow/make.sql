insert into longshore.workflows (name) values ($1) on conflict (name) do nothing
