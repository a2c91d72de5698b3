-- What people call a node: its id, or what the engine's own does.
create or replace function longshore.node_name(p_id text, p_node int)
returns text
language plpgsql immutable
set search_path = longshore, pg_temp
as $node_name$
begin
    return coalesce(p_id, (array['(clean-up)', '(child run)', '(time of a wait)', '(look for a signal)', '(signal)', '(timeout)', '(next)', '(opens iterations)',
        '(failed iterations)', '(end)', '(start)'])[p_node + 12], '(node ' || p_node || ')');
end
$node_name$;
